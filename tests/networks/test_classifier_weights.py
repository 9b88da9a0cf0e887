"""Files of other libraries load whole, compute what they computed there, and do not fit in silence."""

from __future__ import annotations

import json
import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SEResNext101, senet
from torch import nn

from foreign_weights import PADDED_POOL, SOURCES, Foreign
from monai_ext.errors import InputError
from monai_ext.networks.classifier_weights import load_classifier_weights, plan_options_of_weights
from monai_ext.networks.se_resnext import SeResNeXt, network_from_class_plan
from monai_ext.planning.class_plan import ARCHITECTURES, ClassPlan

FULL = {"layers": (3, 4, 23, 3), "planes": 64, "groups": 32, "group_width": 4, "classes": 1000}


def like(foreign: Foreign, **options: Any) -> SeResNeXt:
    """Our network of the same shape."""
    torch.manual_seed(123)
    given = {
        "spatial_dims": 2, "in_channels": foreign.channels, "num_classes": foreign.classes, "layers": foreign.layers,
        "base_features": foreign.planes, "groups": foreign.groups, "group_width": foreign.group_width,
        "se_ratio": 16 if foreign.gated else 0, "se_hidden": foreign.hidden,
        "stem_pool": "pad1" if foreign.source in PADDED_POOL else "ceil", "fused": False,
    }  # fmt: skip
    return SeResNeXt(**{**given, **options}).eval()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def images(channels: int = 3, size: int = 40) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(9))


def outputs(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(x)


def of(source: str, **options: Any) -> Foreign:
    """Gates of 16 units for NVIDIA's."""
    return Foreign(source, hidden=16 if source.startswith("nvidia") else 0, **options)


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("source", SOURCES)
def test_every_tensor_loads_and_computes_the_same(tmp_path: Path, source: str, counters: bool) -> None:
    foreign = of(source, layers=(1, 2, 11, 1))  # block numbers of two digits
    state = foreign.state(counters=counters)
    network = like(foreign)
    report = load_classifier_weights(network, saved(tmp_path / "weights.pth", state))
    assert len(report.loaded) == len(state)
    assert (report.skipped, report.mismatched, report.missing) == ((), (), ())
    assert not report.replaced_head
    assert (report.adapted_stem, report.other_pool, report.place) == ("", "", "")
    # other order of float32 sums
    torch.testing.assert_close(outputs(network, images()), foreign.logits(state, images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "options", "parameters", "name"),
    [
        ("timm", {}, 48_955_416, "se-resnext101-32x4d"),
        ("legacy", {}, 48_955_416, "se-resnext101-32x4d"),
        ("nvidia", {}, 45_251_128, "se-resnext101-32x4d"),
        ("torchvision", {}, 44_177_704, "resnext101-32x4d"),
        ("torchvision", {"layers": (3, 4, 6, 3), "groups": 1, "group_width": 64}, 25_557_032, "resnet50"),
    ],
)
def test_full_size(tmp_path: Path, source: str, options: dict[str, Any], parameters: int, name: str) -> None:
    """Published parameter counts, from the file's tensors and the network's alike."""
    foreign = of(source, **{**FULL, **options})
    state = foreign.state(numbered=True)
    with torch.device("meta"):
        network = like(foreign)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_batches" not in k) == parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # weights without memory take no values
        report = load_classifier_weights(network, saved(tmp_path / "weights.pth", state))
    assert len(report.loaded) == len(state)
    assert len(state) == 758 or not foreign.gated
    assert report.architecture.split(",")[0] == name
    assert foreign.gated == name.startswith("se-")


def test_monai_loads_a_third_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's patterns know one digit of the block number; what does not match stays random, without a word."""
    state = Foreign("legacy", **FULL).state(numbered=True)
    numbers = {name: float(v.flatten()[0]) for name, v in state.items()}
    monkeypatch.setattr(senet, "load_state_dict_from_url", lambda *_, **__: dict(state))
    theirs = SEResNext101(spatial_dims=2, in_channels=3, num_classes=1000, pretrained=True)
    with torch.device("meta"):
        ours: nn.Module = SEResNext101(spatial_dims=2, in_channels=3, num_classes=1000)
    ours = ours.to_empty(device="cpu")
    report = load_classifier_weights(ours, saved(tmp_path / "weights.pth", state))
    assert len(report.loaded) == 758
    own = ours.state_dict()
    assert sorted(float(v.flatten()[0]) for v in own.values()) == sorted(numbers.values())
    assert own["layer3.22.conv2.adn.N.running_var"].unique().tolist() == [numbers["layer3.22.bn2.running_var"]]
    assert own["layer3.10.se_layer.fc.2.weight"].unique().tolist() == [numbers["layer3.10.se_module.fc2.weight"]]
    random = {name: p.numel() for name, p in theirs.named_parameters() if not torch.equal(p, own[name])}
    assert (len(random), len(list(theirs.parameters()))) == (169, 446)
    assert sum(random.values()) == 16_361_280
    assert all(int(name.split(".")[1]) >= 10 for name in random)
    assert sum(random.values()) / sum(p.numel() for p in theirs.parameters()) == pytest.approx(0.33, abs=0.005)


def test_monai_and_own_files_load_as_they_are(tmp_path: Path) -> None:
    theirs = SEResNext101(spatial_dims=2, in_channels=3, num_classes=3, layers=(1, 1, 1, 1)).eval()
    options = {"spatial_dims": 2, "in_channels": 3, "num_classes": 3, **ARCHITECTURES["se-resnext101-32x4d"]}
    network = SeResNeXt(**{**options, "layers": (1, 1, 1, 1)}, fused=False).eval()
    path = saved(tmp_path / "model.pt", theirs.state_dict())
    report = load_classifier_weights(network, path)
    assert (report.source, len(report.loaded)) == ("MONAI", len(theirs.state_dict()))
    torch.testing.assert_close(outputs(network, images()), outputs(theirs, images()), rtol=1e-4, atol=1e-4)
    assert plan_options_of_weights(path) == {"stem_pool": "ceil", "se_hidden": 0}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "optimizer": {"state": {}}},
        lambda s: {"model_ema": {"n_averaged": torch.tensor(3), **{f"module.module.{k}": v for k, v in s.items()}},
                   "model": {k: v * 0 for k, v in s.items()}},
        lambda s: {"state_dict_ema": {f"_orig_mod.{k}": v for k, v in s.items()}, "state_dict": {"a": torch.ones(2)}},
        lambda s: {"network": {k: v * 0 for k, v in s.items()}, "average": {"steps": 3, "weights": s}},
        lambda s: {"network": s, "average": {"steps": 0, "weights": {}}},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
    ],
    ids=["state_dict", "module", "model_ema", "timm_ema", "last.pt", "last.pt without average", "lightning"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar"])
def test_nested_files(tmp_path: Path, wrap: Any, suffix: str) -> None:
    foreign = of("timm")
    state = foreign.state()
    network = like(foreign)
    report = load_classifier_weights(network, saved(tmp_path / f"weights{suffix}", wrap(state)))
    assert len(report.loaded) == len(state)
    assert report.place
    assert f"from its {report.place}" in report.describe()
    torch.testing.assert_close(network.state_dict()["layer2.1.conv2.conv.weight"], state["layer2.1.conv2.weight"])


def test_safetensors_and_half_precision(tmp_path: Path) -> None:
    foreign = of("timm")
    state = {k: v.half() if v.is_floating_point() else v for k, v in foreign.state().items()}
    header, body = {}, b""
    for name, tensor in state.items():
        data = tensor.numpy().tobytes()
        kind = "F16" if tensor.is_floating_point() else "I64"
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    network = like(foreign)
    report = load_classifier_weights(network, path)
    assert len(report.loaded) == len(state)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    torch.testing.assert_close(network.state_dict()["layer0.conv1.weight"], state["conv1.weight"].float())


@pytest.mark.parametrize("final_conv", [False, True])
@pytest.mark.parametrize("classes", [5, 4, 7])
def test_head(tmp_path: Path, classes: int, final_conv: bool) -> None:
    """Taken for the same number of classes, linear or convolution; else it stays as it was, and the report says so."""
    foreign = of("timm", classes=5)
    state = foreign.state()
    network = like(foreign, num_classes=classes, final_conv=final_conv)
    before = network.last_linear.weight.detach().clone()
    report = load_classifier_weights(network, saved(tmp_path / "weights.pth", state))
    assert report.replaced_head == (classes != 5)
    assert ("the classifying layer is new" in report.describe()) == (classes != 5)
    after = network.last_linear.weight.detach()
    if classes == 5:
        torch.testing.assert_close(after.flatten(1), state["fc.weight"])
        torch.testing.assert_close(outputs(network, images()), foreign.logits(state, images()), rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(after, before)
        assert len(report.loaded) == len(state) - 2


def test_a_new_head_on_request_and_a_file_without_one(tmp_path: Path) -> None:
    foreign = of("timm")
    state = foreign.state()
    network = like(foreign)
    before = network.last_linear.weight.detach().clone()
    assert load_classifier_weights(network, saved(tmp_path / "a.pth", state), new_head=True).replaced_head
    headless = {k: v for k, v in state.items() if not k.startswith("fc.")}
    assert load_classifier_weights(network, saved(tmp_path / "b.pth", headless)).replaced_head
    assert torch.equal(network.last_linear.weight, before)
    features = like(foreign, features_only=True)
    report = load_classifier_weights(features, saved(tmp_path / "a.pth", state))
    assert report.skipped == ("fc.weight", "fc.bias")
    assert not report.replaced_head


def test_spare_class_of_tensorflow_is_dropped(tmp_path: Path) -> None:
    foreign = of("timm", classes=1001)
    state = foreign.state()
    network = like(foreign, num_classes=1000)
    report = load_classifier_weights(network, saved(tmp_path / "weights.pth", state))
    assert report.dropped_class
    assert not report.replaced_head
    expected = foreign.logits(state, images())[:, :1000]
    torch.testing.assert_close(outputs(network, images()), expected, rtol=1e-4, atol=1e-4)


def test_grey_images_get_the_sum_of_the_channels(tmp_path: Path) -> None:
    foreign = of("timm")
    state = foreign.state()
    network = like(foreign, in_channels=1)
    report = load_classifier_weights(network, saved(tmp_path / "weights.pth", state))
    assert report.adapted_stem == "3 channels summed to 1"
    grey = images(1)
    expected = foreign.logits(state, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(outputs(network, grey), expected, rtol=1e-4, atol=1e-4)


def test_other_stem_pool_is_said(tmp_path: Path) -> None:
    foreign = of("timm")
    path = saved(tmp_path / "weights.pth", foreign.state())
    report = load_classifier_weights(like(foreign, stem_pool="ceil"), path)
    assert report.other_pool == "pad1"
    assert "--stem_pool pad1" in report.describe()


@pytest.mark.parametrize(
    ("source", "options"),
    [("timm", {"stem_pool": "pad1", "se_hidden": 0}), ("torchvision", {"stem_pool": "pad1", "se_hidden": 0}),
     ("legacy", {"stem_pool": "ceil", "se_hidden": 0}), ("nvidia", {"stem_pool": "pad1", "se_hidden": 16}),
     ("nvidia-old", {"stem_pool": "pad1", "se_hidden": 16})],
)  # fmt: skip
def test_plan_options(tmp_path: Path, source: str, options: dict[str, Any]) -> None:
    assert plan_options_of_weights(saved(tmp_path / "weights.pth", of(source).state())) == options


def test_wrong_architecture_is_refused_by_name(tmp_path: Path) -> None:
    """A ResNet-50 for a network of another shape: both named, counts and first names, and the key that helps."""
    resnet = Foreign("torchvision", (3, 4, 6, 3), 64, 1, 64, classes=1000)
    path = saved(tmp_path / "resnet50.pth", resnet.state(numbered=True))
    network = like(of("timm"))
    before = {name: v.clone() for name, v in network.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_classifier_weights(network, path)
    text = str(error.value)
    assert "file is resnet50, blocks [3, 4, 6, 3], 2D, 3 channels, 1000 classes, of torchvision or timm" in text
    assert "the network is se-resnext17-4x16d of 16 features, blocks [1, 2, 1, 1], 2D, 3 channels, 5 classes" in text
    assert "20 tensors of the network are not in the file: layer1.0.se_layer.fc.0.weight" in text
    assert "of the file have no place: layer1.1.conv1.weight" in text
    assert "have another shape: layer0.conv1.weight (file [64, 3, 7, 7], network [16, 3, 7, 7])" in text
    assert "Cure: --arch resnet50" in text
    assert all(torch.equal(v, before[name]) for name, v in network.state_dict().items())
    with pytest.raises(InputError, match=r"only 0% of the network's values"):
        load_classifier_weights(network, path, strict=False)


def test_nvidia_gates_do_not_fit_gates_by_ratio(tmp_path: Path) -> None:
    foreign = Foreign("nvidia", (3, 4, 23, 3), 64, 32, 4, hidden=16, classes=2)
    path = saved(tmp_path / "nvidia.pth", foreign.state(numbered=True))
    with torch.device("meta"):
        network = like(replace(foreign, hidden=0))
    with pytest.raises(
        InputError, match=r"16 hidden units a gate[\s\S]*Cure: --arch se-resnext101-32x4d --se_hidden 16"
    ):
        load_classifier_weights(network, path)


def test_one_tensor_more_or_less_is_refused_or_reported(tmp_path: Path) -> None:
    foreign = of("timm")
    state = foreign.state()
    weight = state.pop("layer2.1.bn2.running_var")
    state["layer2.1.bn4.running_var"] = weight
    state["aux.weight"] = weight
    path = saved(tmp_path / "weights.pth", state)
    with pytest.raises(InputError) as error:
        load_classifier_weights(like(foreign), path)
    assert "1 tensors of the network are not in the file: layer2.1.conv2.adn.N.running_var" in str(error.value)
    assert "2 tensors of the file have no place: layer2.1.bn4.running_var, aux.weight" in str(error.value)
    report = load_classifier_weights(like(foreign), path, strict=False)
    assert report.missing == ("layer2.1.conv2.adn.N.running_var",)
    assert report.skipped == ("layer2.1.bn4.running_var", "aux.weight")
    assert len(report.loaded) == len(state) - 2
    assert "2 skipped (layer2.1.bn4.running_var, aux.weight), 1 missing" in report.describe()


def test_strides_of_the_legacy_se_resnet_are_refused(tmp_path: Path) -> None:
    """SE-ResNet-50 of Cadene strides in its first 1x1 convolution: same shapes, another function."""
    foreign = of("legacy", groups=1, group_width=64)
    with pytest.raises(InputError, match="need their stride, which is not in the 3x3 convolution"):
        load_classifier_weights(like(foreign), saved(tmp_path / "weights.pth", foreign.state()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"encoder.0.weight": torch.ones(2)}, r"is no residual classifier .* 1 tensors \(encoder.0.weight\)"),
        ({"epoch": 3}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        (
            {"conv1.0.weight": torch.ones(8, 3, 3, 3), "layer1.0.conv1.weight": torch.ones(8, 8, 1, 1)},
            "no residual netw",
        ),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_classifier_weights(like(of("timm")), saved(tmp_path / "weights.pth", content))


def test_the_plan_beside_an_own_model_decides(tmp_path: Path) -> None:
    plan = ClassPlan(
        dataset="d", classes=("a", "b"), multi_label=False, spatial_dims=2, channels=3, image_size=(64, 64),
        mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 2.0), arch="se-resnext-narrow", stem_pool="none",
        **ARCHITECTURES["se-resnext-narrow"],
    )  # fmt: skip
    (tmp_path / "plan.json").write_text(plan.to_json())
    network = network_from_class_plan(plan)
    path = saved(tmp_path / "model.pt", network.state_dict())
    assert plan_options_of_weights(path) == {
        "stem_pool": "none", "se_hidden": 0, "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 2.0)
    }  # fmt: skip
    assert load_classifier_weights(network, path).other_pool == ""


def test_ranges_of_quantised_training_are_no_weights(tmp_path: Path) -> None:
    """Reported, but no reason to refuse a model as a start: another training observes its own."""
    foreign = of("legacy")
    trained = like(foreign)
    state = {**trained.state_dict(), "layer0.conv1.input_range.low": torch.zeros(())}
    network = like(foreign)
    nn.init.zeros_(network.last_linear.weight)
    report = load_classifier_weights(network, saved(tmp_path / "model.pt", state))
    assert report.skipped == ("layer0.conv1.input_range.low",)
    assert torch.equal(network.last_linear.weight, trained.last_linear.weight)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_spoilt_values_are_refused(tmp_path: Path, value: float, strict: bool) -> None:
    foreign = of("timm")
    state = foreign.state()
    state["layer3.0.bn2.running_var"][1] = value
    with pytest.raises(InputError, match=r"1 tensors of the file hold values that are not finite: layer3.0.bn2.runn"):
        load_classifier_weights(like(foreign), saved(tmp_path / "weights.pth", state), strict)


def test_pictures_do_not_fill_volumes(tmp_path: Path) -> None:
    foreign = of("timm")
    with pytest.raises(InputError, match=r"2D, 3 ch[\s\S]*3D, 3 ch[\s\S]*Cure: a file of a 3D network; weights of 2D"):
        load_classifier_weights(like(foreign, spatial_dims=3), saved(tmp_path / "weights.pth", foreign.state()))
    report = load_classifier_weights(
        like(foreign, spatial_dims=1), saved(tmp_path / "one.pt", like(foreign, spatial_dims=1).state_dict())
    )
    assert not report.mismatched
