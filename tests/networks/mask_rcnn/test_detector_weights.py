"""Files of other libraries fill a detector whole, it computes what they computed there, and nothing fits in silence."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foreign_detectors import BACKBONES, DETECTORS, ForeignDetector
from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.detector import MaskRCNN, network_from_instance_plan
from monai_ext.networks.mask_rcnn.detector_weights import load_detector_weights, plan_options_of_detector_weights
from monai_ext.networks.mask_rcnn.norm import FrozenBatchNorm
from monai_ext.planning.instance_plan import InstancePlan, architecture

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SMALL = {"base_features": 8, "fpn_channels": 16, "box_features": 12, "mask_features": 16, "layers": (1, 2, 1, 1)}
BGR_MEAN = torch.tensor([103.53, 116.28, 123.675])[:, None, None]


def plan(classes: int = 3, **fields: Any) -> InstancePlan:
    given = {
        "dataset": "drawn", "classes": tuple(f"c{i}" for i in range(classes)),
        "category_ids": tuple(range(1, classes + 1)), "channels": 3, **IMAGENET, "image_size": (128, 128),
        "arch": "resnet50", **architecture("resnet50"), **SMALL, "norm": "frozen_batch",
        "anchor_sizes": ((8,), (16,), (32,), (64,), (128,)), **fields,
    }  # fmt: skip
    return InstancePlan(**given)


def network(classes: int = 3, **fields: Any) -> MaskRCNN:
    torch.manual_seed(11)
    return network_from_instance_plan(plan(classes, **fields)).eval()


def like(foreign: ForeignDetector, **fields: Any) -> MaskRCNN:
    """Our network of the same kind."""
    given: dict[str, Any] = {"norm": "group", "box_head": "conv"} if foreign.grouped else {}
    return network(foreign.classes, **{**given, "stride_in_1x1": foreign.source == "caffe2", **fields})


def saved(path: Path, state: dict[str, torch.Tensor], author: str = "somebody") -> Path:
    if path.suffix == ".pkl":
        content: Any = {name: tensor.numpy() for name, tensor in state.items()}
        content = {"model": content, "__author__": author, "matching_heuristics": True} if author else content
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(state, path)
    return path


def drawn(*shape: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Up to float32 sums in another order, through a dozen layers."""
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("source", DETECTORS)
def test_every_tensor_of_a_detector_has_its_place(tmp_path: Path, source: str, counters: bool, masks: bool) -> None:
    foreign = ForeignDetector(source, counters=counters, masks=masks, layers=(1, 1, 11, 1))  # numbers of two digits
    state = foreign.state()
    detector = like(foreign, layers=foreign.layers)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    report = load_detector_weights(detector, saved(tmp_path / "weights.pth", state))
    numbers = [name for name in state if name.endswith("num_batches_tracked")]
    assert bool(numbers) == (counters and foreign.family == "torchvision")
    assert report.dropped == tuple(numbers)
    assert len(report.loaded) == len(state) - len(numbers)
    assert (report.skipped, report.mismatched, report.missing, report.new_layers) == ((), (), (), ())
    assert report.new_parts == (() if masks else ("mask_head",))
    for name, tensor in detector.state_dict().items():
        assert (name in report.loaded) != torch.equal(tensor, before[name]), name
    assert {n for n in before if n not in report.loaded} == {n for n in before if n.startswith("mask_head") > masks}


@pytest.mark.parametrize("source", DETECTORS)
def test_a_detector_computes_what_it_computed_there(tmp_path: Path, source: str) -> None:
    foreign = ForeignDetector(source)
    state = foreign.state()
    detector = like(foreign)
    report = load_detector_weights(detector, saved(tmp_path / "weights.pth", state), pixels="rgb")
    x, regions, labels = drawn(2, 3, 64, 96), drawn(5, 16, 7, 7), torch.tensor([1, 3, 2, 1, 3])
    with torch.no_grad():
        levels = foreign.pyramid_levels(state, foreign.features(state, x, stride_in_1x1=False))
        for got, want in zip(detector.backbone(x), levels, strict=True):
            close(got, want)
        found_logits, found_deltas = detector.rpn(levels)
        for level, logits, deltas in zip(levels, found_logits, found_deltas, strict=True):
            want_logits, want_deltas = foreign.rpn(state, level)
            close(logits, want_logits)
            close(deltas, want_deltas)
        scores, deltas = detector.box_head(regions)
        want_scores, want_deltas = foreign.boxes(state, regions)
        close(scores.softmax(1)[:, 1:], want_scores)
        close(deltas, want_deltas)
        masks = foreign.mask_logits(state, regions)[torch.arange(5), labels - 1]
        close(detector.mask_head(regions, labels), masks)
    text = report.describe()
    assert ("moved from the last row" in text) == source.startswith("detectron2")
    assert ("rows of the background" in text) == source.startswith("torchvision")
    assert ("epsilon of 0" in text) == (source == "torchvision-old")


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("source", BACKBONES)
def test_backbones(tmp_path: Path, source: str, counters: bool) -> None:
    """RGB from 0 to 1, normalised by the plan's mean and deviation, gives what the library's own input gave there."""
    foreign = ForeignDetector(source, counters=counters)
    state, caffe = foreign.state(), source == "caffe2"
    of_torchvision = source == "detectron2-resnet"  # as its tool converts them
    name = "R-50.pkl" if caffe or of_torchvision else "resnet.pth"
    path = saved(tmp_path / name, state, author="torchvision" if of_torchvision else "")
    detector = like(foreign)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    report = load_detector_weights(detector, path)
    assert (report.skipped, report.mismatched, report.missing) == ((), (), ())
    assert report.new_parts == ("backbone.fpn", "rpn", "box_head", "mask_head")
    body = {name for name in before if name.startswith("backbone.body.")}
    assert set(report.loaded) == body
    changed = {n for n, v in detector.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == body - ({n for n in body if n.endswith("running_mean")} if caffe else set())  # these are 0
    options = plan_options_of_detector_weights(path)
    rgb = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(options[key])[:, None, None] for key in ("mean", "std"))
    theirs = 255 * rgb.flip(1) - BGR_MEAN if caffe else (rgb - mean) / std
    with torch.no_grad():
        got, want = detector.backbone.body((rgb - mean) / std), foreign.features(state, theirs, caffe)
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())
    assert options["stride_in_1x1"] == caffe
    assert report.adapted_stem == ("channels from BGR to RGB, times 255" if caffe else "")


def test_full_size(tmp_path: Path) -> None:
    """Published counts of torchvision's Mask R-CNN of 90 classes: 360 tensors, 44,454,513 values."""
    foreign = ForeignDetector(
        "torchvision", (3, 4, 6, 3), 64, pyramid=256, box_features=1024, mask_features=256, classes=90
    )
    state = foreign.state(numbered=True)
    assert len(state) == 360
    values = {k: v.numel() for k, v in state.items() if "running" not in k and "num_batches" not in k}
    assert sum(values.values()) == 44_454_513
    with torch.device("meta"):
        detector = network(90, **architecture("resnet50"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # weights without memory take no values
        report = load_detector_weights(detector, saved(tmp_path / "weights.pth", state))
    assert len(report.loaded) == 360 - 53
    assert (report.skipped, report.mismatched, report.missing) == ((), (), ())
    held = {name: v.numel() for name, v in detector.state_dict().items() if name.endswith(("weight", "bias"))}
    # the background's four box rows of 1024 + 1 and its mask row of 256 + 1 have no place
    assert sum(held.values()) == 44_454_513 - 4 * 1025 - 257
    parts = {part: sum(n for k, n in held.items() if k.startswith(part)) for part in ("backbone.body", "backbone.fpn")}
    assert parts == {"backbone.body": 23_508_032, "backbone.fpn": 3_344_384}
    assert sum(n for k, n in held.items() if k.startswith("rpn.")) == 593_935
    assert sum(n for k, n in held.items() if k.startswith("box_head.")) == 14_362_055 - 4 * 1025


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("source", ["torchvision", "detectron2"])
def test_other_classes_get_new_layers(tmp_path: Path, source: str, classes: int) -> None:
    foreign = ForeignDetector(source)
    detector = network(classes)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    report = load_detector_weights(detector, saved(tmp_path / "weights.pth", foreign.state()))
    layers = ("box_head.cls_score", "box_head.bbox_pred", "mask_head.logits")
    assert report.new_layers == layers
    assert report.replaced_head
    kept = {name for name, tensor in detector.state_dict().items() if torch.equal(tensor, before[name])}
    assert kept == {f"{layer}.{what}" for layer in layers for what in ("weight", "bias")}
    assert "so new: box_head.cls_score, box_head.bbox_pred, mask_head.logits" in report.describe()


def test_new_layers_by_wish_and_for_other_anchors(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", ForeignDetector("torchvision").state())
    report = load_detector_weights(network(3), path, new_head=True)
    assert report.new_layers == ("box_head.cls_score", "box_head.bbox_pred", "mask_head.logits")
    report = load_detector_weights(network(3, aspect_ratios=(1.0,)), path)
    assert report.new_layers == ("rpn.cls_logits", "rpn.bbox_pred")
    assert "rpn.conv.weight" in report.loaded


@pytest.mark.parametrize("source", ["torchvision", "caffe2"])
def test_grey_images(tmp_path: Path, source: str) -> None:
    """A grey image gives what its copy in three channels gave."""
    foreign = ForeignDetector(source)
    path = saved(tmp_path / ("a.pkl" if source == "caffe2" else "a.pth"), foreign.state())
    grey, colour = like(foreign, channels=1, mean=(0.5,), std=(0.2,)), like(foreign)
    report = load_detector_weights(grey, path)
    load_detector_weights(colour, path)
    assert report.adapted_stem.endswith("3 channels summed to 1")
    x = drawn(1, 1, 64, 64)
    with torch.no_grad():
        for one, three in zip(grey.backbone.body(x), colour.backbone.body(x.expand(-1, 3, -1, -1)), strict=True):
            close(one, three)


def test_own_model(tmp_path: Path) -> None:
    first = network(2, norm="group", box_head="conv", channels=1, mean=(0.5,), std=(0.2,))
    folder = tmp_path / "run"
    folder.mkdir()
    path = saved(folder / "model.pt", first.state_dict())
    second = network(2, norm="group", box_head="conv", channels=1, mean=(0.5,), std=(0.2,))
    for parameter in second.parameters():
        parameter.data.add_(1)
    report = load_detector_weights(second, path)
    assert (report.source, report.dropped, report.new_parts, report.adaptations) == ("monai_ext", (), (), ())
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in second.state_dict().items())
    assert plan_options_of_detector_weights(path) == {"norm": "group", "box_head": "conv"}
    of_run = plan(2, norm="group", box_head="conv", stem_stride=1, pool_sampling=0, mean=(0.1,) * 3)
    (folder / "plan.json").write_text(of_run.to_json())
    options = plan_options_of_detector_weights(path)
    assert (options["stem_stride"], options["pool_sampling"], options["mean"]) == (1, 0, (0.1,) * 3)
    assert options["anchor_sizes"] == of_run.anchor_sizes
    assert replace(of_run, **options) == of_run

    body = saved(tmp_path / "body.pt", first.backbone.state_dict())
    report = load_detector_weights(second, body)
    assert report.new_parts == ("rpn", "box_head", "mask_head")
    nested = saved(tmp_path / "last.pt", {"network": first.state_dict(), "step": torch.tensor(3)})
    assert load_detector_weights(second, nested).place == "network"


def test_backbone_only_of_a_detector(tmp_path: Path) -> None:
    state = ForeignDetector("torchvision", counters=False).state()
    report = load_detector_weights(network(), saved(tmp_path / "weights.pth", state), backbone_only=True)
    assert report.new_parts == ("backbone.fpn", "rpn", "box_head", "mask_head")
    assert all(name.startswith("backbone.body.") for name in report.loaded)
    assert len(report.loaded) + len(report.dropped) == len(state)


PIXEL_MEAN, PIXEL_STD = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]


@pytest.mark.parametrize(
    ("author", "mean", "std", "stride", "options", "stem"),
    [
        ("", None, None, True, {"mean": IMAGENET["mean"], "std": (1, 1, 1)}, "channels from BGR to RGB, times 255"),
        ("", None, None, False, None, ""),  # the network's stride says that it is not Caffe's
        ("torchvision", None, None, False, IMAGENET, ""),
        ("", PIXEL_MEAN, [1.0, 1.0, 1.0], True, {"mean": (0.485, 0.456, 0.406), "std": (1, 1, 1)}, "times 255"),
        ("", PIXEL_MEAN, PIXEL_STD, False, {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, "BGR"),
        ("", PIXEL_MEAN[::-1], PIXEL_STD[::-1], False, {"std": (0.229, 0.224, 0.225)}, ""),
        ("", [100.0, 110.0, 120.0], [51.0, 25.5, 25.5], False, {"std": (0.1, 0.1, 0.2)}, "BGR"),
    ],
)
def test_pixels_of_detectron2(
    tmp_path: Path,
    author: str,
    mean: list[float] | None,
    std: list[float] | None,
    stride: bool,
    options: dict[str, Any] | None,
    stem: str,
) -> None:
    """What the first convolution sees is what it saw there, from what the file says of it."""
    foreign = ForeignDetector("detectron2")
    state = foreign.state()
    if mean is not None:
        state |= {"pixel_mean": torch.tensor(mean)[:, None, None], "pixel_std": torch.tensor(std)[:, None, None]}
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    path = saved(tmp_path / "model.pkl", state, author=author)
    detector = network(stride_in_1x1=stride)
    report = load_detector_weights(detector, path)
    assert report.skipped == ()
    assert "proposal_generator.anchor_generator.cell_anchors.0" in report.dropped
    assert stem in report.adapted_stem
    assert bool(stem) == bool(report.adapted_stem)
    if options is None:
        return
    found = plan_options_of_detector_weights(path)
    assert found["stride_in_1x1"] == stride
    for key, value in options.items():
        assert found[key] == pytest.approx(value, abs=1e-6)
    rgb = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scaled = (rgb - torch.tensor(found["mean"])[:, None, None]) / torch.tensor(found["std"])[:, None, None]
    if mean is None:
        mean = PIXEL_MEAN if stride else PIXEL_MEAN[::-1]
        std = [1.0] * 3 if stride else PIXEL_STD[::-1]
    bgr = 255 * (rgb.flip(1) if mean[0] < mean[2] else rgb)
    theirs = (bgr - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    kernel = state["backbone.bottom_up.stem.conv1.weight"]
    want = torch.nn.functional.conv2d(theirs, kernel)
    # 0.225 stands for 57.375 / 255
    torch.testing.assert_close(
        torch.nn.functional.conv2d(scaled, detector.backbone.body.conv1.weight), want, rtol=1e-4, atol=1e-4 * want.std()
    )


def test_pixels_by_wish(tmp_path: Path) -> None:
    state = ForeignDetector("detectron2").state()
    path, kernel = saved(tmp_path / "a.pth", state), state["backbone.bottom_up.stem.conv1.weight"]
    for pixels, want in {"rgb": kernel, "bgr": kernel.flip(1), "rgb255": kernel * 255}.items():
        detector = network()
        load_detector_weights(detector, path, pixels=pixels)
        assert torch.equal(detector.backbone.body.conv1.weight, want)
        std = plan_options_of_detector_weights(path, pixels)["std"]
        assert std == ((1.0, 1.0, 1.0) if pixels == "rgb255" else IMAGENET["std"])
    with pytest.raises(ValueError, match="pixels 'hsv' is not one of auto, rgb, bgr, bgr255, rgb255"):
        load_detector_weights(network(), path, pixels="hsv")


@pytest.mark.parametrize("source", [*DETECTORS, *BACKBONES])
def test_options_make_the_network_that_fits(tmp_path: Path, source: str) -> None:
    foreign = ForeignDetector(source)
    path = saved(tmp_path / ("a.pkl" if source == "caffe2" else "a.pth"), foreign.state())
    options = plan_options_of_detector_weights(path)
    fitting = plan(**options)
    fitting.check()
    report = load_detector_weights(network_from_instance_plan(fitting), path)
    assert (report.skipped, report.missing, report.other_settings) == ((), (), ())
    assert options["norm"] == ("group" if foreign.grouped else "frozen_batch")
    assert options["normalisation"] == "range"
    if source in BACKBONES:
        assert "pool_aligned" not in options
        return
    torchvision = foreign.family == "torchvision"
    assert options["pool_aligned"] != torchvision
    assert options["round_anchors"] == torchvision
    assert options["pool_sampling"] == (2 if torchvision else 0)
    assert options["box_head"] == ("conv" if foreign.grouped else "fc")


def test_other_settings_are_reported(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", ForeignDetector("torchvision").state())
    report = load_detector_weights(network(canonical_size=100.0), path)
    assert report.other_settings == (
        "canonical_size (file 224.0, network 100.0)",
        "pool_aligned (file False, network True)",
        "round_anchors (file True, network False)",
    )
    assert "trained with other settings: canonical_size (file 224.0, network 100.0)" in report.describe()


@pytest.mark.parametrize(
    ("source", "fields", "lines"),
    [
        ("torchvision", {"norm": "group"}, ["have no place", "Cure: --norm frozen_batch"]),
        ("detectron2-gn", {}, ["are not in the file", "Cure: --norm group --box_head conv"]),
        ("resnet", {"layers": (1, 1, 1, 1)}, ["have no place: layer2.1.conv1.weight", "own architecture"]),
        ("resnet", {"stem_stride": 1, "stride_in_1x1": True}, ["stride in the 3x3", "--stride_in_1x1 false"]),
        ("caffe2", {}, ["stride in the first 1x1", "Cure: --stride_in_1x1 true"]),
        ("torchvision", {"fpn_channels": 32}, ["have another shape: backbone.fpn.inner.0.0.weight (file [16, 32, 1"]),
        ("torchvision", {"box_head": "conv"}, ["have no place: roi_heads.box_head.fc7.weight", "--box_head fc"]),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, source: str, fields: dict[str, Any], lines: list[str]) -> None:
    path = saved(tmp_path / ("a.pkl" if source == "caffe2" else "a.pth"), ForeignDetector(source).state())
    detector = network(**fields)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_detector_weights(detector, path)
    for line in [str(path), "file is bottleneck blocks [1, 2, 1, 1] from 8 features", *lines]:
        assert line in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())


def test_an_arch_is_named(tmp_path: Path) -> None:
    foreign = ForeignDetector("resnet", (3, 4, 6, 3), 64)
    path = saved(tmp_path / "a.pth", foreign.state(numbered=True))
    with pytest.raises(InputError, match="Cure: --arch resnet50 --norm frozen_batch"):
        load_detector_weights(network(norm="group", **architecture("resnet-tiny")), path)


def test_version_2_is_named(tmp_path: Path) -> None:
    state = ForeignDetector("torchvision").state()
    state["rpn.head.conv.1.0.weight"], state["rpn.head.conv.1.0.bias"] = torch.ones(16, 16, 3, 3), torch.ones(16)
    path = saved(tmp_path / "v2.pth", state)
    with pytest.raises(InputError, match=r"(?s)of torchvision v2; .*no second convolution in the RPN"):
        load_detector_weights(network(), path)
    assert load_detector_weights(network(), path, backbone_only=True).source == "torchvision v2"


def test_without_strict_what_fits_is_taken_and_the_rest_reported(tmp_path: Path) -> None:
    """Norms of another kind stay as they are: the same names and shapes, but no batch statistics."""
    foreign = ForeignDetector("torchvision", counters=False)
    state = foreign.state()
    path = saved(tmp_path / "a.pth", {**state, "odd.weight": torch.ones(2)})
    detector = network(norm="group")
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    report = load_detector_weights(detector, path, strict=False)
    assert "odd.weight" in report.skipped
    assert "backbone.body.bn1.running_mean" in report.skipped
    assert "box_head.norms.0.weight" not in report.loaded
    after = detector.state_dict()
    assert torch.equal(after["backbone.body.conv1.weight"], state["backbone.body.conv1.weight"])
    norms = [name for name in before if ".bn" in name or "downsample.1" in name]
    assert norms
    assert all(torch.equal(after[name], before[name]) and name not in report.loaded for name in norms)
    assert "have another shape" not in report.describe()
    assert f"{len(report.skipped)} skipped" in report.describe()

    with pytest.raises(InputError, match=r"only \d+% of the backbone's values"):
        load_detector_weights(network(base_features=16), path, strict=False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(2)}, "is no Mask R-CNN or ResNet of torchvision"),
        ({"rpn.head.cls_logits.weight": torch.ones(3, 16, 1, 1)}, "holds no backbone"),
        (
            {**ForeignDetector("resnet").state(), "layers.0.0.conv1.weight": torch.ones(1)},
            "layers.0.0.conv1.weight is there under two names",
        ),
        (
            {**ForeignDetector("resnet").state(), "conv1.weight": torch.full((8, 3, 7, 7), float("nan"))},
            "1 tensors of the file hold values that are not finite: conv1.weight",
        ),
    ],
    ids=["unknown", "heads", "twice", "nan"],
)
def test_spoilt_files(tmp_path: Path, state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_detector_weights(network(), saved(tmp_path / "a.pth", state), strict=False)


@pytest.mark.parametrize(("source", "eps"), [("torchvision", 1e-5), ("torchvision-old", 0.0)])
def test_small_variances_keep_their_scale(tmp_path: Path, source: str, eps: float) -> None:
    """Files as they are published were used with an epsilon of 0."""
    state = ForeignDetector(source).state()
    state["backbone.body.bn1.weight"], variance = torch.ones(8), torch.logspace(-6, 0, 8)
    state["backbone.body.bn1.running_var"] = variance
    detector = network()
    load_detector_weights(detector, saved(tmp_path / "a.pth", state))
    norm = detector.backbone.body.bn1
    assert isinstance(norm, FrozenBatchNorm)
    # of 1e-6, the difference of numbers near 1e-5
    torch.testing.assert_close(norm.scale_and_shift()[0], (variance + eps).rsqrt(), rtol=1e-5, atol=0)
