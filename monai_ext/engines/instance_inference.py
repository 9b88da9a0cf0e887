"""Images in which objects are looked for, and how their batches reach a detector.

`engine.state.output[CommonKeys.PRED]` is one `Detections` per image, with boxes in pixels of the files: the sizes of
the files go to the inferer (`TiledDetection`), which maps its boxes back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_ext.datasets.classification_dataset import ImageCase, picture_files
from monai_ext.datasets.file_names import image_ending, is_dicom
from monai_ext.datasets.image_index import inspect_images
from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.engines import process_group
from monai_ext.engines.instance_batch import collate_instances
from monai_ext.engines.instance_samples import WholeInstances
from monai_ext.engines.picture_samples import UnreadablePictureError
from monai_ext.engines.run_folder import existing
from monai_ext.engines.shared_completion import when_all_are_done
from monai_ext.errors import InputError, Problems
from monai_ext.inferers.enlarged_image import EnlargedImage
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.preprocessing.instance_image import network_size, normalise, read_plan_image, to_unit, unit_limits

logger = logging.getLogger(__name__)
TILES_ON_DEVICE = 4
LARGE = 2**26  # network pixels; 256 MB per channel
PADDING = -1  # index of an empty image, for a process that has none of its own
Prepared = tuple[torch.Tensor | EnlargedImage, None, tuple[Any, ...], dict[str, Any]]


def input_cases(path: str, skip_unreadable: bool = False) -> tuple[InstanceCase, ...]:
    """Pictures of a file or of a folder and its subfolders, sorted by name; every one is opened.

    Args:
        path: file or folder.
        skip_unreadable: leave out damaged pictures, with a warning that names them.

    Returns:
        Cases without objects; their `image_id` is their position, from 1 on.

    Raises:
        InputError: nothing there, no picture, or damaged ones and volumes, all of which are named.
    """
    root, images = process_group.together(lambda: _images_at(path))
    facts, damaged = inspect_images(images)
    for name, fact in facts.items():
        if len(fact.size) != 2:
            damaged[name] = f"has {len(fact.size)} dimensions, objects are found in pictures"

    def check() -> None:
        if damaged and (not skip_unreadable or len(damaged) == len(images)):
            problems = Problems(f"pictures in {root}")
            for name, reason in sorted(damaged.items()):
                problems.add(name, reason, "give a picture, or leave such files out with --skip_unreadable True")
            problems.raise_if_any()

    process_group.together(check)
    if damaged:
        logger.warning("%d pictures cannot be read and are left out: %s", len(damaged), ", ".join(sorted(damaged)))
    kept = [image for image in images if image.name not in damaged]
    sizes = [facts[image.name].size for image in kept]
    return tuple(
        InstanceCase(image.name, image.path, "", (size[0], size[1]), image_id=number)
        for number, (image, size) in enumerate(zip(kept, sizes, strict=True), 1)
    )


def _images_at(path: str) -> tuple[Path, list[ImageCase]]:
    root = existing(path, "input")
    if root.is_file() and not (image_ending(root) or is_dicom(root)):
        raise InputError(f"{root}: is no picture that can be read. Cure: PNG, JPEG, TIFF, BMP or DICOM")
    files = [root] if root.is_file() else list(picture_files(root))
    if not files:
        raise InputError(f"{root}: holds no picture. Cure: put in PNG, JPEG, TIFF, BMP or DICOM files")
    base = root.parent if root.is_file() else root
    return root, [ImageCase(file.relative_to(base).as_posix(), file, ()) for file in files]


def prepare_detection(plan: InstancePlan) -> Callable[..., Prepared]:
    """Function for the `prepare_batch` of MONAI's evaluator whose inferer is a `TiledDetection`.

    It takes what `collate_pictures` or `collate_instances` make of whole images, and gives the images, no label, and
    the sizes of images and files for the inferer. Images larger than four tiles stay on the processor: the inferer
    sends tiles.

    Args:
        plan: gives the size of a tile.
    """

    most = TILES_ON_DEVICE * plan.image_size[0] * plan.image_size[1]

    def prepared(
        batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
    ) -> Prepared:
        images, image_sizes = batch[CommonKeys.IMAGE], batch["image_sizes"]
        if device is not None and isinstance(images, torch.Tensor) and images.shape[2] * images.shape[3] <= most:
            images = images.to(device, non_blocking=non_blocking)
        return images, None, (image_sizes, batch["size"]), {}

    return prepared


class InferencePictures(WholeInstances):
    """As `WholeInstances`, but images of more than `large` network pixels are enlarged only when tiles are cut.

    A sample has one entry more, `problem`: why the image cannot be read, else "". Such an image is black, so that the
    others of its batch, and of other processes, are searched all the same; `CaseInOutput` tells of it in the end.
    The index `PADDING` gives a black image whose `case` is "".

    Args:
        cases: with names, paths and sizes.
        plan: of the model.
        large: network pixels; such an image is an `EnlargedImage` under `image`.
    """

    def __init__(self, cases: Sequence[InstanceCase], plan: InstancePlan, large: int = LARGE) -> None:
        super().__init__(cases, plan)
        self.pictures = tuple(cases)
        self.large = large

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == PADDING:
            return self._black("", "", self.plan.image_size, self.plan.image_size)
        case = self.pictures[index]
        try:
            return self._read(index) | {"problem": ""}
        except UnreadablePictureError as error:
            whole = case.size if is_large(case, self.plan, self.large) else network_size(case.size, self.plan)
            return self._black(case.name, str(case.path), case.size, whole) | {"problem": str(error)}

    def _black(self, name: str, path: str, size: Sequence[int], network: Sequence[int]) -> dict[str, Any]:
        image = torch.zeros((self.plan.channels, *network))
        return {CommonKeys.IMAGE: image, "size": tuple(size), "case": name, "path": path, "problem": ""}

    def _read(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        if not is_large(case, self.plan, self.large):
            return super().__getitem__(index)
        try:
            image = read_plan_image(case.path, self.plan)
        except InputError as error:
            raise UnreadablePictureError(str(error)) from error
        size = (int(image.shape[1]), int(image.shape[2]))
        before = partial(to_unit, limits=unit_limits(image, self.plan))
        enlarged = EnlargedImage(image, network_size(size, self.plan), before, partial(normalise, plan=self.plan))
        return {CommonKeys.IMAGE: enlarged, "size": size, "case": case.name, "path": str(case.path)}


def is_large(case: Any, plan: InstancePlan, large: int = LARGE) -> bool:
    """Whether an image is enlarged tile by tile: it has more network pixels than `large`, and not less than its file
    has."""
    height, width = network_size(case.size, plan)
    return height * width > large and plan.resize == "scale" and plan.scale >= 1


def equal_batches(
    cases: Sequence[InstanceCase],
    plan: InstancePlan,
    batch_size: int,
    rank: int | None = None,
    world_size: int | None = None,
) -> list[list[int]]:
    """Positions of cases in batches of one size each, for the `batch_sampler` of a `DataLoader`.

    Images of one size share a forward pass without padding. Those that are tiled are alone. Batches come in the order
    of their first image.

    Several processes share the batches of one, the largest first, each to the one that has least to do: what is found
    in an image does not depend on their number. One for which no batch is left gets the image `PADDING`.

    Args:
        cases: of all processes together.
        plan: of the model.
        batch_size: most images of a batch.
        rank, world_size: of this process; None asks the process group.

    Raises:
        InputError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"--val_batch_size {batch_size}: must be at least 1. Cure: 1")
    open_batches: dict[tuple[int, ...], list[int]] = {}
    batches: list[list[int]] = []
    for index, case in enumerate(cases):
        batch = open_batches.get(tuple(case.size), [])
        size = network_size(case.size, plan)
        is_tiled = plan.resize == "scale" and (size[0] > plan.image_size[0] or size[1] > plan.image_size[1])
        if not batch or len(batch) == batch_size or is_tiled:
            batch = []
            batches.append(batch)
            open_batches[tuple(case.size)] = batch
        batch.append(index)
    world_size = process_group.world_size() if world_size is None else world_size
    if world_size == 1:
        return batches
    work = [sum(_pixels(cases[index], plan) for index in batch) for batch in batches]
    own = _dealt(work, world_size)[process_group.rank() if rank is None else rank]
    return [batches[number] for number in own] or ([[PADDING]] if cases else [])


def _pixels(case: InstanceCase, plan: InstancePlan) -> int:
    height, width = network_size(case.size, plan)
    return height * width


def _dealt(work: Sequence[int], shares: int) -> list[list[int]]:
    """Positions of pieces of work in shares of about equal sums, ascending within each."""
    dealt: list[list[int]] = [[] for _ in range(shares)]
    sums = [0] * shares
    for piece in sorted(range(len(work)), key=lambda piece: -work[piece]):
        least = sums.index(min(sums))
        dealt[least].append(piece)
        sums[least] += work[piece]
    return [sorted(share) for share in dealt]


def collate_pictures(samples: Sequence[Mapping[str, Any]], divisor: int = 1) -> dict[str, Any]:
    """`collate_instances`, also of a single `EnlargedImage`.

    Raises:
        InputError: a large image is not alone in its batch.
    """
    if all(isinstance(sample[CommonKeys.IMAGE], torch.Tensor) for sample in samples):
        return collate_instances(samples, divisor)
    if len(samples) > 1:
        raise InputError("--val_batch_size: large images need a batch of their own. Cure: --val_batch_size 1")
    sample = samples[0]
    sizes = torch.tensor([sample[CommonKeys.IMAGE].shape[2:]])
    others = {key: [value] for key, value in sample.items() if key != CommonKeys.IMAGE}
    return {CommonKeys.IMAGE: sample[CommonKeys.IMAGE], "image_sizes": sizes, **others}


class CaseInOutput:
    """Puts `case` and `size` of a batch beside its detections, where metrics and handlers look for them.

    Their keys in `engine.state.output`: `case`, names `[B]`, "" for images that do not count (`PADDING`, and those that
    could not be read); `size`, (height, width) of each file.

    When all images are through, those that could not be read end the run with one error, whichever process they were
    given to. Handlers that come before this one in the list are done by then, those behind it are not begun.

    Raises:
        InputError: in the end, images that could not be read.
    """

    def __init__(self) -> None:
        self._problems: list[tuple[str, str]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)
        when_all_are_done(engine, self._tell)

    def __call__(self, engine: Any) -> None:
        batch, output = engine.state.batch, engine.state.output
        problems = batch.get("problem") or [""] * len(batch["case"])
        self._problems += [(name, text) for name, text in zip(batch["case"], problems, strict=True) if text]
        output["case"] = ["" if text else name for name, text in zip(batch["case"], problems, strict=True)]
        output["size"] = [(int(height), int(width)) for height, width in batch["size"]]

    def _clear(self, _: Any) -> None:
        self._problems = []

    def _tell(self) -> None:
        problems = sorted(problem for share in process_group.gather(self._problems) for problem in share)

        def tell() -> None:
            if problems:
                lines = "\n".join(f"  - {text}" for _, text in problems)
                raise InputError(f"{len(problems)} of the pictures cannot be read, all others are done:\n{lines}")

        process_group.together(tell)
