"""Exported detectors: files that find what the network finds, in images of any size, and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.export import detector
from monai_ext.export.detection_comparison import compare_detections
from monai_ext.export.export_command import export_model
from monai_ext.export.manifest import read_manifest
from monai_ext.export.onnx_model import onnx_runner_of_all
from monai_ext.export.torchscript import torchscript_runner
from monai_ext.inferers.tiled_detection import TiledDetection
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan
from small_detector import discs, small_detector, small_plan

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript's future
# all ways a plan reaches the operators: shift of RoIAlign, adaptive sampling, norms, heads, several classes, anchors
PLANS: dict[str, dict[str, Any]] = {
    "usual": {},
    "older": {
        "pool_aligned": False, "pool_sampling": 0, "norm": "frozen_batch", "anchor_offset": 0.5, "box_head": "conv",
        "classes": ("a", "b", "c"), "category_ids": (1, 2, 3),
    },
}  # fmt: skip


def drawn_plan(**changes: Any) -> InstancePlan:
    return small_plan(**{"tile_overlap": 16, "rpn_pre_nms": 60, "rpn_post_nms": 50, **changes})


def save_run(folder: Path, plan: InstancePlan) -> Path:
    folder.mkdir()
    (folder / "plan.json").write_text(plan.to_json())
    torch.save(small_detector(plan).state_dict(), folder / "model.pt")
    return folder


def whole(plan: InstancePlan) -> Callable[[torch.Tensor], Detections]:
    """Detection of inference, in one piece, with the fused ops."""
    network = small_detector(plan).eval()
    inferer = TiledDetection(plan, tile_size=(512, 512))

    def detect(image: torch.Tensor) -> Detections:
        with torch.no_grad():
            return inferer(image, network)[0]

    return detect


def detection_by(run: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Detections]:
    return lambda image: Detections(*run(image))


@pytest.fixture(scope="module", params=PLANS)
def exported(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[InstancePlan, Path]:
    plan = drawn_plan(**PLANS[request.param])
    folder = tmp_path_factory.mktemp("export")
    if request.param == "usual":  # compared on pictures; otherwise on drawn ones
        for number in range(2):
            image = (discs(5, 80, 72, seed=number)[0][0].clamp(0, 1) * 255).byte().numpy()
            Image.fromarray(image).save(folder / f"{number}.png")
    images = folder if request.param == "usual" else ""
    export_model(save_run(folder / "run", plan), "torchscript,onnx", folder / "out", images=images)
    return plan, folder / "out"


def test_files_find_what_inference_finds(exported: tuple[InstancePlan, Path]) -> None:
    plan, folder = exported
    expected = whole(plan)
    # neither size is a multiple of the strides; the files were traced with another one
    images = [discs(5, 75, 51, seed=4)[0][None], discs(7, 64, 97, seed=3)[0][None]]
    assert all(len(expected(image).scores) > 10 for image in images)
    for run in (torchscript_runner(folder / "model.ts"), onnx_runner_of_all(folder / "model.onnx")):
        found = compare_detections(expected, detection_by(run), images)
        # float32 in another order of sums; a hundredth of a pixel is 1e-4 of an image
        assert found.max_difference < 1e-4
        assert found.agreement == 1
        for image in images:
            _, scores, labels, _ = run(image)
            assert scores.tolist() == sorted(scores.tolist(), reverse=True)
            assert labels.dtype == torch.int64
            assert set(labels.tolist()) == set(range(1, plan.num_classes + 1))


def test_an_image_of_one_value_and_one_without_objects(exported: tuple[InstancePlan, Path]) -> None:
    plan, folder = exported
    image = torch.zeros(1, 1, 64, 64)
    for run in (torchscript_runner(folder / "model.ts"), onnx_runner_of_all(folder / "model.onnx")):
        boxes, scores, labels, masks = run(image)
        assert len(boxes) == len(scores) == len(labels) == len(masks)
        # anchors of all cells are alike there, so which of them are kept is for rounding to say
        assert abs(len(boxes) - len(whole(plan)(image).scores)) <= 0.2 * len(boxes)
        # not a number anywhere: nothing is found
        for found, rest in zip(run(image + torch.nan), ((4,), (), (), (28, 28)), strict=True):
            assert found.shape == (0, *rest)


def test_operators_and_manifest(exported: tuple[InstancePlan, Path]) -> None:
    plan, folder = exported
    graph = onnx.load(str(folder / "model.onnx")).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("NonMaxSuppression") == 2  # of proposals and of detections
    assert operators.count("RoiAlign") == 8  # four levels, two heads
    modes = {
        attribute.s.decode()
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "RoiAlign" and attribute.name == "coordinate_transformation_mode"
    }
    assert modes == {"half_pixel" if plan.pool_aligned else "output_half_pixel"}
    assert {node.domain for node in graph.node} == {""}  # ONNX's own alone
    scripted = str(torch.jit.load(folder / "model.ts").inlined_graph)
    assert "aten::grid_sampler" in scripted
    # neither the fused ops nor calls of Python, which would need this package
    assert "monai_ext::" not in scripted
    assert "PythonOp" not in scripted
    manifest = read_manifest(folder)
    assert manifest["bundle"] == "mask_rcnn"
    assert [output["name"] for output in manifest["outputs"]] == [output.name for output in graph.output]
    assert all(entry["agreement"] == 1 and entry["network_latency_ms"] > 0 for entry in manifest["artefacts"])
    assert int(manifest["compared_on"].split()[0]) > 20
    images = "2 of the given images" if plan.num_classes == 1 else "3 drawn images"
    assert manifest["compared_on"].endswith(f"detections in {images}")
    assert str(folder.parent) not in (folder / "manifest.json").read_text()


def test_fixed_size_and_half_precision(tmp_path: Path) -> None:
    plan = drawn_plan()
    run = save_run(tmp_path / "run", plan)
    export_model(run, "torchscript,onnx", tmp_path / "out", dynamic=False, precision="float16", tolerance=0.5)
    assert read_manifest(tmp_path / "out")["input"]["shape"] == [1, 1, 64, 64]
    images = [discs(5, 64, 64, seed=4)[0][None]]
    for file in (
        torchscript_runner(tmp_path / "out" / "model.ts"),
        onnx_runner_of_all(tmp_path / "out" / "model.onnx"),
    ):
        found = compare_detections(whole(plan), detection_by(file), images)
        # three digits, and an untrained network's detections that overlap by nearly the limit come and go
        assert 0 < found.mean_difference < 2e-2
        assert found.agreement > 0.9


def test_other_detections_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that shifts boxes, and one that finds half of the objects; neither is traced, which takes seconds."""
    run = save_run(tmp_path / "run", drawn_plan())
    detect = whole(drawn_plan())
    monkeypatch.setattr(detector, "export_torchscript", lambda module, path, *rest: path.touch())

    def refusal(change: Callable[[Detections], Any]) -> str:
        monkeypatch.setattr(detector, "torchscript_runner", lambda path: lambda image: change(detect(image)))
        with pytest.raises(InputError) as caught:
            export_model(run, "torchscript", tmp_path / "out")
        return str(caught.value)

    shifted = refusal(lambda found: found._replace(boxes=found.boxes + 1))
    assert re.search(r"model\.ts: .* differ from the network's by 0\.\d+, allowed are 0\.002", shifted)
    halved = refusal(lambda found: [part[::2] for part in found])
    assert re.search(r"model\.ts: .* 6\d\.\d % are the network's, needed are 98", halved)
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.setattr(detector, "torchscript_runner", lambda path: detect)
    export_model(run, "torchscript", tmp_path / "out")  # the same detections pass


def test_a_comparison_of_nothing_is_none(tmp_path: Path) -> None:
    """Two detectors that find nothing are equal, whatever else they do."""
    run = save_run(tmp_path / "run", drawn_plan(score_threshold=1.0))
    with pytest.raises(InputError, match=r"finds nothing in the 3 images .* Cure: --images"):
        export_model(run, "torchscript", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refusals(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", drawn_plan())
    with pytest.raises(InputError, match=r"(?s)--format onnx,keras: is not known.*--precision bfloat16: has no ONNX"):
        export_model(run, "onnx,keras", tmp_path / "out", precision="bfloat16")
    with pytest.raises(InputError, match=r"--format tensorrt.*trtexec"):
        export_model(run, "tensorrt", tmp_path / "out")
    with pytest.raises(
        InputError, match=r"--quantize, --colour: no option of the export of mask_rcnn. Cure: --precision"
    ):
        export_model(run, "onnx", tmp_path / "out", quantize="int8", colour="red")
    with pytest.raises(InputError, match=r"nowhere: does not exist"):
        export_model(run, "onnx", tmp_path / "out", images=tmp_path / "nowhere")
