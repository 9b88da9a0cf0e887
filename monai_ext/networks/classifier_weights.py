"""Weights of a classifier from a file of another library, every tensor accounted for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.networks.classifier_architecture import Architecture, architecture_of
from monai_ext.networks.stem_channels import stem_for_channels
from monai_ext.networks.weight_files import read_weights
from monai_ext.networks.weight_names import LEGACY, MONAI, WeightSource, network_name, source_of
from monai_ext.planning.class_plan import ARCHITECTURES, ClassPlan

STEM = "layer0.conv1.weight"
HEAD = ("last_linear.weight", "last_linear.bias")
COUNTER = ".num_batches_tracked"  # files older than PyTorch 0.4.1 have none, and nothing is computed from it
NO_WEIGHTS = re.compile(
    r"^n_averaged$|\.(input|output)_range\."
)  # count of averaged models, ranges of quantised training
SPARE_CLASSES = 1001
LEAST_SHARE = 0.5  # of the network's values; below, a file that is not taken strictly is another network's


@dataclass(frozen=True)
class WeightReport:
    """What became of every tensor of a file and of a network; names of the network unless said otherwise.

    Attributes:
        path: of the file.
        source: library whose names the file has.
        place: keys under which the state dict was found in the file (`state_dict_ema`); empty at the top.
        architecture: of the file, in words.
        loaded: tensors that were filled.
        skipped: tensors of the file that the network has no place for, under the file's names.
        mismatched: tensors of both whose shapes differ, as `name (file [..], network [..])`.
        missing: tensors of the network that the file lacks; the counters of batch norms are not counted.
        replaced_head: the classifying layer keeps its initial values.
        adapted_stem: what was done to the first convolution for the network's channels; empty: nothing.
        dropped_class: the file had 1001 outputs, the spare last one is left out.
        other_pool: stem pool that the file was trained with, where the network has another.
    """

    path: str
    source: str
    place: str
    architecture: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    replaced_head: bool = False
    adapted_stem: str = ""
    dropped_class: bool = False
    other_pool: str = ""

    def describe(self) -> str:
        """Text for the log."""
        place = f", from its {self.place}" if self.place else ""
        lines = [f"weights of {self.path}{place}: {self.architecture} ({self.source} names)"]
        counts = {"skipped": self.skipped, "of another shape": self.mismatched, "missing": self.missing}
        others = "".join(f", {len(names)} {what} ({_first(names)})" for what, names in counts.items() if names)
        lines.append(f"{len(self.loaded)} tensors loaded{others}")
        if self.replaced_head:
            lines.append("the classifying layer is new")
        if self.dropped_class:
            lines.append(f"the last of {SPARE_CLASSES} outputs, which no label has, is left out")
        if self.adapted_stem:
            lines.append(f"first convolution: {self.adapted_stem}")
        if self.other_pool:
            lines.append(f"trained with --stem_pool {self.other_pool}, which this network does not have")
        return "\n".join(lines)


def load_classifier_weights(
    network: nn.Module, path: str | Path, strict: bool = True, new_head: bool = False
) -> WeightReport:
    """Fill a classifier from a weight file of timm, Cadene, torchvision, NVIDIA, MONAI or this package, in place.

    Nothing is left out silently. Fitted are: the classifying layer, which stays as it is where the file has other
    classes (of 1001 outputs, as TensorFlow's recipes have, the last is spare and dropped for 1000); the first
    convolution, see `stem_for_channels`; gates written as 1x1 convolutions.

    Args:
        network: with the names of `SeResNeXt`; unchanged if an error is raised.
        path: see `read_weights`.
        strict: every other tensor must fit. Without it what fits is taken and the rest reported.
        new_head: leave the classifying layer as it is even if the class counts agree by chance.

    Raises:
        InputError: the file cannot be read, is not of a residual classifier, or does not fit: the message names both
            architectures and says how many tensors are missing, without a place or of another shape, with the first
            names. With and without `strict`: values that are not finite, or less than half of the network's values
            would be loaded.
    """
    path = Path(path)
    found, source, place = _recognised(path)
    state = {network_name(name): tensor for name, tensor in found.items()}
    theirs = {network_name(name): name for name in found}
    if len(state) < len(found):
        twice = sorted(set(found) - set(theirs.values()))
        raise InputError(f"{path}: {_first(twice)} are there under two names. Cure: a file of one library")
    wanted = network.state_dict()
    file_arch, own_arch = architecture_of(state), architecture_of(wanted)

    own_pool = _stem_pool(network)
    report: dict[str, Any] = {
        "other_pool": source.stem_pool if source is not MONAI and own_pool not in ("", source.stem_pool) else ""
    }
    replaced = _fit_head(state, wanted, new_head, report)
    if STEM in state and STEM in wanted and _but_channels(state[STEM]) == _but_channels(wanted[STEM]):
        state[STEM], report["adapted_stem"] = stem_for_channels(state[STEM], wanted[STEM].shape[1])
    filled: dict[str, torch.Tensor] = {}
    mismatched, skipped = [], []
    for name, tensor in state.items():
        if name not in wanted:
            skipped.append(name)
        elif (fitted := _reshaped(name, tensor, wanted[name])) is None:
            mismatched.append(f"{name} (file {list(tensor.shape)}, network {list(wanted[name].shape)})")
        else:
            filled[name] = fitted
    missing = [n for n in wanted if n not in state and n not in replaced and not n.endswith(COUNTER)]
    faults: dict[str, list[str]] = {}
    if strict:
        faults = {
            "of the network are not in the file": missing,
            # a network without classifying layer takes none
            "of the file have no place": [theirs[n] for n in skipped if n not in HEAD and not NO_WEIGHTS.search(n)],
            "have another shape": mismatched,
        }
        if source is LEGACY and own_arch is not None and own_arch.groups == 1:
            faults["need their stride, which is not in the 3x3 convolution"] = ["layer2.0.conv1.weight"]
    faults["of the file hold values that are not finite"] = [theirs[name] for name in filled if _spoilt(filled[name])]
    _refuse(path, source, file_arch, own_arch, faults)
    share = _values(filled) / max(1, _values(wanted))
    if share < LEAST_SHARE:
        raise InputError(
            f"{path}: only {share:.0%} of the network's values are in the file ({_words(file_arch)}; the network is "
            f"{_words(own_arch)}). Cure: {_cure(file_arch, own_arch)}"
        )
    network.load_state_dict({**wanted, **filled})
    return WeightReport(
        path=str(path), source=source.name, place=place, architecture=_words(file_arch), loaded=tuple(filled),
        skipped=tuple(theirs[name] for name in skipped), mismatched=tuple(mismatched), missing=tuple(missing),
        replaced_head=bool(replaced), **report,
    )  # fmt: skip


def plan_options_of_weights(path: str | Path) -> dict[str, Any]:
    """Fields of `ClassPlan` without which a network fits the file's tensors but computes something else.

    `stem_pool` and `se_hidden`: `pad1` for timm, torchvision and NVIDIA; `ceil` for Cadene's and MONAI's; 16 hidden
    units in every gate for NVIDIA's. Beside a model of this package its `plan.json` decides, and gives `mean` and `std`
    too.

    Raises:
        InputError: see `load_classifier_weights`.
    """
    found, source, _ = _recognised(Path(path))
    architecture = architecture_of({network_name(name): tensor for name, tensor in found.items()})
    options: dict[str, Any] = {
        "stem_pool": source.stem_pool,
        "se_hidden": 0 if architecture is None else architecture.se_hidden,
    }
    if source is MONAI and (beside := Path(path).with_name("plan.json")).is_file():
        plan = ClassPlan.load(beside)
        options |= {"stem_pool": plan.stem_pool, "mean": plan.mean, "std": plan.std}
    return options


def _recognised(path: Path) -> tuple[dict[str, torch.Tensor], WeightSource, str]:
    found, place = read_weights(path)
    source = source_of(found)
    if source is None:
        raise InputError(
            f"{path}: is no residual classifier of timm, Cadene, torchvision, NVIDIA or MONAI; it holds {len(found)} "
            f"tensors ({_first(list(found))}). Cure: a state dict of one of these"
        )
    return found, source, place


def _fit_head(
    state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], new_head: bool, report: dict[str, Any]
) -> set[str]:
    """Make the classifying layer in `state` fit; return the names that the network keeps as they are."""
    own, given = wanted.get(HEAD[0]), state.get(HEAD[0])
    if own is None:
        return set()
    if given is not None and not new_head and len(given) == len(own):
        return set()
    if given is not None and not new_head and len(given) == SPARE_CLASSES == len(own) + 1:
        for name in HEAD:
            if name in state:
                state[name] = state[name][:-1]
        report["dropped_class"] = True
        return set()
    for name in HEAD:
        state.pop(name, None)
    return {name for name in HEAD if name in wanted}


def _reshaped(name: str, tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """The tensor in the network's shape, or None; gates and classifying layers may be 1x1 convolutions or linear."""
    if tensor.shape == own.shape:
        return tensor
    either = name in HEAD or ".se_layer.fc." in name
    return tensor.reshape(own.shape) if either and _bare(tensor) == _bare(own) else None


def _bare(tensor: torch.Tensor) -> list[int]:
    """Shape without the ones of a 1x1 kernel."""
    return [*tensor.shape[:2], *(n for n in tensor.shape[2:] if n != 1)]


def _but_channels(weight: torch.Tensor) -> list[int]:
    return [weight.shape[0], *weight.shape[2:]]


def _spoilt(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return False
    return not bool(torch.isfinite(tensor if tensor.itemsize > 1 else tensor.float()).all())


def _values(state: dict[str, torch.Tensor]) -> int:
    """How many numbers there are, the classifying layer apart."""
    return sum(tensor.numel() for name, tensor in state.items() if name not in HEAD)


def _stem_pool(network: nn.Module) -> str:
    """Name of the network's stem pool as in `ClassPlan`; empty if it is not known."""
    pool = getattr(getattr(network, "layer0", None), "pool", None)
    if isinstance(pool, nn.Identity):
        return "none"
    if not isinstance(pool, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        return ""
    return "ceil" if pool.ceil_mode else "pad1"


def _refuse(
    path: Path,
    source: WeightSource,
    file_arch: Architecture | None,
    own_arch: Architecture | None,
    faults: dict[str, list[str]],
) -> None:
    listed = [f"  - {len(names)} tensors {rule}: {_first(names)}" for rule, names in faults.items() if names]
    if listed:
        lines = "\n".join(listed)
        raise InputError(
            f"{path}: file is {_words(file_arch)}, of {source.name}; the network is {_words(own_arch)}:\n{lines}\n"
            f"Cure: {_cure(file_arch, own_arch)}"
        )


def _words(architecture: Architecture | None) -> str:
    if architecture is None:
        return "no residual network of four stages with one convolution as its stem"
    return architecture.describe()


def _cure(file_arch: Architecture | None, own_arch: Architecture | None) -> str:
    """The key that makes a network like the file's, where there is one."""
    own = "a file of the network's own architecture"
    if file_arch is None or not file_arch.bottleneck or file_arch.shortcuts > 1:
        return own
    if own_arch is not None and file_arch.body() == own_arch.body():
        if file_arch.spatial_dims != own_arch.spatial_dims:
            return f"a file of a {own_arch.spatial_dims}D network; weights of {file_arch.spatial_dims}D do not fit"
        return own
    for name, fields in ARCHITECTURES.items():
        if any(getattr(file_arch, key) != value for key, value in fields.items() if key != "se_ratio"):
            continue
        if file_arch.se_hidden and fields["se_ratio"]:
            return f"--arch {name} --se_hidden {file_arch.se_hidden}, or {own}"
        if not file_arch.se_hidden and file_arch.se_ratio == fields["se_ratio"]:
            return f"--arch {name}, or {own}"
    return own


def _first(names: Sequence[str], count: int = 3) -> str:
    names = sorted(names, key=lambda name: COUNTER in name)  # what they count for says more
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
