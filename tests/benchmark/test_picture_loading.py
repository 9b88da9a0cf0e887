"""The loading benchmark: all sides make the same kind of batch, and rows say what was measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from monai_ext.benchmark.commands import BenchmarkCommands
from monai_ext.benchmark.picture_loading import (
    COLUMNS,
    MONAI,
    OURS,
    PILLOW,
    evaluation_chains,
    make_jpegs,
    run_picture_benchmark,
    training_chains,
)
from monai_ext.errors import InputError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "set" / "class"
    folder.mkdir(parents=True)
    make_jpegs(folder, 3, (60, 80))
    return folder.parent


def images_of(batch: object) -> torch.Tensor:
    return batch["image"] if isinstance(batch, dict) else batch


def test_sides_make_the_same_kind_of_batch(pictures: Path) -> None:
    files = sorted(pictures.rglob("*.jpg"))
    for chains in (training_chains(files, 32), evaluation_chains(files, 32)):
        assert {OURS, MONAI} <= set(chains)
        for side, chain in chains.items():
            images = images_of(chain([0, 1, 2, 0]))
            assert images.shape == (4, 3, 32, 32), side
            if side == OURS:
                assert images.dtype == torch.uint8
            else:
                assert images.dtype == torch.float32
                assert 0.2 < images.std() < 3, side  # normalised


def test_evaluation_sees_the_same_part(pictures: Path) -> None:
    files = sorted(pictures.rglob("*.jpg"))
    chains = evaluation_chains(files, 32)
    ours = chains["ours, normalised"]([0, 1, 2])
    theirs = images_of(chains[MONAI]([0, 1, 2])).as_tensor().transpose(2, 3)  # MONAI's pictures are [C, W, H]
    # without antialiasing theirs is grainier; what is shown agrees
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.95


def test_made_pictures_are_repeatable(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, again = make_jpegs(tmp_path / "a", 2, (30, 40)), make_jpegs(tmp_path / "b", 2, (30, 40))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert first[0].read_bytes() != first[1].read_bytes()
    assert Image.open(first[0]).size == (40, 30)


def test_rows_are_printed_and_appended(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads, path = torch.get_num_threads(), tmp_path / "rows.csv"
    BenchmarkCommands().pictures(str(pictures), image_size=32, batch_size=2, rounds=2, results=str(path))
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert PILLOW in printed
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["work"], row["side"]) for row in rows].count(("training", MONAI)) == 1
    peer = next(row for row in rows if row["side"] == MONAI)
    assert float(peer["ratio"]) > 0
    assert peer["reached"] in ("yes", "no")
    assert peer["pictures"].startswith("3 of a folder, first jpg 80x60")
    assert all(float(row["images_per_second"]) > 0 for row in rows)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no picture"):
        run_picture_benchmark(str(tmp_path))
    with pytest.raises(InputError, match="--rounds 0"):
        run_picture_benchmark(rounds=0)
