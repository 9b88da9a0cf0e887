"""Fingerprints of small datasets on disk."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError
from monai_ext.planning.fingerprint import Fingerprint, compute_fingerprint, foreground_slices
from monai_ext.preprocessing.crop import foreground_box


def save(path: Path, array_zyx: np.ndarray, spacing_zyx: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Path:
    affine = np.diag([*spacing_zyx[::-1], 1.0])
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array_zyx.T), affine), path)
    return path


def dataset_of(
    root: Path, cases: list[Case], channels: tuple[str, ...] = ("MR",), **more: object
) -> SegmentationDataset:
    labels = {"background": 0, "left": 1, "right": 2}
    return SegmentationDataset("small", root, channels, labels, tuple(cases), **more)  # type: ignore[arg-type]


@pytest.fixture
def two_channels(tmp_path: Path) -> SegmentationDataset:
    """Six cases of different sizes; an empty rim of 2 voxels around what both channels show."""
    rng = np.random.default_rng(3)
    cases = []
    for i in range(6):
        shape = (12 + i, 14, 16)
        inner = tuple(slice(2, n - 2) for n in shape)
        images = []
        for channel in range(2):
            image = np.zeros(shape, dtype=np.float32)
            image[inner] = rng.normal(100 * (channel + 1), 10, size=image[inner].shape)
            images.append(save(tmp_path / f"{i}_{channel}.nii.gz", image, (2.0, 1.0, 0.5)))
        label = np.zeros(shape, dtype=np.uint8)
        label[inner] = rng.integers(0, 3, size=label[inner].shape)
        cases.append(Case(f"{i}", tuple(images), save(tmp_path / f"{i}_label.nii.gz", label, (2.0, 1.0, 0.5))))
    return dataset_of(tmp_path, cases, ("A", "B"))


def test_sizes_spacings_and_counts(two_channels: SegmentationDataset) -> None:
    fingerprint = compute_fingerprint(two_channels)
    assert [c.name for c in fingerprint.cases] == [str(i) for i in range(6)]
    for i, case in enumerate(fingerprint.cases):
        assert case.shape == (12 + i, 14, 16)
        assert case.cropped_shape == (8 + i, 10, 12)
        assert case.spacing == (2.0, 1.0, 0.5)
        assert sum(case.class_voxels) == (12 + i) * 14 * 16
        assert len(case.class_voxels) == 3
    kept = [(8 + i) * 10 * 12 / ((12 + i) * 14 * 16) for i in range(6)]
    assert fingerprint.median_relative_size == pytest.approx(np.median(kept))
    whole = compute_fingerprint(two_channels, crop="none")
    assert whole.median_relative_size == 1.0
    assert whole.intensity == fingerprint.intensity  # all foreground lies inside the crop


def test_intensities_per_channel(two_channels: SegmentationDataset) -> None:
    first, second = compute_fingerprint(two_channels).intensity
    # about 1000 foreground voxels a case of N(100, 10) and N(200, 10): standard error 0.13 of mean, 1 of tails
    assert first.mean == pytest.approx(100, abs=0.7)
    assert second.mean == pytest.approx(200, abs=0.7)
    assert first.std == pytest.approx(10, abs=0.5)
    assert first.percentile_00_5 == pytest.approx(100 - 25.8, abs=4)
    assert second.percentile_99_5 == pytest.approx(200 + 25.8, abs=4)
    assert first.minimum < first.percentile_00_5 < first.median < first.percentile_99_5 < first.maximum


def test_known_percentiles_over_foreground_only(tmp_path: Path) -> None:
    image = np.arange(1, 2001, dtype=np.float32).reshape(10, 10, 20)
    label = (image > 1000).astype(np.uint8)
    case = Case("ramp", (save(tmp_path / "i.nii.gz", image),), save(tmp_path / "l.nii.gz", label))
    (found,) = compute_fingerprint(dataset_of(tmp_path, [case])).intensity
    assert (found.minimum, found.maximum) == (1001, 2000)
    assert found.mean == found.median == 1500.5
    # 0.5 % of 1000 values is between the fifth and the sixth
    assert found.percentile_00_5 == pytest.approx(1005.5, abs=1e-3)
    assert found.percentile_99_5 == pytest.approx(1995.5, abs=1e-3)


def test_ignored_voxels_are_no_foreground(tmp_path: Path) -> None:
    image = np.ones((8, 8, 8), dtype=np.float32)
    image[4:] = 50
    label = np.ones((8, 8, 8), dtype=np.uint8)
    label[4:] = 3
    case = Case("a", (save(tmp_path / "i.nii.gz", image),), save(tmp_path / "l.nii.gz", label))
    fingerprint = compute_fingerprint(dataset_of(tmp_path, [case], ignore_label=3))
    assert fingerprint.intensity[0].maximum == 1
    assert fingerprint.cases[0].class_voxels == (0, 256, 0, 256)


def test_same_result_for_any_number_of_workers(two_channels: SegmentationDataset) -> None:
    assert compute_fingerprint(two_channels, num_workers=2) == compute_fingerprint(two_channels)


def test_order_of_the_cases_does_not_matter(two_channels: SegmentationDataset) -> None:
    turned = dataset_of(two_channels.root, list(two_channels.training[::-1]), two_channels.channels)
    one, other = compute_fingerprint(two_channels), compute_fingerprint(turned)
    assert one.cases == other.cases[::-1]
    for a, b in zip(one.intensity, other.intensity, strict=True):
        # sums of float64 in another order
        assert (a.mean, a.std) == pytest.approx((b.mean, b.std), rel=1e-12)
        assert (a.percentile_00_5, a.percentile_99_5) == pytest.approx((b.percentile_00_5, b.percentile_99_5), rel=1e-9)


def test_json_round_trip_through_a_file(two_channels: SegmentationDataset, tmp_path: Path) -> None:
    fingerprint = compute_fingerprint(two_channels)
    path = tmp_path / "fingerprint.json"
    path.write_text(fingerprint.to_json())
    assert Fingerprint.load(path) == fingerprint


@pytest.mark.parametrize("text", ["{", "{}", '{"dataset": 3}'])
def test_broken_fingerprints_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fingerprint.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"fingerprint.json.*Cure"):
        Fingerprint.load(path)
    with pytest.raises(InputError, match="not found"):
        Fingerprint.load(tmp_path / "absent.json")


def test_all_broken_cases_are_listed_at_once(tmp_path: Path) -> None:
    image = np.ones((8, 8, 8), dtype=np.float32)
    label = np.ones((8, 8, 8), dtype=np.uint8)
    good_image, good_label = save(tmp_path / "i.nii.gz", image), save(tmp_path / "l.nii.gz", label)
    holed = image.copy()
    holed[0, 0, 0] = np.nan
    cases = [
        Case("good", (good_image,), good_label),
        Case("bare", (good_image,)),
        Case("absent", (tmp_path / "absent.nii.gz",), good_label),
        Case("nan", (save(tmp_path / "nan.nii.gz", holed),), good_label),
        Case("size", (good_image,), save(tmp_path / "size.nii.gz", label[:7])),
        Case("value", (good_image,), save(tmp_path / "value.nii.gz", label * 7)),
        Case("channels", (good_image, good_image), good_label),
    ]
    with pytest.raises(InputError) as caught:
        compute_fingerprint(dataset_of(tmp_path, cases))
    text = str(caught.value)
    assert "6 problems" in text
    for part in ("bare", "absent.nii.gz", "nan", "size.nii.gz", "value.nii.gz", "channels"):
        assert part in text


def test_no_foreground_and_no_cases(tmp_path: Path) -> None:
    image = save(tmp_path / "i.nii.gz", np.ones((8, 8, 8), dtype=np.float32))
    label = save(tmp_path / "l.nii.gz", np.zeros((8, 8, 8), dtype=np.uint8))
    with pytest.raises(InputError, match="foreground"):
        compute_fingerprint(dataset_of(tmp_path, [Case("a", (image,), label)]))
    with pytest.raises(InputError, match="no training cases"):
        compute_fingerprint(dataset_of(tmp_path, []))
    with pytest.raises(InputError, match="nonzero, positive, none"):
        compute_fingerprint(dataset_of(tmp_path, [Case("a", (image,), label)]), crop="tight")


@pytest.mark.parametrize(
    ("rule", "box"),
    [("nonzero", ((1, 5), (2, 6), (3, 7))), ("positive", ((1, 3), (2, 3), (3, 4))), ("none", ((0, 8), (0, 8), (0, 8)))],
)
def test_boxes_of_the_crop_rules(rule: str, box: tuple[tuple[int, int], ...]) -> None:
    image = np.zeros((2, 8, 8, 8), dtype=np.float32)
    image[0, 1, 2, 3] = image[1, 2, 2, 3] = 1
    image[1, 4, 5, 6] = -1
    assert tuple((s.start, s.stop) for s in foreground_slices(image, rule)) == box
    assert foreground_slices(np.zeros((1, 3, 4, 5)), rule) == (slice(0, 3), slice(0, 4), slice(0, 5))


@pytest.mark.parametrize("rule", ["nonzero", "positive", "none"])
@pytest.mark.parametrize("density", [0.0, 0.002, 0.1])
def test_boxes_are_those_of_preprocessing(rule: str, density: float) -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        shape = (2, *rng.integers(1, 12, size=3))
        image = (rng.normal(size=shape) * (rng.random(shape) < density)).astype(np.float32)
        found = tuple((s.start, s.stop) for s in foreground_slices(image, rule))
        assert found == tuple(tuple(edge) for edge in foreground_box(image, rule))
