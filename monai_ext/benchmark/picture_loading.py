"""Pictures per second and core: decoding, cropping, augmenting, collating; against Pillow with MONAI's transforms."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from monai_ext.benchmark.interleaved import Interleaved
from monai_ext.benchmark.measurement_rows import (
    append_rows,
    circumstances,
    format_table,
    installed_versions,
    measured_device,
    milliseconds,
)
from monai_ext.errors import InputError

OURS, NORMALISED, MONAI, PILLOW = "ours", "ours, normalised", "Pillow + MONAI", "Pillow alone"
TARGETS = {MONAI: 3.0}
PICTURE_SIZE = (375, 500)  # the median of ImageNet
MADE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
COLUMNS = (
    "work",
    "side",
    "images_per_second",
    "min_ms",
    "median_ms",
    "max_ms",
    "n",
    "ratio",
    "target_ratio",
    "reached",
    "pictures",
    "image_size",
    "device",
    "threads",
    "versions",
    "commit",
    "date",
)
SHOWN = COLUMNS[:11]


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    labels: tuple[int, ...] = (0,)


def run_picture_benchmark(
    folder: str = "", image_size: int = 224, batch_size: int = 32, rounds: int = 7, results: str = ""
) -> list[dict[str, Any]]:
    """Measure both chains of training and both of evaluation on one core, print and append the rows.

    Args:
        folder: with pictures, searched through; empty makes JPEGs of 500 x 375 pixels.
        image_size: edge of the network's input, in pixels.
        batch_size: pictures per batch; a timing is one batch.
        rounds: timings per side, in turns.
        results: CSV file; empty for none.

    Returns:
        Rows with `COLUMNS`; times are per picture. `ratio` is a peer's time over ours, above 1 where ours is faster.

    Raises:
        InputError: an option is impossible, the folder holds no picture, or the file has other columns.
    """
    for name, value in (("image_size", image_size), ("batch_size", batch_size), ("rounds", rounds)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"benchmark pictures: --{name} {value} is no whole number from 1 on. Cure: leave it out")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as made:
            files = _pictures_in(Path(folder)) if folder else make_jpegs(Path(made))
            rows: list[dict[str, Any]] = []
            for work, chains in (("training", training_chains), ("evaluation", evaluation_chains)):
                timing = _time(chains(files, image_size), files, batch_size, rounds)
                rows += _rows(work, timing, batch_size)
            pictures = _describe(files, bool(folder))
    finally:
        torch.set_num_threads(threads)
    about = {"pictures": pictures, "image_size": image_size, "threads": 1}
    about |= {"device": measured_device("cpu"), "versions": installed_versions(("torch", "monai", "pillow"))}
    rows = [{name: (row | about | circumstances())[name] for name in COLUMNS} for row in rows]
    print(format_table(rows, SHOWN, 2))
    if results:
        append_rows(Path(results), rows, COLUMNS)
    return rows


def make_jpegs(folder: Path, count: int = MADE, size: Sequence[int] = PICTURE_SIZE, seed: int = 0) -> list[Path]:
    """Write JPEGs of quality 90 that decode at the speed of photographs: structure of all scales, and grain.

    Args:
        folder: existing.
        count: of pictures.
        size: (height, width) in pixels.
        seed: of what they show.
    """
    from PIL import Image

    random, paths = np.random.default_rng(seed), []
    height, width = size
    for number in range(count):
        picture = np.zeros((height, width, 3), np.float32)
        for octave in range(2, 8):
            small = random.normal(size=(2**octave * 3 // 4, 2**octave, 3)).astype(np.float32)
            for band in range(3):
                grown = Image.fromarray(small[..., band]).resize((width, height), Image.Resampling.BICUBIC)
                picture[..., band] += np.asarray(grown) * 45 / 1.5 ** (octave - 2)
        picture += 120 + random.normal(size=picture.shape) * 3
        paths.append(folder / f"{number:03d}.jpg")
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def training_chains(files: Sequence[Path], image_size: int) -> dict[str, Callable[[Sequence[int]], Any]]:
    """Ways to make a training batch of the files with these numbers: a random crop, resized, mirrored, normalised.

    `ours` ends in bytes, as a training has it: the device normalises.
    """
    from monai.data import list_data_collate
    from monai.transforms import Compose, NormalizeIntensityd, RandFlipd, RandSpatialCropd, Resized
    from torch.utils.data import default_collate

    from monai_ext.engines.picture_normalisation import PictureNormalisation
    from monai_ext.engines.picture_samples import PictureSamples
    from monai_ext.transforms.flips import RandMirrord
    from monai_ext.transforms.random_resized_crop import RandResizedCropd

    size, plan = (image_size, image_size), _plan(image_size)
    own = Compose([RandResizedCropd("image", size), RandMirrord("image", (-1,))])
    samples = PictureSamples([_File(path.name, path) for path in files], plan, own)
    normalise = PictureNormalisation(plan)
    height, width = _shape(files[0])
    least = (round(width * 0.08**0.5), round(height * 0.08**0.5))  # 8 % of the area
    theirs = Compose(
        [
            *_loading(),
            RandSpatialCropd("image", least, random_size=True),
            Resized("image", size, mode="bilinear"),
            RandFlipd("image", 0.5, 0),  # MONAI's arrays of pictures are [C, W, H]
            NormalizeIntensityd("image", _of_bytes(MEAN), _of_bytes(STD), channel_wise=True),
        ]
    )

    def ours(numbers: Sequence[int]) -> dict[str, Any]:
        return default_collate([samples[number, number, 0] for number in numbers])

    def monai(numbers: Sequence[int]) -> Any:
        return list_data_collate([theirs({"image": str(files[number]), "label": 0}) for number in numbers])

    random = np.random.default_rng(0)

    def pillow(numbers: Sequence[int]) -> Any:
        return default_collate([_pillow_sample(files[number], size, random) for number in numbers])

    return {OURS: ours, NORMALISED: lambda n: normalise(ours(n)["image"]), MONAI: monai, PILLOW: pillow}


def evaluation_chains(files: Sequence[Path], image_size: int) -> dict[str, Callable[[Sequence[int]], Any]]:
    """Ways to make a batch for evaluation: the shorter side resized to `image_size / 0.875`, the centre cut out."""
    from monai.data import list_data_collate
    from monai.transforms import CenterSpatialCropd, Compose, NormalizeIntensityd, Resized
    from torch.utils.data import default_collate

    from monai_ext.engines.picture_normalisation import PictureNormalisation
    from monai_ext.engines.picture_samples import WholePictures

    size, plan = (image_size, image_size), _plan(image_size)
    samples = WholePictures([_File(path.name, path) for path in files], plan)
    normalise = PictureNormalisation(plan)
    height, width = _shape(files[0])
    scale = plan.resize_size / min(height, width)
    theirs = Compose(
        [
            *_loading(),
            # of the first picture's shape: MONAI resizes to given sizes, or by the longer side
            Resized("image", (round(width * scale), round(height * scale)), mode="bilinear"),
            CenterSpatialCropd("image", size),
            NormalizeIntensityd("image", _of_bytes(MEAN), _of_bytes(STD), channel_wise=True),
        ]
    )

    def ours(numbers: Sequence[int]) -> dict[str, Any]:
        return default_collate([samples[number] for number in numbers])

    def monai(numbers: Sequence[int]) -> Any:
        return list_data_collate([theirs({"image": str(files[number]), "label": 0}) for number in numbers])

    return {OURS: ours, NORMALISED: lambda n: normalise(ours(n)["image"]), MONAI: monai}


def _loading() -> list[Any]:
    from monai.data import PILReader
    from monai.transforms import EnsureChannelFirstd, LoadImaged

    # colours as they are, without a copy; grey files of a given folder would otherwise not collate
    reader = PILReader(converter=lambda picture: picture if picture.mode == "RGB" else picture.convert("RGB"))
    return [LoadImaged("image", reader), EnsureChannelFirstd("image")]  # type: ignore[arg-type]


def _pillow_sample(path: Path, size: tuple[int, int], random: np.random.Generator) -> torch.Tensor:
    """The crop and its mirror image as one writes them by hand; normalised in float32."""
    from PIL import Image

    from monai_ext.transforms.random_resized_crop import draw_box

    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    seeded = np.random.RandomState(int(random.integers(2**31)))
    top, left, bottom, right = draw_box(seeded, (picture.height, picture.width), size)
    picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)
    return values.sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])


def _time(
    chains: dict[str, Callable[[Sequence[int]], Any]], files: Sequence[Path], batch_size: int, rounds: int
) -> Interleaved:
    """Seconds of the processor, so that what else runs on the machine counts less; a round's pictures are the same."""
    seconds: dict[str, list[float]] = {side: [] for side in chains}
    for turn in range(-1, rounds):  # the first is not counted: imports, pages of the files, memory
        numbers = [((turn + 1) * batch_size + place) % len(files) for place in range(batch_size)]
        for side in list(chains)[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            chains[side](numbers)
            if turn >= 0:
                seconds[side].append(time.process_time() - start)
    return Interleaved({side: tuple(values) for side, values in seconds.items()})


def _rows(work: str, timing: Interleaved, batch_size: int) -> list[dict[str, Any]]:
    rows = []
    for side in timing.seconds:
        least, middle, most = (seconds / batch_size for seconds in timing.spread(side))
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        row |= {"work": work, "side": side, "images_per_second": f"{1 / middle:.0f}", "n": len(timing.seconds[side])}
        row |= {"min_ms": milliseconds(least), "median_ms": milliseconds(middle), "max_ms": milliseconds(most)}
        if side not in (OURS, NORMALISED):
            ratio = timing.ratio(side, OURS)
            row["ratio"] = f"{ratio:.3g}"
            if side in TARGETS:
                row |= {"target_ratio": TARGETS[side], "reached": "yes" if ratio >= TARGETS[side] else "no"}
        rows.append(row)
    return rows


def _plan(image_size: int) -> Any:
    from monai_ext.planning.class_plan import ClassPlan, architecture

    arch = "se-resnext101-32x4d"
    size = (image_size, image_size)
    return ClassPlan("benchmark", ("a", "b"), False, 2, 3, size, MEAN, STD, arch, **architecture(arch))


def _pictures_in(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS) if folder.is_dir() else []
    if not files:
        raise InputError(f"benchmark pictures: --folder {folder} holds no picture. Cure: a folder of JPEG or PNG files")
    # all classes, where there are folders of them
    return files[:: max(1, len(files) // 512)]


def _describe(files: Sequence[Path], given: bool) -> str:
    height, width = _shape(files[0])
    kind = files[0].suffix[1:].lower().replace("jpeg", "jpg")
    return f"{kind} {width}x{height}" if not given else f"{len(files)} of a folder, first {kind} {width}x{height}"


def _shape(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.height, picture.width


def _of_bytes(values: Sequence[float]) -> np.ndarray:
    return np.array(values) * 255
