"""Pictures read lazily: what comes out, for every kind of file, against Pillow's own decoding."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from monai_ext.datasets.file_picture import FilePicture
from monai_ext.datasets.picture import LUMA, Picture, open_picture
from monai_ext.errors import InputError


def smooth(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """`[H, W, C]` uint8 that survives JPEG and a resampling: no detail finer than ten pixels."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (height // 20 + 2, width // 20 + 2, channels), dtype=np.uint8)
    bands = [Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)]
    return np.stack([np.asarray(band) for band in bands], -1)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def whole(picture: Picture) -> np.ndarray:
    """All of it at its own size, `[C, H, W]`."""
    return picture.crop_resized((*[0] * len(picture.size), *picture.size), picture.size).numpy()


def test_png_is_given_as_it_is_stored(tmp_path: Path) -> None:
    array = smooth(40, 60)
    picture = open_picture(save(tmp_path / "a.png", array), 3)
    assert isinstance(picture, Picture)
    assert (picture.size, picture.channels, picture.full_range) == ((40, 60), 3, (0, 255))
    image = picture.crop_resized((5, 10, 25, 50), (20, 40))
    assert image.dtype == torch.uint8
    assert np.array_equal(image.numpy(), array[5:25, 10:50].transpose(2, 0, 1))
    # a second box of the same picture: decoded anew, not at the state the first one left
    assert np.array_equal(picture.crop_resized((0, 0, 8, 8), (8, 8)).numpy(), array[:8, :8].transpose(2, 0, 1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_that_of_pillow(tmp_path: Path, interpolation: str) -> None:
    array = smooth(90, 130)
    picture = open_picture(save(tmp_path / "a.png", array), 3)
    image = picture.crop_resized((10, 20, 80, 120), (32, 48), interpolation).numpy()
    method = Image.Resampling[interpolation.upper()]
    wanted = Image.fromarray(array[10:80, 20:120]).resize((48, 32), method)
    # both round to 8 bits between the axes, each with weights of its own precision
    assert np.abs(image.astype(int) - np.asarray(wanted).transpose(2, 0, 1)).max() <= 2


@pytest.mark.parametrize(("divisor", "size"), [(1, 130), (2, 90), (4, 50), (8, 24)])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_at_a_fraction_looks_like_the_whole(tmp_path: Path, divisor: int, size: int, channels: int) -> None:
    array = smooth(211, 307)
    path = save(tmp_path / "a.jpg", array, quality=95)
    picture = open_picture(path, channels)
    assert isinstance(picture, FilePicture)
    box = (3, 50, 203, 250)
    with Image.open(path) as opened:
        assert picture._reduce(opened, (200, 200), (size, size)) == divisor
        assert opened.size[0] == -(-307 // divisor)  # Pillow follows
    image = picture.crop_resized(box, (size, size)).float()
    plain = Image.open(path).convert("L" if channels == 1 else "RGB").crop((50, 3, 250, 203))
    wanted = np.asarray(plain.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    wanted = wanted[None] if channels == 1 else wanted.transpose(2, 0, 1)
    error = np.abs(image.numpy() - wanted)
    # without a fraction only rounding is left; with one the cosine transform's own filter comes before Pillow's
    assert error.mean() < {1: 0.1, 2: 1.5, 4: 2, 8: 4}[divisor]
    assert error.max() <= {1: 3, 2: 8, 4: 12, 8: 20}[divisor]


def test_a_fraction_is_never_smaller_than_the_result(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", smooth(200, 300), quality=90)
    with Image.open(path) as opened:
        assert FilePicture(path, 3)._reduce(opened, (200, 90), (50, 50)) == 1  # one edge needs all of it
    with Image.open(path) as opened:
        assert FilePicture(path, 3)._reduce(opened, (200, 199), (50, 50)) == 2


def test_grey_and_colour_become_each_other(tmp_path: Path) -> None:
    grey, colour = smooth(30, 40, 1)[..., 0], smooth(30, 40)
    grey_path, colour_path = save(tmp_path / "g.png", grey), save(tmp_path / "c.png", colour)
    assert np.array_equal(whole(open_picture(grey_path, 3)), np.stack([grey] * 3))
    luma = colour.astype(float) @ np.array(LUMA)
    assert np.abs(whole(open_picture(colour_path, 1))[0] - luma).max() <= 1  # rounding
    jpeg = save(tmp_path / "c.jpg", colour, quality=95)
    # grey out of a JPEG is its luma channel, not computed from decoded colours
    decoded = np.asarray(Image.open(jpeg).convert("RGB")).astype(float) @ np.array(LUMA)
    assert np.abs(whole(open_picture(jpeg, 1))[0] - decoded).mean() < 1


def test_transparent_pixels_lie_over_black(tmp_path: Path) -> None:
    array = np.concatenate([smooth(20, 20), np.full((20, 20, 1), 255, np.uint8)], -1)
    opaque = save(tmp_path / "opaque.png", array)
    assert np.array_equal(whole(open_picture(opaque, 3)), array[..., :3].transpose(2, 0, 1))
    array[5:10, :, 3] = 0
    array[10:, :, 3] = 128
    path = save(tmp_path / "a.png", array)
    over = array[..., :3] * (array[..., 3:] / 255)
    assert np.abs(whole(open_picture(path, 3)) - over.transpose(2, 0, 1)).max() <= 1
    assert np.abs(whole(open_picture(path, 1))[0] - over @ np.array(LUMA)).max() <= 1.5
    assert np.array_equal(whole(open_picture(path, 4)), array.transpose(2, 0, 1))
    grey = save(tmp_path / "la.png", array[..., [0, 3]])
    assert (whole(open_picture(grey, 1))[0, 5:10] == 0).all()


def test_palettes_bits_and_print_colours(tmp_path: Path) -> None:
    colour = smooth(30, 40)
    palette = Image.fromarray(colour).quantize(32)
    palette.save(tmp_path / "p.png")
    wanted = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(whole(open_picture(tmp_path / "p.png", 3)), wanted)
    luma = np.tensordot(np.array(LUMA), wanted, 1)
    assert np.abs(whole(open_picture(tmp_path / "p.png", 1))[0] - luma).max() <= 1
    bits = Image.fromarray(colour[..., 0] > 100)
    bits.save(tmp_path / "b.png")
    assert set(np.unique(whole(open_picture(tmp_path / "b.png", 1)))) == {0, 255}
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(whole(open_picture(tmp_path / "cmyk.jpg", 3)).astype(int) - colour.transpose(2, 0, 1)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, ending: str) -> None:
    array = smooth(64, 96)
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / f"a.{ending}", array, exif=exif, **({"quality": 95} if ending == "jpg" else {}))
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    upright = turns[orientation](array)
    picture = open_picture(path, 3)
    assert picture.size == upright.shape[:2]
    box = (8, 10, 60, 62)
    image = picture.crop_resized(box, (52, 52)).numpy().astype(int)
    assert np.abs(image - upright[8:60, 10:62].transpose(2, 0, 1)).mean() < 3  # JPEG
    half = picture.crop_resized(box, (26, 26)).numpy().astype(int)  # a JPEG is decoded at 1/2
    assert np.abs(half - upright[8:60:2, 10:62:2].transpose(2, 0, 1)).mean() < 12


def test_sixteen_bits_stay_sixteen(tmp_path: Path) -> None:
    values = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50
    for name in ("a.png", "a.tif"):
        picture = open_picture(save(tmp_path / name, values), 1)
        assert picture.full_range == (0, 65535)
        image = picture.crop_resized((0, 0, 30, 40), (30, 40))
        assert image.dtype == torch.float32
        assert np.array_equal(image[0].numpy(), values.astype(np.float32))
    repeated = open_picture(tmp_path / "a.png", 3)
    assert np.array_equal(whole(repeated)[2], values.astype(np.float32))
    floats = save(tmp_path / "f.tif", values.astype(np.float32) - 1000)
    picture = open_picture(floats, 1)
    assert picture.full_range is None
    assert whole(picture).min() == -1000
    small = picture.crop_resized((0, 0, 30, 40), (15, 20))
    assert abs(small.mean() - picture.crop_resized((0, 0, 30, 40), (30, 40)).mean()) < 1


def test_sixteen_bit_colours(tmp_path: Path) -> None:
    import itk

    values = np.random.default_rng(0).integers(0, 65536, (10, 12, 3), dtype=np.uint16)
    for name in ("a.png", "a.tif"):  # Pillow would cut both to 8 bits
        path = tmp_path / name
        itk.imwrite(itk.image_from_array(values, is_vector=True), str(path))
        picture = open_picture(path, 3)
        assert picture.full_range == (0, 65535)
        assert np.array_equal(whole(picture), values.transpose(2, 0, 1).astype(np.float32))


def test_dicom_picture(dicom_series: Callable[..., Path]) -> None:
    values = np.random.default_rng(0).integers(-500, 1500, (1, 20, 30), dtype=np.int16)
    folder = dicom_series("one", values)
    (path,) = folder.iterdir()
    picture = open_picture(path, 1)
    assert picture.size == (20, 30)
    assert picture.full_range is None
    assert np.array_equal(whole(picture), values.astype(np.float32))
    assert np.array_equal(whole(open_picture(path, 3))[1], values[0].astype(np.float32))


def test_volumes(tmp_path: Path, dicom_series: Callable[..., Path]) -> None:
    values = np.random.default_rng(0).normal(size=(9, 12, 7)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, 1, 1, 1])), tmp_path / "v.nii.gz")
    picture = open_picture(tmp_path / "v.nii.gz", 1, 3)
    assert picture.size == (7, 12, 9)
    assert np.allclose(whole(picture)[0], values[::-1].transpose(2, 1, 0))  # canonical: x runs to the right
    box = picture.crop_resized((0, 2, 0, 7, 12, 9), (7, 5, 3))
    assert box.shape == (1, 7, 5, 3)
    series = np.random.default_rng(1).integers(0, 1000, (5, 8, 6), dtype=np.int16)
    assert open_picture(dicom_series("series", series), 1, 3).size == (5, 8, 6)
    four = np.stack([values, values + 1], -1)
    nibabel.save(nibabel.Nifti1Image(four, np.eye(4)), tmp_path / "two.nii")
    assert open_picture(tmp_path / "two.nii", 2, 3).channels == 2
    slice_ = nibabel.Nifti1Image(values[:, :, :1], np.eye(4))
    nibabel.save(slice_, tmp_path / "slice.nii")
    assert np.allclose(whole(open_picture(tmp_path / "slice.nii", 1))[0], values[:, :, 0].T)


def refused(path: Path, channels: int = 3, spatial_dims: int = 2) -> str:
    with pytest.raises(InputError) as caught:
        whole(open_picture(path, channels, spatial_dims))
    text = str(caught.value)
    assert str(path) in text
    assert "Cure:" in text
    return text


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "damaged" in refused(tmp_path / "text.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert "damaged" in refused(tmp_path / "empty.jpg")
    for name in ("cut.jpg", "cut.png", "cut.bmp", "cut.tif"):
        path = save(tmp_path / name, smooth(100, 100))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert "damaged" in refused(path), name
    wide = save(tmp_path / "wide.png", np.zeros((50, 50), np.uint16) + np.arange(50, dtype=np.uint16) * 999)
    wide.write_bytes(wide.read_bytes()[:-80])
    assert "damaged" in refused(wide, 1)


def test_what_does_not_fit_the_network_is_refused(tmp_path: Path, dicom_series: Callable[..., Path]) -> None:
    path = save(tmp_path / "a.png", smooth(10, 10))
    assert "2 channels" in refused(path, 2)
    volume = np.zeros((5, 6, 7), np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
    assert re.search("volume of .*one slice per file", refused(tmp_path / "v.nii", 1))
    assert "holds 1 channels, the network takes 2" in refused(tmp_path / "v.nii", 2, 3)
    assert "not 1" in refused(path, 3, 1)


def test_very_large_pictures_are_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", smooth(60, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_picture(path, 3).size == (60, 60)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_picture_beyond_the_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_ext.datasets import picture

    def full(*_: object) -> torch.Tensor:
        return torch.empty(2**62, dtype=torch.uint8)

    path = save(tmp_path / "deep.png", np.arange(64, dtype=np.uint16).reshape(8, 8))
    monkeypatch.setattr(picture, "_with_channels", full)
    with pytest.raises(InputError, match=r"deep\.png: its pixels cannot be held in memory"):
        open_picture(path, 1)
