"""Keys of a bundle: what each means, which values it takes, and a refusal of keys that nothing reads.

MONAI merges any key that a person types, so a misspelt `max_epoch` changes nothing and says nothing. The first item of
a config's `initialize` list calls `check_config`, which holds the merged config against the bundle's own file.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, Literal

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from monai_ext.engines.key_contradictions import DEFAULTS, check_contradictions
from monai_ext.engines.person_errors import print_input_errors_only
from monai_ext.engines.stop_signals import listen
from monai_ext.engines.workflow import config_files, running_workflow
from monai_ext.errors import InputError, Problems

FINAL_STEPS = "finalize"  # MONAI runs them after any run id, if a config has them
CLIENT_RUN = "run_name"  # MonaiAlgo names the runs of its client with it, whether a config reads it or not
REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*)")
KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "list": (list, tuple),
}


class KeySpec(BaseModel):
    """One key of `keys.json`."""

    model_config = ConfigDict(extra="forbid")

    about: str
    kind: list[Literal["bool", "int", "float", "str", "list", "any"]]
    minimum: float | None = None
    maximum: float | None = None
    choices: list[str | int | float | bool] | None = None

    def mismatch(self, value: Any) -> str | None:
        """Say what is wrong with a value, None if nothing is."""
        if self.choices is not None and value in self.choices:
            return None
        if "any" not in self.kind:
            fits = any(isinstance(value, KINDS[k]) and (k == "bool" or not isinstance(value, bool)) for k in self.kind)
            if not fits:
                quoted = f" (typed as \"'{value}'\" it is one)" if self.kind == ["str"] else ""
                return f"is {value!r}, must be {' or '.join(self.kind)}{quoted}"
        if (
            "any" not in self.kind
            and isinstance(value, list | tuple)
            and not all(isinstance(v, int | float) for v in value)
        ):
            return f"is {value!r}, must be a list of numbers"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.minimum is not None and value < self.minimum:
                return f"is {value}, must be at least {self.minimum:g}"
            if self.maximum is not None and value > self.maximum:
                return f"is {value}, must be at most {self.maximum:g}"
        elif self.choices is not None and isinstance(value, str):
            return f"is {value!r}, must be one of {self.choices}"
        return None


def load_key_specs(path: Path) -> dict[str, KeySpec]:
    """Read `keys.json` of a bundle.

    Raises:
        InputError: the file is not a valid table of keys.
    """
    try:
        return TypeAdapter(dict[str, KeySpec]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: not a table of keys ({error}). Cure: restore the bundle's file") from error


def _references(content: Any) -> set[str]:
    """First part of every id that a string of the config refers to."""
    if isinstance(content, dict):
        return set().union(*(_references(v) for v in content.values())) if content else set()
    if isinstance(content, list):
        return set().union(*(_references(v) for v in content)) if content else set()
    return set(REFERENCE.findall(content)) if isinstance(content, str) else set()


def unknown_keys(config: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Keys of the merged config that the base file lacks and nothing refers to; nested sections included."""
    referred = _references(config)
    allowed = {*base, *referred, ConfigParser.meta_key, FINAL_STEPS, CLIENT_RUN}
    unknown = [k for k in config if k not in allowed]
    for section, content in base.items():
        merged = config.get(section)
        if isinstance(content, dict) and isinstance(merged, dict) and "_target_" not in content:
            unknown += [f"{section}#{k}" for k in merged if k not in content and k not in ("_desc_",)]
    return unknown


def _same_expression(merged: str, own: Any) -> bool:
    """Whether an expression is the bundle's own; MONAI writes `train#samples` as `train::samples` when it merges."""
    return isinstance(own, str) and merged == ReferenceResolver.normalize_id(own)


def nearest_names(name: str, known: list[str]) -> list[str]:
    """Up to three known names that resemble `name`, best first."""
    return difflib.get_close_matches(name, known, n=3, cutoff=0.5)


def check_config(base_file: str) -> None:
    """Refuse unknown keys and values of the wrong type or range, all problems at once.

    Args:
        base_file: name of the complete config file (`train.json`) in the running bundle's `configs` folder.

    Raises:
        InputError: lists every unknown key with the nearest names and every bad value.
    """
    print_input_errors_only()
    listen()
    workflow = running_workflow()
    if workflow is None:
        return
    folder = Path(workflow.config_root_path)
    base = json.loads((folder / base_file).read_text(encoding="utf-8"))
    specs = load_key_specs(folder / "keys.json")
    config = workflow.parser.get()
    missing = [key for key in base if key not in config]
    if missing:
        given = [file.name for file in config_files()]
        raise InputError(
            f"{', '.join(given)}: changes {base_file} and does not run without it ({', '.join(missing[:3])}, ... are "
            f'missing). Cure: give both, --config_file "{[str(folder / n) for n in (base_file, *given)]}"'
        )
    problems = Problems(f"keys of {base_file}")
    of_overlays = set(config) & set(specs)
    known = sorted(of_overlays | set(base) | {f"{s}#{k}" for s, c in base.items() if isinstance(c, dict) for k in c})
    for name in unknown_keys(config, base):
        near = nearest_names(name, [k for k in known if k in specs] + known)
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else "run id `describe` lists every key"
        problems.add(f"--{name}", "is no key of this config and nothing refers to it", hint)
    for name, spec in specs.items():
        if name not in config:
            continue
        raw = config[name]
        if isinstance(raw, str) and raw.startswith("$") and _same_expression(raw, base.get(name)):
            continue  # the bundle's own expression; evaluating it here could start work
        wrong = spec.mismatch(workflow.parser.get_parsed_content(name))
        if wrong:
            problems.add(f"--{name}", wrong, spec.about)
    problems.raise_if_any()
    options = {name: workflow.parser.get_parsed_content(name) for name in DEFAULTS if name in config}
    # a network whose norm cannot be chosen has batch norms
    check_contradictions({"norm": "batch", **options})


def describe_keys(base_file: str) -> str:
    """Table of every key with its default and one line of meaning, in the order of the config file."""
    workflow = running_workflow()
    if workflow is None:
        raise InputError("describe: no running bundle. Cure: use `python -m monai.bundle run describe`")
    folder = Path(workflow.config_root_path)
    base = json.loads((folder / base_file).read_text(encoding="utf-8"))
    specs = load_key_specs(folder / "keys.json")
    # keys that an overlay brings come last
    defaults = base | {n: v for n, v in workflow.parser.get().items() if n not in base}
    rows = [(n, json.dumps(v), specs[n]) for n, v in defaults.items() if n in specs]
    width = max(len(n) for n, _, _ in rows)
    lines = []
    for name, default, spec in rows:
        choices = ", ".join(str(choice) for choice in spec.choices or ())
        number = "A number or " if choices and {"int", "float"} & set(spec.kind) else "One of "
        allowed = f" {number}{choices}." if choices else ""
        lines.append(f"--{name:<{width}}  {spec.about}{allowed} Default: {default}")
    return "\n".join(lines)
