"""Model cards of runs of all bundles: what is in them, what is said to be missing, and what they leave alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from card_numbers import foreign_numbers
from monai_ext.errors import InputError
from monai_ext.model_card.card import MARK, compose_card, write_card
from monai_ext.model_card.run_files import read_run
from monai_ext.model_card.run_record import read_record
from recorded_runs import BUNDLES, write_run

TITLES = (
    "Authors", "Model Description", "Intended Use", "Data", "Plan", "Training", "Performance", "Figures", "Usage",
    "System Configuration", "Limitations", "Licence", "References",
)  # fmt: skip


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_part_is_there_and_no_number_is_invented(bundle: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", bundle)
    path = write_card(run)
    assert path == run / "docs" / "README.md"
    text = path.read_text()
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == TITLES
    assert foreign_numbers(text, run) == []
    # the check of the numbers itself: one that is changed in the last digit is found
    score = {"nnunet": "0.8137", "unet_em": "0.9013", "se_resnext101": "0.7613", "mask_rcnn": "0.5197"}[bundle]
    wrong = f"{float(score) + 1e-4:.4f}"
    assert score in text
    assert foreign_numbers(text.replace(score, wrong), run) == [wrong]


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_what_is_missing_is_said(bundle: str, evaluated: bool, recorded: bool, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", bundle, evaluated, recorded)
    text = write_card(run / "model.pt").read_text()
    assert ("has no `evaluation/summary.json`" in text) is not evaluated
    assert ("Not evaluated: how well it works" in text) is not evaluated
    assert ("fingerprint of the dataset is not recorded" in text) is not recorded
    assert ("Versions and devices are not recorded" in text) is not recorded
    assert ("The command is not recorded" in text) is not recorded
    assert ("- data: CC-BY-SA 4.0" in text) is recorded
    assert "- weights: not stated (option --weights_licence)" in text
    if not recorded:
        assert "- cases for training: 13" in text  # of fold.json
        assert "- data: not recorded (option --data_licence)" in text


def test_a_bare_run_gets_a_card_of_what_it_has_not(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "nnunet", evaluated=False, recorded=False)
    for name in ("metrics.json", "fold.json", "log.jsonl", "overlay.png"):
        (run / name).unlink()
    text = write_card(run).read_text()
    for words in ("no `metrics.json`", "`metrics.json` is missing", "holds no pictures", "cases: not recorded"):
        assert words in text


def test_pictures_lie_beside_the_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "mask_rcnn")
    text = write_card(run).read_text()
    linked = re.findall(r"!\[[^]]+]\(([^)]+)\)", text)
    assert linked == ["evaluation_gallery.png", "overlay.png"]
    assert (run / "docs" / "overlay.png").read_bytes() == (run / "overlay.png").read_bytes()
    assert (run / "docs" / "evaluation_gallery.png").read_bytes() == (run / "evaluation" / "gallery.png").read_bytes()
    shutil.copytree(run / "docs", tmp_path / "elsewhere")
    assert all((tmp_path / "elsewhere" / name).is_file() for name in linked)


def test_what_a_person_states_is_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "nnunet")
    write_card(run, {"authors": "A. Person", "data_licence": "CC0", "weights_licence": "MIT", "contact": "a@b"})
    text = write_card(run, {"contact": ""}).read_text()
    for line in ("A. Person", "- data: CC0", "- weights: MIT"):
        assert line in text
    assert "a@b" not in text
    assert set(read_record(run)["given"]) == {"authors", "data_licence", "weights_licence"}
    assert read_record(run)["training"]["processes"] == 2  # the rest of the record is still there


def test_a_card_written_by_hand_is_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "unet_em")
    path = write_card(run)
    assert write_card(run) == path
    own = path.read_text().removeprefix(MARK)
    path.write_text(own)
    other = write_card(run)
    assert other == run / "docs" / "model_card.md"
    assert path.read_text() == own
    assert other.read_text().startswith(MARK)
    assert write_card(run) == other


def test_an_evaluation_of_other_weights_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "nnunet")
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    text = write_card(run).read_text()
    assert "other weights" not in text
    digest = re.search(r"sha256 of the weights: (\w{64})", text)
    assert digest is not None
    for sha256, differs in ((digest[1], False), ("0" * 64, True)):
        (run / "evaluation" / "summary.json").write_text(json.dumps({**summary, "model_sha256": sha256}))
        assert ("is of other weights than the model.pt" in write_card(run).read_text()) is differs


def test_names_of_a_dataset_are_no_markup(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "nnunet")
    plan = json.loads((run / "plan.json").read_text())
    plan["dataset"] = "<script>x</script>\n# Title ![p](http://x)"
    (run / "plan.json").write_text(json.dumps(plan))
    text = write_card(run).read_text()
    assert "<script" not in text
    assert "](http" not in text
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    rows = [line for line in text.splitlines() if line.startswith("| back\\|side")]
    assert len(rows) == 3
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 10 for row in rows)


def test_runs_that_cannot_be_described(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist\. Cure"):
        write_card(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no model\.pt"):
        write_card(tmp_path)
    run = write_run(tmp_path / "run", "nnunet")
    (run / "evaluation" / "summary.json").write_text("{")
    (run / "metrics.json").write_text("[1]")
    (run / "log.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="3 problems") as caught:
        write_card(run)
    for name in ("summary.json", "metrics.json", "log.jsonl"):
        assert name in str(caught.value)
    (run / "plan.json").write_text('{"neither": 1}')
    with pytest.raises(InputError, match="is the plan of none of nnunet"):
        write_card(run)
    (run / "plan.json").unlink()
    with pytest.raises(InputError, match="plan not found"):
        write_card(run)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_values_of_another_kind_are_an_input_error(bundle: str, tmp_path: Path) -> None:
    """Every entry of every file in turn as text, number, list and object: a card, or one error; never another."""
    run = read_run(write_run(tmp_path / "run", bundle))
    messages = []
    for part in ("plan", "training", "summary", "cases", "fold", "calibration", "postprocessing", "record"):
        content = getattr(run, part)
        for name in [*content, "calibration"]:
            for wrong in ("text", 3, [1, [2], {"a": 3}], {"a": None}, None):
                changed = replace(run, **{part: {**content, name: wrong}})
                try:
                    assert compose_card(changed, {}).startswith(MARK)
                except InputError as error:
                    messages.append(str(error))
    assert messages
    assert all("Cure: restore them" in message for message in messages)


def test_command_needs_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "se_resnext101")
    command = [sys.executable, "-X", "importtime", "-m", "monai_ext", "card"]
    done = subprocess.run([*command, str(run), "--weights_licence", "CC0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"model card: {(run / 'docs' / 'README.md').resolve()}\n"
    assert "- weights: CC0" in (run / "docs" / "README.md").read_text()
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "monai_ext.model_card.card" in imported
    assert not {"torch", "monai"} & imported


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai_ext", "card", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
