"""The form for CPUs: the same logits, for every shape that comes, and plain torch where oneDNN cannot."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import nn

from monai_ext.networks import prepacked_classifier as module
from monai_ext.networks.prepacked_classifier import PackedConvolution, PrepackedClassifier, prepacked_classifier
from small_classifier import small, with_statistics

needs_packing = pytest.mark.skipif(not module.packing_available(), reason="this torch has no oneDNN convolutions")


@needs_packing
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("options", [{}, {"se_ratio": 0}, {"se_hidden": 5, "stem_pool": "pad1", "final_conv": True}])
def test_logits_are_those_of_the_network(dims: int, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    network = with_statistics(small(dims, **options)).eval()
    packed = prepacked_classifier(network)
    assert isinstance(packed, PrepackedClassifier)
    for batch, edge in ((2, 32), (1, 40), (2, 32), (3, 24)):
        image = torch.randn(batch, 1, *(edge,) * dims)
        with torch.no_grad():
            torch.testing.assert_close(packed(image), network(image), rtol=1e-4, atol=1e-4)  # other order of sums
    assert not caplog.records  # every convolution runs packed
    kept = [m._packed for m in packed.modules() if isinstance(m, PackedConvolution)]
    assert {len(shapes) for shapes in kept} == {2}
    assert all(weight.is_mkldnn for shapes in kept for weight in shapes.values())


@needs_packing
def test_a_copy_packs_anew() -> None:
    packed = prepacked_classifier(with_statistics(small()))
    image = torch.randn(1, 1, 32, 32)
    expected = packed(image)
    torch.testing.assert_close(copy.deepcopy(packed)(image), expected, rtol=0, atol=0)


@needs_packing
def test_convolution_that_differs_runs_as_torchs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    convolution = PackedConvolution(nn.Conv2d(4, 4, 3), relu=False)
    x = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        expected = convolution.plain(x)
        monkeypatch.setattr(PackedConvolution, "_run", lambda self, x, *_: self._run_plain(x, None) + 1)
        with caplog.at_level(logging.WARNING):
            torch.testing.assert_close(convolution(x), expected, rtol=0, atol=0)
            convolution(x)
    assert [r.getMessage().split(":")[-1].strip() for r in caplog.records] == ["differs by 1"]


@pytest.mark.parametrize("network", [small(1), small(2, features_only=True), small(2).to(torch.bfloat16)])
def test_networks_that_cannot_be_packed_are_folded(network: nn.Module) -> None:
    folded = prepacked_classifier(network)
    assert type(folded) is type(network)
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in folded.modules())


def test_without_the_ops_the_network_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "packing_available", lambda: False)
    assert not isinstance(prepacked_classifier(small()), PrepackedClassifier)


@needs_packing
def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 on the CPU, got torch\.float64"):
        prepacked_classifier(small())(torch.zeros(1, 1, 32, 32, dtype=torch.float64))
