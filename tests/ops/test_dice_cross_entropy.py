"""Sums of Dice and cross-entropy losses: against torch's losses, errors, layouts, memory; the loss made of them."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_ext.losses.deep_supervision import DeeplySupervised
from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy
from monai_ext.ops.dice_cross_entropy import _backward, _sums, dice_cross_entropy_sums
from monai_ext.ops.forms import forced

COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))
INTERPRETER = find_spec("triton") is not None and not torch.cuda.is_available()
FORMS = [
    "torch",
    pytest.param("c++", marks=pytest.mark.skipif(not COMPILER, reason="no C++ compiler")),
    pytest.param("triton", marks=pytest.mark.skipif(not INTERPRETER, reason="Triton's interpreter does not run here")),
]


def example(classes: int = 4, shape: tuple[int, ...] = (6, 5, 3), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((2, classes, *shape), generator=random)
    return logits.requires_grad_(), torch.randint(0, classes, (2, *shape), generator=random)


def assert_same_with_gradient(found: torch.Tensor, expected: torch.Tensor, logits: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    (gradient,) = torch.autograd.grad(found, logits)
    (reference,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.15, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, 2])
def test_terms_are_those_of_torch_cross_entropy(form, smoothing, weighted, ignore):
    logits, labels = example()
    weights = torch.tensor([0.2, 1.0, 2.0, 0.7]) if weighted else None
    with forced(form):
        *_, terms = dice_cross_entropy_sums(logits, labels, weights, ignore, "softmax", 0.0, smoothing)
        options = {"weight": weights, "ignore_index": -100 if ignore is None else ignore, "label_smoothing": smoothing}
        assert_same_with_gradient(terms[0] / terms[1], F.cross_entropy(logits, labels, **options), logits)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_terms_are_those_of_torch_binary_cross_entropy(form, smoothing):
    logits, labels = example()
    target = F.one_hot(labels, 4).movedim(-1, 1).float() * (1 - smoothing) + smoothing / 2
    with forced(form):
        *_, terms = dice_cross_entropy_sums(logits, labels, activation="sigmoid", label_smoothing=smoothing)
        assert_same_with_gradient(terms[0] / terms[1], F.binary_cross_entropy_with_logits(logits, target), logits)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_overlaps_are_those_of_one_hot_labels(form, activation):
    logits, labels = example()
    p = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    own = F.one_hot(labels, 4).movedim(-1, 1)
    with forced(form):
        intersection, predicted, present, _ = dice_cross_entropy_sums(logits, labels, activation=activation)
    torch.testing.assert_close(intersection, (p * own).flatten(2).sum(2))
    torch.testing.assert_close(predicted, p.flatten(2).sum(2))
    torch.testing.assert_close(present, own.flatten(2).sum(2).float(), rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 40), st.integers(1, 40)),
    gamma=st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 1.7]),
    smoothing=st.sampled_from([0.0, 0.3]),
    activation=st.sampled_from(["softmax", "sigmoid"]),
    last=st.booleans(),
    seed=st.integers(0, 1000),
)
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_cpp_equals_the_reference_for_any_shape(shape, gamma, smoothing, activation, last, seed):
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(shape, generator=random)
    if last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(-1, shape[1], (shape[0], *shape[2:]), generator=random, dtype=torch.int16)
    outputs, gradients = [], []
    for form, values in (("torch", logits.double()), ("c++", logits)):
        values.requires_grad_()
        with forced(form):
            sums = dice_cross_entropy_sums(values, labels, None, -1, activation, gamma, smoothing)
            total = sum((part * (i + 1)).sum() for i, part in enumerate(sums))
            gradients += torch.autograd.grad(total, values)
        outputs.append(sums)
    for expected, found in zip(*outputs, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-5)
    torch.testing.assert_close(gradients[1].double(), gradients[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.0, 2.0, 2.5])
def test_gradient_of_the_reference(activation, gamma):
    logits, labels = example(3, (4, 2))

    def call(values):
        return dice_cross_entropy_sums(values, labels, torch.tensor([0.5, 1, 2]), 1, activation, gamma, 0.1)[::3]

    assert torch.autograd.gradcheck(call, logits.detach().double().requires_grad_())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_registration(layout):
    logits, labels = example()
    logits = logits.detach().contiguous(memory_format=layout).requires_grad_()
    weights, ignore = (None, None) if layout == torch.contiguous_format else (torch.ones(4), 2)
    torch.library.opcheck(_sums, (logits, labels, weights, ignore, "softmax", 2.0, 0.1))
    gradients = torch.randn(2, 4), torch.randn(2, 4), torch.randn(2)
    torch.library.opcheck(_backward, (logits.detach(), labels, weights, *gradients, ignore, "softmax", 2.0, 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_has_the_type_and_layout_of_the_logits(dtype):
    logits, labels = example()
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        values = logits.detach().to(dtype).contiguous(memory_format=layout).requires_grad_()
        dice_cross_entropy_sums(values, labels)[3][0].backward()
        assert values.grad.dtype == dtype
        assert values.grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("form", FORMS)
def test_any_integer_dtype(dtype, form):
    logits, labels = example(2)
    with forced(form):
        found = dice_cross_entropy_sums(logits, labels.to(dtype))
        expected = dice_cross_entropy_sums(logits, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_ignored_voxels_may_hold_anything():
    logits, labels = example()
    labels[:, 2] = 255
    with torch.no_grad():
        logits[:, :, 2] = torch.inf
    sums = dice_cross_entropy_sums(logits, labels, None, 255)
    (gradient,) = torch.autograd.grad(sums[0].sum() + sums[3][0], logits)
    assert all(part.isfinite().all() for part in sums)
    assert gradient[:, :, 2].abs().max() == 0
    assert gradient.isfinite().all()


def test_all_voxels_ignored():
    logits, labels = example()
    loss = DiceCrossEntropy(ignore_index=7)(logits, torch.full_like(labels, 7))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == 0
    assert gradient.abs().max() == 0


WRONG = [(torch.int64, -3), (torch.int64, 2**40), (torch.uint8, 4), (torch.int16, 99)]


@pytest.mark.parametrize("form", FORMS[:2])
@pytest.mark.parametrize(("dtype", "value"), WRONG)
def test_label_without_class_is_refused_with_the_range(form, dtype, value):
    logits, labels = example()
    labels[1, 2, 3, 1] = value
    message = f"labels reach from {min(value, 0)} to {max(value, 3)}, network has 4 classes"
    with forced(form), pytest.raises(ValueError, match=message):
        dice_cross_entropy_sums(logits, labels.to(dtype))


@pytest.mark.parametrize("form", FORMS[2:])
def test_label_without_class_makes_terms_nan_on_devices(form):
    logits, labels = example()
    labels[0, 1, 1, 1] = 4
    with forced(form):
        assert dice_cross_entropy_sums(logits, labels)[3].isnan().any()
        assert dice_cross_entropy_sums(logits, labels, ignore_index=4)[3].isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.zeros(2, 4, 5, 3, dtype=torch.long)}, "do not fit"),
        ({"labels": torch.zeros(2, 6, 5, 3)}, "integer labels"),
        ({"class_weights": torch.ones(3)}, "one a class"),
        ({"activation": "tanh"}, "softmax, sigmoid"),
        ({"focal_gamma": 0.5}, "0 or at least 1"),
        ({"label_smoothing": 1.5}, "lie in"),
    ],
)
def test_wrong_arguments(changes, message):
    logits, labels = example()
    with pytest.raises(ValueError, match=message):
        dice_cross_entropy_sums(**{"logits": logits, "labels": labels, **changes})


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_results_do_not_depend_on_the_number_of_threads():
    logits, labels = example(3, (40, 41, 43))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            sums = dice_cross_entropy_sums(logits, labels)
            results.append((*sums, *torch.autograd.grad(sums[3][0] + sums[0].sum(), logits)))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_only_logits_and_labels_are_kept():
    logits, labels = example(3, (24, 24, 24))
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        DiceCrossEntropy(batch_dice=True)(logits, labels)
    assert sum(kept.values()) < logits.numel() * 4 + labels.numel() * 8 + 1000


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 3.0]])
def test_loss_with_label_smoothing_is_that_of_torch(smoothing, weights):
    logits, labels = example()
    labels[:, 0] = 9
    loss = DiceCrossEntropy(ignore_index=9, class_weights=weights, label_smoothing=smoothing)
    dice, found = loss.parts(logits, labels[:, None])
    theirs = torch.nn.CrossEntropyLoss(None if weights is None else torch.tensor(weights), ignore_index=9,
                                       label_smoothing=smoothing)  # fmt: skip
    assert_same_with_gradient(found, theirs(logits, labels), logits)
    torch.testing.assert_close(dice, DiceCrossEntropy(ignore_index=9).parts(logits, labels)[0], rtol=0, atol=0)


def test_loss_with_sigmoid_is_dice_and_binary_cross_entropy():
    logits, labels = example()
    own, p = F.one_hot(labels, 4).movedim(-1, 1).float().flatten(2), logits.sigmoid().flatten(2)
    ratio = (2 * (p * own).sum(2) + 1e-5) / (p.sum(2) + own.sum(2) + 1e-5)
    expected = 1 - ratio[:, 1:].mean() + F.binary_cross_entropy_with_logits(logits.flatten(2), own)
    assert_same_with_gradient(DiceCrossEntropy(activation="sigmoid")(logits, labels), expected, logits)


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"label_smoothing": -0.1}])
def test_loss_refuses_unknown_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DiceCrossEntropy(**options)


def test_loss_takes_monai_tensors_and_floating_labels():
    logits, labels = example()
    found = DiceCrossEntropy()(MetaTensor(logits), MetaTensor(labels[:, None].float()))
    assert found.item() == DiceCrossEntropy()(logits, labels).item()
    found.backward()
    assert logits.grad.abs().max() > 0


def test_loss_compiles_without_breaks():
    logits, labels = example(3, (8, 8))
    loss = DeeplySupervised(DiceCrossEntropy(batch_dice=True, focal_gamma=2.0))
    outputs = [logits, logits.detach()[..., ::2, ::2].requires_grad_()]
    compiled = torch.compile(loss.loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels), loss.loss(logits, labels))
    loss(outputs, labels[:, None]).backward()
    assert all(output.grad.isfinite().all() for output in outputs)
