"""What the check of classification data refuses, leaves out, warns of and measures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.class_check import check_classification, sample
from monai_ext.datasets.class_open import open_classification
from monai_ext.errors import InputError
from picture_sets import write_folders, write_picture, write_table

WHOLE = {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2}


def test_a_good_dataset_has_counts_and_no_warning(tmp_path: Path) -> None:
    dataset = open_classification(write_folders(tmp_path, WHOLE))
    checked, report = check_classification(dataset)
    assert checked == dataset
    assert report.counts == {"train": (3, 3), "val": (2, 2)}
    assert report.kinds == {"RGB 8-bit": 10}
    assert (report.channels, report.spatial_dims, report.value_range) == (3, 2, (0.0, 255.0))
    assert report.median_size == report.smallest == report.largest == (20, 24)
    assert report.warnings == report.skipped == report.duplicates == ()
    text = report.describe()
    for part in ("10 images, 2 classes", "train: a 3, b 3", "files: 10 RGB 8-bit\n", "median 20x24", "(6 images)"):
        assert part in text


def test_mean_and_deviation_are_those_of_training_pictures(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"train/a": 2, "train/b": 0, "val/a": 1, "val/b": 1})
    write_picture(root / "train" / "b" / "grey.png", 77, size=(30, 40), mode="L")
    _, report = check_classification(open_classification(root))
    pictures = [np.asarray(Image.open(path).convert("RGB")) / 255 for path in sorted(root.glob("train/*/*.png"))]
    # images count alike, whatever their size
    mean = np.mean([p.mean((0, 1)) for p in pictures], axis=0)
    std = np.sqrt(np.mean([np.square(p).mean((0, 1)) for p in pictures], axis=0) - mean**2)
    found_mean, found_std = report.mean_std(3)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found_std, std, rtol=1e-5)
    luma = [p @ (0.299, 0.587, 0.114) for p in pictures]
    np.testing.assert_allclose(report.mean_std(1)[0], np.mean([p.mean() for p in luma]), rtol=1e-5)
    with pytest.raises(InputError, match=r"--channels 2: images of .* give 1, 3"):
        report.mean_std(2)


def test_every_unreadable_image_is_named_or_left_out(tmp_path: Path) -> None:
    root = write_folders(tmp_path, WHOLE)
    whole = (root / "train" / "a" / "0.png").read_bytes()
    (root / "train" / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "b" / "1.png").write_bytes(b"")
    (root / "val" / "a" / "1.png").write_text("<html>not found</html>")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(root / "x.jpg")
    cut = root / "val" / "b" / "cut.jpg"
    shutil.move(root / "x.jpg", cut)
    cut.write_bytes(cut.read_bytes()[:-700])
    dataset = open_classification(root)
    with pytest.raises(InputError) as caught:
        check_classification(dataset)
    text = str(caught.value)
    assert "4 problems" in text
    for part in (
        "train/a/0.png: cannot be read, the file is damaged or incomplete",
        "train/b/1.png: is empty (0 bytes)",
        "val/a/1.png: is no picture, or its header is damaged",
        "val/b/cut.jpg: cannot be read, the file is damaged or incomplete (image file is truncated",
        "--skip_unreadable True leaves such images out",
    ):
        assert part in text, text
    checked, report = check_classification(dataset, skip_unreadable=True)
    assert report.skipped == ("train/a/0.png", "train/b/1.png", "val/a/1.png", "val/b/cut.jpg")
    assert len(checked.cases) == len(dataset.cases) - 4
    assert "left out, cannot be read: 4 images: train/a/0.png, " in report.describe()
    assert report.counts == {"train": (2, 2), "val": (1, 2)}


def test_a_file_that_goes_away_is_a_problem_too(tmp_path: Path) -> None:
    dataset = open_classification(write_folders(tmp_path, WHOLE))
    (tmp_path / "val" / "a" / "0.png").unlink()
    with pytest.raises(InputError, match=r"val/a/0.png: cannot be opened"):
        check_classification(dataset)


def test_classes_without_training_images_are_refused_together(tmp_path: Path) -> None:
    write_folders(tmp_path, WHOLE | {"val/only_val": 2, "train/empty": 0, "train/no_val": 2, "train/single": 1})
    dataset = open_classification(tmp_path)
    with pytest.raises(InputError) as caught:
        check_classification(dataset)
    text = str(caught.value)
    assert "2 problems" in text
    assert "class 'empty': has no image" in text
    assert "class 'only_val': has no training image, but 2 in val" in text
    # a fold drawn from both parts can train it; an evaluation needs no training image
    shutil.rmtree(tmp_path / "train" / "empty")
    dataset = open_classification(tmp_path)
    _, report = check_classification(dataset, pooled=True)
    assert report.warnings == ("class 'single' has 1 training image",)
    check_classification(dataset, training=False)
    shutil.rmtree(tmp_path / "val" / "only_val")
    _, report = check_classification(open_classification(tmp_path))
    assert report.warnings == (
        "class 'no_val' has no validation image: it is trained, but has no score",
        "class 'single' has no validation image: it is trained, but has no score",
        "class 'single' has 1 training image",
    )


def test_a_class_that_only_unreadable_images_have_is_refused(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"a": 2, "b": 1})
    (root / "b" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match="class 'b': has no image"):
        check_classification(open_classification(root), skip_unreadable=True)
    for path in root.glob("a/*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="images: none can be read"):
        check_classification(open_classification(root), skip_unreadable=True)


def test_copies_across_parts_and_classes_are_named(tmp_path: Path) -> None:
    root = write_folders(tmp_path, WHOLE)
    shutil.copy(root / "train" / "a" / "0.png", root / "val" / "a" / "copy.png")
    Image.open(root / "train" / "a" / "1.png").save(root / "train" / "b" / "copy.bmp")  # another file, the same pixels
    shutil.copy(root / "train" / "b" / "0.png", root / "train" / "b" / "copy.png")
    _, report = check_classification(open_classification(root))
    assert report.warnings == (
        "leak: 1 images are in more than one part: train/a/0.png = val/a/copy.png",
        "1 images have copies with other labels: train/a/1.png (a) = train/b/copy.bmp (b)",
        "1 images have copies in the same part and class: train/b/0.png = train/b/copy.png",
    )
    assert ("train/a/0.png", "val/a/copy.png") in report.duplicates
    assert len(report.duplicates) == 3


def test_kinds_are_counted_and_mixed_kinds_stated(tmp_path: Path) -> None:
    for index, mode in enumerate(("L", "RGB", "RGBA", "P", "LA", "1", "I;16")):
        for part in ("train", "val"):
            path = tmp_path / part / "ab"[index % 2] / f"{index}.png"
            if mode == "1":
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.open(write_picture(path, 50, mode="L")).convert("1").save(path)
            else:
                write_picture(path, index + 10 * len(part), mode=mode)
    _, report = check_classification(open_classification(tmp_path))
    assert report.kinds == {
        "grey 8-bit": 2,
        "RGBA 8-bit": 2,
        "grey 8-bit with alpha": 2,
        "grey 16-bit": 2,
        "RGB 8-bit": 2,
        "palette": 2,
        "black and white": 2,
    }
    assert (report.channels, report.value_range) == (3, (0.0, 255.0))
    assert "2 images have 16 bits, 12 have 8: values from 0 to 65535 become 0 to 255" in report.warnings
    assert "all become RGB" in report.describe()
    assert all(0.2 < value < 0.8 for value in report.mean_std(3)[0])


def test_grey_pictures_of_16_bits_set_the_range(tmp_path: Path) -> None:
    for index, part in enumerate(("a/0.png", "a/1.png", "b/0.png", "b/1.png")):
        write_picture(tmp_path / part, index, mode="I;16")
    _, report = check_classification(open_classification(tmp_path))
    assert (report.kinds, report.channels) == ({"grey 16-bit": 4}, 1)
    low, high = report.value_range
    assert 0 <= low < 2000
    assert 63000 < high <= 65535
    mean, std = report.mean_std(1)
    assert mean[0] == pytest.approx(0.5, abs=0.05)
    assert std[0] == pytest.approx(1 / 12**0.5, abs=0.03), "noise is uniform"


def test_rgb_that_is_grey_and_small_pictures_are_noted(tmp_path: Path) -> None:
    for index, name in enumerate(("a/0.png", "a/1.png", "b/0.png")):
        path = write_picture(tmp_path / name, index, size=(12 if index else 40, 40), mode="L")
        Image.open(path).convert("RGB").save(path)
    _, report = check_classification(open_classification(tmp_path), crop=(30, 30))
    assert report.warnings == (
        "class 'b' has 1 training image",
        "2 images are smaller than 16 pixels: a/1.png, b/0.png",
        "2 of 3 images are smaller than the network's input 30x30 and are enlarged",
        "all 3 sampled RGB images are grey: --channels 1 is enough",
    )
    assert (report.smallest, report.largest) == ((12, 40), (40, 40))


def test_volumes(tmp_path: Path) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    for index, name in enumerate(("a/0", "a/1", "b/0", "b/1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        volume = rng.normal(40 + index, 10, (18, 20, 22)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")
    dataset, report = check_classification(open_classification(tmp_path))
    assert (report.spatial_dims, report.channels, report.kinds) == (3, 1, {"NIfTI volume": 4})
    assert report.median_size == (22, 20, 18)
    assert report.value_range == pytest.approx((41.5 - 25.8, 41.5 + 25.8), abs=1), "percentiles 0.5 and 99.5"
    assert report.mean_std(1)[0][0] == pytest.approx(0.5, abs=0.02)
    write_picture(tmp_path / "b" / "slice.png")
    with pytest.raises(InputError, match=r"1 images: are 2D, others are not: b/slice.png"):
        check_classification(open_classification(tmp_path))
    (tmp_path / "b" / "slice.png").unlink()
    path = dataset.cases[0].path
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"a/0.nii.gz: cannot be read, the file is damaged or incomplete"):
        check_classification(dataset)


def test_multi_label_table(tmp_path: Path) -> None:
    files = [f"{i}.png" for i in range(6)]
    text = "file,label,split\n0.png,a;b,train\n1.png,,train\n2.png,b,train\n3.png,a,train\n4.png,a,val\n5.png,b,val\n"
    dataset, report = check_classification(open_classification(write_table(tmp_path / "labels.csv", text, files)))
    assert dataset.multi_label
    assert report.counts == {"train": (2, 2), "val": (1, 1)}


def test_the_sample_is_of_training_pictures_and_always_the_same(tmp_path: Path) -> None:
    dataset = open_classification(write_folders(tmp_path, WHOLE))
    assert sample(dataset) == {case.name for case in dataset.part("train")}
    few = sample(dataset, count=3)
    assert len(few) == 3
    assert few == sample(dataset, count=3)
    assert few < sample(dataset)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "counts"), [("bccd_cells", ((150, 300, 150), (50, 50, 50))), ("mednist", ((300,) * 6, (100,) * 6))]
)
def test_real_sets_are_whole_and_without_leak(
    data_folder: Path, name: str, counts: tuple[tuple[int, ...], ...]
) -> None:
    folder = data_folder / "classification" / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    _, report = check_classification(open_classification(folder))
    assert tuple(report.counts.values()) == counts
    assert not report.warnings
    assert report.duplicates == ()
