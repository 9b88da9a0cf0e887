"""One augmented training sample in one thread."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.resampling import drawn_image
from monai_ext.benchmark.peers.work import NNUNET, OURS, Work
from monai_ext.errors import InputError

MONAI = "MONAI"
CASE_EDGES = 1.8  # of the patch
WARMUP = 10  # calls; batchgeneratorsv2 tries two convolutions at the first sight of a kernel size
BUNDLE = Path(__file__).parents[3] / "bundles" / "nnunet" / "configs"


def make(only: str = "", edge: int = 64, samples: int = 100) -> Work:
    """The chain of nnU-Net v2: rotation, scaling, noise, blur, brightness, contrast, low resolution, gamma, mirroring.

    Ours is the chain of the bundle's `train.json` (with mirroring), from the memory-mapped case: it cuts the patch
    itself, which is in its time. The peers get an enlarged crop of the same case, as nnU-Net's loader cuts it; cutting
    and copying it is outside of the clock. MONAI's chain has the same parameters as far as it knows them: rotation and
    scaling are one transform with the chance of either, its scale is drawn per axis, chances per channel are
    multiplied in, and labels are nearest.

    Args:
        only: side to build; empty builds all.
        edge: of the patch in voxels.
        samples: per round; their mean is the round's time, since most samples are cheap and a few are not.
    """
    patch = (edge,) * 3
    shape = (math.ceil(CASE_EDGES * edge),) * 3
    image = drawn_image(shape)
    label = np.digitize(drawn_image(shape, noise=0.0), (0.5, 1.0)).astype(np.uint8)
    work = Work(only)

    def ours() -> Task:
        dataset, folder = _bundle_dataset(image, label, patch)
        numbers = count()

        def prepare() -> tuple[Any, ...]:
            number = next(numbers)
            return ((number, 0, number % 2),)

        # the folder goes when the task does
        return Task(lambda index: (dataset[index], folder)[0], prepare, samples, WARMUP)

    def monai() -> Task:
        chain = _monai_chain(patch)
        enlarged = _enlarged(image, label, _enlarged_edges(patch))
        return Task(lambda sample: chain(sample), _copies(enlarged, "image", "label"), samples, WARMUP)

    def nnunet() -> Task:
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        turn = (-math.pi / 6, math.pi / 6)
        chain = nnUNetTrainer.get_training_transforms(patch, turn, None, (0, 1, 2), False, [False])
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - what batchgeneratorsv2 draws from
        enlarged = _enlarged(image, label, _enlarged_edges(patch))
        return Task(lambda sample: chain(**sample), _copies(enlarged, "image", "segmentation"), samples, WARMUP)

    work.add(OURS, ours)
    work.add(MONAI, monai)
    work.add(NNUNET, nnunet)
    work.always = f"mean of {samples} samples a round"
    return work


def _bundle_dataset(image: np.ndarray, label: np.ndarray, patch: Sequence[int]) -> tuple[Any, Any]:
    """The bundle's own samples from one stored case, and the temporary folder that holds it."""
    from monai.bundle import ConfigParser

    from monai_ext.datasets.geometry import Geometry
    from monai_ext.engines.stored_patches import PatchDataset
    from monai_ext.planning.plan import Plan
    from monai_ext.preprocessing.case_preprocessing import Placement
    from monai_ext.preprocessing.case_store import CaseStore, write_case
    from monai_ext.preprocessing.foreground_locations import find_locations

    if not (BUNDLE / "train.json").is_file():
        raise InputError(f"{BUNDLE / 'train.json'}: not found. Cure: run the benchmark from a checkout of the project")
    plan = Plan.load(BUNDLE / "default_plan.json")
    plan = plan.with_changes("benchmark", patch_size=tuple(patch), mirror_axes=(0, 1, 2), batch_size=2)
    parser = ConfigParser(json.loads((BUNDLE / "train.json").read_text(encoding="utf-8")))
    parser["mirror"] = 0.5
    parser["prepared"] = SimpleNamespace(plan=plan)
    parser["nvol"] = 0
    chain = parser.get_parsed_content("train#preprocessing")
    folder = tempfile.TemporaryDirectory()
    geometry = Geometry.from_affine(np.eye(4), image.shape[::-1])
    placement = Placement(image.shape, tuple((0, n) for n in image.shape), image.shape)
    description = {"preprocessing_hash": "", "geometry": geometry.to_dict(), "placement": placement.to_dict()}
    locations = find_locations(label, [1, 2], "case")
    write_case(Path(folder.name), "case", image[None], label, locations, {**description, "raw_files": []})
    return PatchDataset(CaseStore(folder.name), ["case"], chain, seed=0), folder


def _monai_chain(patch: Sequence[int]) -> Callable[..., Any]:
    from monai.transforms import (
        Compose,
        RandAdjustContrastd,
        RandAffined,
        RandFlipd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandScaleIntensityFixedMeand,
        RandSimulateLowResolutiond,
    )

    both = ("image", "label")
    sigma = (0.5, 1.0)
    chain = Compose(
        [
            RandAffined(
                both,
                spatial_size=patch,
                prob=1 - 0.8**2,
                rotate_range=(math.pi / 6,) * 3,
                scale_range=((-0.3, 0.4),) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=0.1, std=0.1),
            RandGaussianSmoothd("image", sigma, sigma, sigma, prob=0.1),
            RandScaleIntensityd("image", factors=(-0.25, 0.25), prob=0.15),
            RandScaleIntensityFixedMeand("image", factors=(-0.25, 0.25), preserve_range=True, prob=0.15),
            RandSimulateLowResolutiond("image", prob=0.125, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd("image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
        ]
    )
    return chain.set_random_state(seed=0)


def _enlarged_edges(patch: Sequence[int]) -> list[int]:
    """What a patch turned by 30 degrees about every axis and scaled by 1 / 0.85 may cover (nnU-Net v2)."""
    turn = math.cos(math.pi / 6) + math.sin(math.pi / 6)
    return [math.ceil(min(turn, math.sqrt(2)) * edge / 0.85) for edge in patch]


def _enlarged(image: np.ndarray, label: np.ndarray, edges: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    starts = [(n - edge) // 2 for n, edge in zip(image.shape, edges, strict=True)]
    box = tuple(slice(max(start, 0), start + edge) for start, edge in zip(starts, edges, strict=True))
    return torch.from_numpy(image[box].copy())[None], torch.from_numpy(label[box].astype(np.int16))[None]


def _copies(sample: tuple[torch.Tensor, torch.Tensor], *names: str) -> Callable[[], tuple[dict[str, torch.Tensor]]]:
    return lambda: ({name: value.clone() for name, value in zip(names, sample, strict=True)},)
