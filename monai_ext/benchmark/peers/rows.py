"""Every comparison: on what, against whom, and how many times faster ours is meant to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from monai_ext.benchmark.peers import (
    classifier_inference,
    classifier_training,
    detection_ops,
    mirrored_inference,
    sliding_window,
    training_step,
)
from monai_ext.benchmark.peers.work import NNUNET, Work

_PACKAGE = "monai_ext.benchmark.peers"


@dataclass(frozen=True)
class PeerRow:
    """One comparison.

    Attributes:
        name: of the row.
        work: kind of work, the file in this folder.
        arguments: of its `make`, at the size that is measured.
        tiny: of its `make`, for tests and for what is done before memory is measured.
        targets: smallest ratio of the peer's time to ours that counts as reached, by side.
        threads: of torch; 0 leaves the default.
        with_memory: whether peak memory is measured, in a fresh process per side.
        most_rounds: 0 for as many as asked for.
        once: peers that are too slow for rounds: one call in the process that measures memory gives both.
        on_device: whether `make` takes `device`.
        only_cuda: too heavy for a processor.
    """

    name: str
    work: str
    arguments: Mapping[str, Any]
    tiny: Mapping[str, Any]
    targets: Mapping[str, float]
    threads: int = 0
    with_memory: bool = False
    most_rounds: int = 0
    once: tuple[str, ...] = ()
    on_device: bool = field(default=False)
    only_cuda: bool = False

    @property
    def make(self) -> str:
        return f"{_PACKAGE}.{self.work}:make"

    def build(self, **changes: Any) -> Work:
        """The work, with `arguments` unless others are given."""
        make = import_module(f"{_PACKAGE}.{self.work}").make
        return make(**{**self.arguments, **changes})


_TINY_NETWORK = {"patch_size": [16, 16, 16], "features": [4, 8, 8]}  # DynUNet has three levels at least
_TINY_RESAMPLING = {"shape": [8, 24, 24]}
_ANISOTROPIC = {"shape": [120, 512, 512], "spacing": [5.0, 0.7, 0.7], "new_spacing": [2.5, 0.8, 0.8]}
_ISOTROPIC = {"shape": [120, 512, 512], "spacing": [1.0, 0.7, 0.7], "new_spacing": [0.8, 0.8, 0.8]}
# 2.0 and 20 ms where the peers took 19.8 and 27.0, 277 and 256 ms
_AUGMENTATION_64_TARGETS = {"MONAI": 9.9, NNUNET: 13.5}
_AUGMENTATION_128_TARGETS = {"MONAI": 13.9, NNUNET: 12.8}
_TRAINING_TARGETS = {training_step.EAGER: round(1 / 0.88, 3), training_step.COMPILED: round(1 / 0.95, 3)}
_SMALL_CLASSIFIER = {"edge": 32, "layers": [1, 1, 1, 1], "classes": 5}
_CLASSIFIER_TARGETS = {classifier_inference.MONAI: round(1 / 0.85, 3)}
# 3 ms where the peers took 504 and 9.0; 8 and 80 ms (with the gradient) where torchvision took 218 and 742
_NMS_TARGETS = {detection_ops.MONAI: 168.0, detection_ops.TORCHVISION: 3.0}
_ROI_ALIGN_TARGETS = {detection_ops.TORCHVISION: 27.2}
_ROI_ALIGN_GRADIENT_TARGETS = {detection_ops.TORCHVISION: 9.3}
_SMALL_MAP = {"op": "roi_align", "boxes": 5, "channels": 4, "size": [16, 20], "bins": 3}
_BLENDING_TARGETS = {sliding_window.MONAI: round(1 / 0.75, 3)}


def _resampling(name: str, labels: bool, spacings: Mapping[str, Any]) -> PeerRow:
    arguments, tiny = {"labels": labels, **spacings}, {"labels": labels, **spacings, **_TINY_RESAMPLING}
    return PeerRow(name, "resampling", arguments, tiny, {NNUNET: 15.0}, with_memory=True)


ROWS = (
    PeerRow("training_step_float32", "training_step", {}, _TINY_NETWORK, _TRAINING_TARGETS, on_device=True),
    PeerRow(
        "training_step_bfloat16",
        "training_step",
        {"bfloat16": True},
        {"bfloat16": True, **_TINY_NETWORK},
        _TRAINING_TARGETS,
        on_device=True,
    ),
    PeerRow(
        "augmentation_64",
        "augmentation",
        {"edge": 64, "samples": 100},
        {"edge": 16, "samples": 3},
        _AUGMENTATION_64_TARGETS,
        threads=1,
    ),
    PeerRow(
        "augmentation_128",
        "augmentation",
        {"edge": 128, "samples": 30},
        {"edge": 16, "samples": 3},
        _AUGMENTATION_128_TARGETS,
        threads=1,
    ),
    _resampling("resampling_anisotropic_image", False, _ANISOTROPIC),
    _resampling("resampling_anisotropic_labels", True, _ANISOTROPIC),
    _resampling("resampling_isotropic_image", False, _ISOTROPIC),
    _resampling("resampling_isotropic_labels", True, _ISOTROPIC),
    PeerRow(
        "prepare",
        "preparation",
        {},
        {"num_cases": 4, "dataset_dir": ""},
        {NNUNET: 3.0},
        with_memory=True,
        most_rounds=3,
    ),
    PeerRow(
        "sliding_window_3",
        "sliding_window",
        {"classes": 3},
        {"classes": 3, "edge": 24, "window": 16},
        _BLENDING_TARGETS,
        threads=2,
        with_memory=True,
        on_device=True,
    ),
    PeerRow(
        "sliding_window_20",
        "sliding_window",
        {"classes": 20, "labels": True},
        {"classes": 20, "labels": True, "edge": 24, "window": 16},
        _BLENDING_TARGETS,
        threads=2,
        with_memory=True,
        on_device=True,
    ),
    PeerRow(
        "export",
        "export",
        {},
        {"classes": 4, "shape": [8, 12, 12], "new_shape": [12, 20, 20]},
        {NNUNET: 20.0},
        with_memory=True,
        once=(NNUNET,),
    ),
    PeerRow(
        "mirrored_inference",
        "mirrored_inference",
        {"volumes": [list(shape) for shape in mirrored_inference.HIPPOCAMPUS]},
        {"volumes": [[18, 24, 14], [12, 16, 16]], **_TINY_NETWORK},
        {NNUNET: 1.5},
        with_memory=True,
        on_device=True,
    ),
    PeerRow(
        "classifier_inference_1",
        "classifier_inference",
        {"batch_size": 1},
        {"batch_size": 1, **_SMALL_CLASSIFIER},
        _CLASSIFIER_TARGETS,
        threads=2,
        with_memory=True,
        on_device=True,
    ),
    PeerRow(
        "classifier_inference_8",
        "classifier_inference",
        {"batch_size": 8},
        {"batch_size": 8, **_SMALL_CLASSIFIER},
        _CLASSIFIER_TARGETS,
        threads=2,
        with_memory=True,
        on_device=True,
    ),
    PeerRow(
        "classifier_training_8",
        "classifier_training",
        {"batch_size": 8},
        {"batch_size": 2, **_SMALL_CLASSIFIER},
        {classifier_training.MONAI: 1.0},
        threads=2,
        with_memory=True,
        on_device=True,
    ),
    PeerRow(
        "classifier_inference_256_bfloat16",
        "classifier_inference",
        {"batch_size": 256, "half": True},
        {"batch_size": 2, "half": True, **_SMALL_CLASSIFIER},
        {},
        on_device=True,
        only_cuda=True,
    ),
    PeerRow(
        "classifier_training_256_bfloat16",
        "classifier_training",
        {"batch_size": 256, "bfloat16": True},
        {"batch_size": 2, "bfloat16": True, **_SMALL_CLASSIFIER},
        {},
        on_device=True,
        only_cuda=True,
    ),
    PeerRow("nms_2000", "detection_ops", {}, {"boxes": 50}, _NMS_TARGETS, threads=2, on_device=True),
    PeerRow(
        "roi_align_512",
        "detection_ops",
        {"op": "roi_align", "boxes": 512},
        _SMALL_MAP,
        _ROI_ALIGN_TARGETS,
        threads=2,
        on_device=True,
    ),
    PeerRow(
        "roi_align_512_gradient",
        "detection_ops",
        {"op": "roi_align", "boxes": 512, "gradient": True},
        {**_SMALL_MAP, "gradient": True},
        _ROI_ALIGN_GRADIENT_TARGETS,
        threads=2,
        on_device=True,
    ),
)
