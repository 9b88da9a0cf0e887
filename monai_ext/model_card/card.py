"""The model card of a trained run: `docs/README.md` of its folder, with its pictures beside it.

The order of the parts follows the README template of the MONAI Model Zoo; what is in them follows

    Mitchell, M., et al. Model cards for model reporting. FAT* 2019

Every number comes from a file of the run, or is computed from such a file (spread over cases); what no file tells is
said to be missing.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import make_folder, replacing, write_text
from monai_ext.errors import InputError
from monai_ext.model_card.bundle_words import WORDS, BundleWords
from monai_ext.model_card.data_section import data_section
from monai_ext.model_card.limits import limits_section
from monai_ext.model_card.markdown import NOT_RECORDED, code, escaped, facts, number, section, table
from monai_ext.model_card.plan_section import plan_section, training_section
from monai_ext.model_card.run_files import RunFiles, read_run
from monai_ext.model_card.run_record import DOCS, add_to_record
from monai_ext.model_card.score_section import score_section

CARD = "README.md"
OTHER_CARD = "model_card.md"
MARK = "<!-- Generated from the files of this run. Delete this line to keep changes made by hand. -->"
NOT_STATED = "not stated"


def write_card(place: str | Path, given: dict[str, str] | None = None) -> Path:
    """Write the model card of a run.

    A `docs/README.md` that was not generated, or whose first line a person has deleted, is kept; the card is then
    `docs/model_card.md`.

    Args:
        place: output folder of a training, or its `model.pt`.
        given: what a person states: `authors`, `intended_use`, `data_licence`, `weights_licence`, `contact`. It is
            recorded, so that later cards of the run have it too; an empty text removes an entry.

    Returns:
        The file of the card.

    Raises:
        InputError: there is no trained model, or its files are damaged, see `run_files.read_run`; or the card cannot be
            written.
    """
    run = read_run(place)
    docs = run.folder / DOCS
    try:
        make_folder(docs)
        if given:
            stated = {**run.record.get("given", {}), **given}
            add_to_record(run.folder, "given", {name: text for name, text in stated.items() if text})
            run = read_run(place)
        pictures = _copied_pictures(run, docs)
        path = docs / CARD
        if path.exists() and not is_generated(path):
            path = docs / OTHER_CARD
        write_text(path, compose_card(run, pictures))
    except OSError as error:
        raise InputError(f"{docs}: cannot be written ({error}). Cure: make the folder of the run writable") from error
    return path


def is_generated(path: Path) -> bool:
    """Whether a file is a model card that nobody has taken over."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip() == MARK


def compose_card(run: RunFiles, pictures: dict[str, str]) -> str:
    """Text of the card.

    Args:
        run: what the training has left.
        pictures: file beside the card to the path in the run that it is a copy of.

    Raises:
        InputError: files of the run hold values of another kind than trainings and evaluations write.
    """
    try:
        return _compose(run, pictures)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run.folder}: its JSON files hold something that no training or evaluation writes ({error}). "
            "Cure: restore them, or evaluate again"
        ) from error


def _compose(run: RunFiles, pictures: dict[str, str]) -> str:
    words = WORDS[run.bundle]
    given = _texts(run.record.get("given", {}))
    dataset = escaped(run.plan.get("dataset", "")) or "a dataset without name"
    parts = [
        MARK,
        f"# {words.name}: {dataset}",
        f"{words.task}, trained on {dataset} with the bundle `{run.bundle}`.",
        section("Authors", escaped(given.get("authors", f"{NOT_STATED} (option --authors)"))),
        section("Model Description", words.description, _model(run)),
        section("Intended Use", escaped(given.get("intended_use", words.use))),
        data_section(run),
        plan_section(run),
        training_section(run),
        score_section(run),
        section("Figures", *_figures(words, pictures)),
        section("Usage", _usage(run)),
        section("System Configuration", _systems(run)),
        limits_section(run),
        section("Licence", _licences(run, given)),
        section("References", "\n".join(f"- {reference}" for reference in words.references)),
    ]
    return "\n\n".join(parts) + "\n"


def _model(run: RunFiles) -> str:
    return facts({"weights": f"model.pt, {run.model_bytes} bytes", "sha256 of the weights": run.model_sha256})


def _copied_pictures(run: RunFiles, docs: Path) -> dict[str, str]:
    """Copy the pictures of the run beside its card, so that the folder of the card can go elsewhere as it is."""
    copied = {}
    for picture in run.pictures:
        source = picture.relative_to(run.folder)
        name = "_".join(source.parts)
        with replacing(docs / name) as partial:
            shutil.copyfile(picture, partial)
        copied[name] = source.as_posix()
    return copied


def _figures(words: BundleWords, pictures: dict[str, str]) -> list[str]:
    if not pictures:
        return ["The run holds no pictures."]
    figures = []
    for name, source in pictures.items():
        caption = words.captions.get(source, f"`{source}` of the run.")
        title = caption.partition(",")[0].replace("`", "")
        figures += [f"![{title}]({name.replace(' ', '%20')})", caption]
    return figures


def _usage(run: RunFiles) -> str:
    config = f"bundles/{run.bundle}/configs"
    lines = [
        f"python -m monai.bundle run inference --config_file {config}/inference.json --ckpt_path RUN/model.pt "
        "--input FILE_OR_FOLDER --output_dir OUT",
        f"python -m monai.bundle run evaluating --config_file {_evaluating(run, config)} --dataset_dir DATASET "
        f"--output_dir RUN{_split_keys(run)}",
        "python -m monai_ext export RUN --format torchscript,onnx",
        "python -m monai_ext card RUN",
    ]
    return "RUN is the folder above this one.\n\n" + code(*lines)


def _evaluating(run: RunFiles, config: str) -> str:
    """Configs of an evaluation like the one that the card reports: `evaluate.json` averages over flips."""
    return f"\"['{config}/train.json','{config}/evaluate.json']\"" if run.summary.get("tta") else f"{config}/train.json"


def _split_keys(run: RunFiles) -> str:
    """Keys that choose the cases of the evaluation."""
    given = {name: run.summary.get(name) for name in ("fold", "fold_rule", "group_by", "part", "select")}
    return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given.items() if value not in (None, ""))


def _systems(run: RunFiles) -> str:
    steps: dict[str, dict[str, Any]] = {
        name: run.record[name] for name in ("training", "evaluation") if name in run.record
    }
    if not steps:
        return f"Versions and devices are {NOT_RECORDED} in this run."
    packages: list[str] = []
    for entry in steps.values():
        packages += [name for name in entry.get("versions", {}) if name not in packages]
    rows = [
        [escaped(name), *(escaped(entry.get("versions", {}).get(name) or "-") for entry in steps.values())]
        for name in packages
    ]
    for name in ("platform", "device"):
        rows.append([name, *(escaped(entry.get(name) or NOT_RECORDED) for entry in steps.values())])
    rows.append(["processes", *(number(entry.get("processes")) for entry in steps.values())])
    return table(["", *steps], rows)


def _licences(run: RunFiles, given: dict[str, str]) -> str:
    data = run.record.get("data", {})
    of_data = data.get("stated", {}).get("licence", "")
    files = [escaped(name) for name in data.get("licence_files", [])]
    if files and not of_data:
        of_data = f"see {', '.join(files)} in the folder of the dataset"
    nothing = f"{NOT_STATED} by the files of the dataset" if data else NOT_RECORDED
    return facts(
        {
            "code and configurations": "Apache License 2.0",
            "weights": given.get("weights_licence", f"{NOT_STATED} (option --weights_licence)"),
            "data": given.get("data_licence", of_data or f"{nothing} (option --data_licence)"),
            "contact": given.get("contact"),
        }
    )


def _texts(entries: Any) -> dict[str, str]:
    return {name: str(text) for name, text in entries.items()} if isinstance(entries, dict) else {}
