"""The notebooks: executed with small values, and as they are stored."""

from __future__ import annotations

import ast
import csv
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from bundle_commands import MASK_RCNN, NNUNET, REPOSITORY, SE_RESNEXT, UNET_EM
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.phantom import make_phantom
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.planning.plan import Plan

FOLDER = REPOSITORY / "notebooks"
BUNDLES = {
    "classify_images": SE_RESNEXT.parent,
    "custom_dataset": NNUNET.parent,
    "em_membranes": UNET_EM.parent,
    "explore_dataset": NNUNET.parent,
    "segment_instances": MASK_RCNN.parent,
}
NAMES = tuple(BUNDLES)
LIMIT = 1_500_000  # bytes: a diff that a person still opens


def stored(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook: Any) -> dict[str, Any]:
    """Names and values of the first code cell, which holds nothing but assignments of literals."""
    tree = ast.parse(code_cells(notebook)[0].source)
    found = {}
    for line in tree.body:
        assert isinstance(line, ast.Assign)
        (target,) = line.targets
        assert isinstance(target, ast.Name)
        found[target.id] = ast.literal_eval(line.value)
    return found


def pictures(notebook: Any) -> int:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(notebook: Any) -> str:
    """Everything that the outputs say as text."""
    parts = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            parts.append(output.get("text", ""))
            parts += [str(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(parts)


@pytest.fixture
def private_jupyter(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernels, settings or history of the person who runs the tests."""
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path_factory.mktemp("jupyter")))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")


def execute(name: str, folder: Path, **changed: Any) -> Any:
    """Run a notebook in a working directory, its parameters replaced; a cell that fails raises."""
    notebook = stored(name)
    values = parameters(notebook) | {"bundle_dir": str(BUNDLES[name]), "work_dir": "work"}
    assert set(changed) <= set(values)
    code_cells(notebook)[0].source = "\n".join(f"{key} = {value!r}" for key, value in (values | changed).items())
    for cell in code_cells(notebook):
        cell.outputs = []
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook


@pytest.mark.parametrize("name", NAMES)
def test_first_code_cell_holds_the_parameters(name: str) -> None:
    notebook = stored(name)
    tagged = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code_cells(notebook)[:1]
    assert {"bundle_dir", "work_dir"} <= set(parameters(notebook))
    assert not Path(parameters(notebook)["work_dir"]).is_absolute()
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_complete_and_free_of_the_machine(name: str) -> None:
    notebook = stored(name)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LIMIT
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert pictures(notebook) >= 5
    kinds = {output.output_type for cell in code_cells(notebook) for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert not [o for cell in code_cells(notebook) for o in cell.outputs if o.get("name") == "stderr"]
    text = printed(notebook)
    assert not re.findall(r"(?<![\w.<])/[a-z]\w+/|[A-Z]:\\|localhost|\d+\.\d+\.\d+\.\d+|\w+@\w+", text)


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_followed_by_how_to_read_it(name: str) -> None:
    cells = stored(name).cells
    for cell, following in itertools.pairwise(cells):
        if cell.cell_type == "code" and pictures(nbformat.v4.new_notebook(cells=[cell])):
            assert following.cell_type == "markdown"
            assert following.source.startswith("How to read it:")


@pytest.mark.parametrize("name", NAMES)
def test_bundle_is_found_from_where_the_notebook_is_or_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import monai_ext

    source = next(cell.source for cell in code_cells(stored(name)) if "def find_bundle" in cell.source)
    (function,) = (n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "find_bundle")
    scope: dict[str, Any] = {"monai_ext": monai_ext}
    exec("import os\nfrom pathlib import Path\n" + ast.unparse(function), scope)
    monkeypatch.setattr(monai_ext, "__file__", str(tmp_path / "site-packages" / "monai_ext" / "__init__.py"))
    monkeypatch.chdir(FOLDER)
    assert scope["find_bundle"]("").resolve() == BUNDLES[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="bundle_dir"):
        scope["find_bundle"]("")
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        scope["find_bundle"]("elsewhere")
    assert scope["find_bundle"](str(BUNDLES[name])).resolve() == BUNDLES[name]


@pytest.mark.usefixtures("private_jupyter")
def test_kernel_is_this_interpreter(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys; print(sys.executable)")])
    nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert notebook.cells[0].outputs[0]["text"].strip() == sys.executable


@pytest.mark.slow
@pytest.mark.usefixtures("private_jupyter")
def test_pictures_become_a_model_and_can_be_explored(tmp_path: Path) -> None:
    small = {"num_images": 15, "epochs": 6, "epoch_length": 10, "own_epochs": 2, "patch_size": [64, 64]}
    notebook = execute("custom_dataset", tmp_path, **small)
    assert pictures(notebook) >= 5
    work = tmp_path / "work"
    assert (work / "run" / "model.pt").is_file()
    scores = json.loads((work / "run" / "evaluation" / "metrics.json").read_text())
    assert len(scores) == 3  # a fifth of 15
    # after 60 steps 0.93; a threshold on brightness, which takes the red cells too, reaches 0.75
    assert np.mean([case["nucleus"]["dice"] for case in scores.values()]) > 0.8
    assert len(list((work / "predictions").glob("slide_*.png"))) == 4
    for name in ("own_augmentation", "own_loader"):
        rows = [json.loads(line) for line in (work / name / "log.jsonl").read_text().splitlines()]
        assert rows[-1]["loss"] < rows[0]["loss"]
    assert Plan.load(work / "run" / "plan.json").patch_size == (64, 64)

    explored = execute("explore_dataset", tmp_path, dataset_dir="work/dataset", work_dir="look", spatial_dims=2)
    assert pictures(explored) >= 6
    assert not (tmp_path / "look" / "phantom").exists()
    assert "--spatial_dims 2" in printed(explored)


@pytest.mark.usefixtures("private_jupyter")
@pytest.mark.long
def test_volumes_become_a_model(tmp_path: Path) -> None:
    volumes = make_phantom(tmp_path / "volumes", num_cases=5)
    execute(
        "custom_dataset", tmp_path, source_dir=str(volumes), image_folder="imagesTr", mask_folder="labelsTr",
        class_names=["background", "ellipsoid", "tube"], spatial_dims=3, patch_size=[16, 32, 32], batch_size=2,
        base_features=4, epochs=2, epoch_length=4, own_epochs=2,
    )  # fmt: skip
    assert Plan.load(tmp_path / "work" / "run" / "plan.json").spatial_dims == 3
    assert read_msd(tmp_path / "work" / "dataset").labels == {"background": 0, "ellipsoid": 1, "tube": 2}
    assert len(list((tmp_path / "work" / "predictions").glob("*.nii.gz"))) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("private_jupyter")
@pytest.mark.parametrize("spatial_dims", [3, 2])
def test_phantom_is_explored(tmp_path: Path, spatial_dims: int) -> None:
    notebook = execute("explore_dataset", tmp_path, num_cases=6, spatial_dims=spatial_dims, cases_read=3)
    assert pictures(notebook) >= 6
    text = printed(notebook)
    assert "no problem and no warning" in text
    plan = Plan.load(tmp_path / "work" / "look" / "plan.json")
    for field in ("patch_size", "batch_size", "strides", "normalization"):
        assert field in plan.why
        assert f">{field}</td>" in text


@pytest.mark.slow
@pytest.mark.usefixtures("private_jupyter")
def test_membranes_are_learned_and_judged(tmp_path: Path) -> None:
    """With the sizes of tiny.json: two steps teach nothing, but every cell runs and every file is there."""
    tiny = json.loads((UNET_EM / "tiny.json").read_text())
    names = ("base_features", "levels", "batch_size", "patch_size", "epoch_length", "num_workers")
    keys = {name: tiny[name] for name in names} | {"thresholds": [0.3, 0.6]}
    notebook = execute("em_membranes", tmp_path, max_epochs=1, more_keys=keys)
    assert pictures(notebook) >= 6
    work = tmp_path / "work"
    assert EmPlan.load(work / "run" / "plan.json").base_features == tiny["base_features"]
    rows = [json.loads(line) for line in (work / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2]
    views = [
        json.loads((work / name / "evaluation" / "summary.json").read_text()) for name in ("one_view", "eight_views")
    ]
    assert [view["tta"] for view in views] == [False, True]
    assert views[0]["model_sha256"] == views[1]["model_sha256"]
    text = printed(notebook)
    for view in views:
        assert f"{view['soft_dice']:.4f}" in text
    assert f"tried in the evaluation: {views[1]['rand_threshold']:g}" in text
    assert (work / "predictions" / "test-masks.tif").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]


def class_keys() -> dict[str, Any]:
    """The sizes of tiny.json."""
    tiny = json.loads((SE_RESNEXT / "tiny.json").read_text())
    names = ("layers", "base_features", "image_size", "batch_size", "epoch_length", "num_workers", "bootstrap")
    return {name: tiny[name] for name in names}


@pytest.mark.slow
@pytest.mark.usefixtures("private_jupyter")
def test_images_are_classified_and_confusions_shown(tmp_path: Path) -> None:
    """Two steps teach nothing, but every cell runs, and what is shown is what the files say."""
    notebook = execute("classify_images", tmp_path, max_epochs=1, more_keys=class_keys())
    assert pictures(notebook) >= 7
    work, text = tmp_path / "work", printed(notebook)
    plan = ClassPlan.load(work / "run" / "plan.json")
    assert (plan.base_features, plan.image_size) == (8, (32, 32))
    rows = [json.loads(line) for line in (work / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2]
    summary = json.loads((work / "run" / "evaluation" / "summary.json").read_text())
    low, high = summary["intervals"]["accuracy"]
    assert f"| accuracy | {summary['accuracy']:.3f} ({low:.3f} to {high:.3f}) |" in text
    calibration = summary["calibration"]
    assert f"| {calibration['before']['nll']:.3f} | {calibration['after']['nll']:.3f} |" in text
    matrix = np.array(summary["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    label, predicted = (plan.classes[k] for k in np.unravel_index(matrix.argmax(), matrix.shape))
    assert f"{label} taken for {predicted}: {matrix.max()}\n" in text
    predictions = json.loads((work / "predictions" / "predictions.json").read_text())
    assert predictions["temperature"] == pytest.approx(calibration["temperature"])
    assert [entry["file"] for entry in predictions["predictions"]] == [
        path.name for path in sorted((work / "new_images").iterdir())
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]


@pytest.mark.slow
@pytest.mark.usefixtures("private_jupyter")
def test_table_with_several_labels_and_patients(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    with open(tmp_path / "scans" / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label", "patient"))
        for number in range(24):
            image = rng.integers(0, 80, (40, 50), dtype=np.uint8)
            drawn = [name for name, bit in (("bar", 1), ("square", 2)) if number & bit]  # all, either, or none
            if "bar" in drawn:
                image[25:30] = 200
            if "square" in drawn:
                image[5:15, 5:15] = 250
            Image.fromarray(image).save(tmp_path / "scans" / f"{number:02d}.png")
            writer.writerow((f"{number:02d}.png", ";".join(drawn), f"p{number // 4}"))
    notebook = execute(
        "classify_images", tmp_path, dataset_dir="scans", group_by="patient", max_epochs=1, more_keys=class_keys()
    )
    assert pictures(notebook) >= 7
    plan = ClassPlan.load(tmp_path / "work" / "run" / "plan.json")
    assert (plan.multi_label, plan.classes, plan.channels) == (True, ("bar", "square"), 1)
    fold = json.loads((tmp_path / "work" / "run" / "fold.json").read_text())
    patients = [{int(Path(name).stem) // 4 for name in fold[part]} for part in ("train", "val")]
    assert patients[0].isdisjoint(patients[1])
    assert f"{len(fold['train'])} images for training, {len(fold['val'])} kept aside" in printed(notebook)
    assert not (tmp_path / "work" / "prepared" / "raw").exists()


def instance_keys() -> dict[str, Any]:
    """The sizes of tiny.json; crops and tiles of 96 pixels hold the largest objects of the phantom."""
    tiny = json.loads((MASK_RCNN / "tiny.json").read_text())
    names = ("arch", "batch_size", "epoch_length", "num_workers", "roi_batch", "rpn_batch")
    limits = ("rpn_pre_nms", "rpn_post_nms")
    return {name: tiny[name] for name in names + limits} | {"image_size": [96, 96], "eval_samples": 4}


@pytest.mark.slow
@pytest.mark.usefixtures("private_jupyter")
def test_objects_are_found_counted_and_outlined(tmp_path: Path) -> None:
    """Two steps teach nothing, but every cell runs, and what is shown is what the files say."""
    notebook = execute("segment_instances", tmp_path, max_epochs=1, more_keys=instance_keys())
    assert pictures(notebook) >= 8
    work, text = tmp_path / "work", printed(notebook)
    proposed = json.loads((work / "anchors.json").read_text())
    plan = InstancePlan.load(work / "run" / "plan.json")
    assert [list(sizes) for sizes in plan.anchor_sizes] == proposed["anchor_sizes"]
    assert (plan.scale, plan.canonical_size) == (1, proposed["canonical_size"])
    rows = [json.loads(line) for line in (work / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2]
    summary = json.loads((work / "run" / "evaluation" / "summary.json").read_text())
    assert summary["num_images"] == 4
    assert f"| mask | {summary['mask_ap']:.3f} | {summary['mask_ap50']:.3f} |" in text
    for line in summary["by_score_threshold"]:
        assert re.search(rf"\| (\**){line['score_threshold']:.2f}\1 \|", text)
    with open(work / "predictions" / "objects.csv", newline="") as file:
        found = list(csv.DictReader(file))
    label_map = np.array(Image.open(work / "predictions" / "labels" / "mosaic.png"))
    assert label_map.shape == Image.open(work / "mosaic.png").size[::-1]
    assert min(label_map.shape) > 3 * plan.image_size[0]  # several tiles
    assert sorted(np.unique(label_map[label_map > 0])) == [int(line["value"]) for line in found]
    for name in plan.classes:
        assert f"| {name} | {sum(line['class'] == name for line in found)} |" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work"]
