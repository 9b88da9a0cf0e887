"""The whole detector: losses, detections, learning."""

from __future__ import annotations

import warnings

import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.losses.detection_loss import LOSSES, DetectionLoss
from monai_ext.networks.mask_rcnn.detector import MaskRCNN, network_from_instance_plan
from monai_ext.networks.mask_rcnn.packed_detections import unpack_detections
from monai_ext.networks.mask_rcnn.structures import Detections, Targets
from monai_ext.ops.paste_masks import paste_masks
from small_detector import DRAWN, discs, small_detector, small_plan


def batch(*counts: int, size: int = 64, classes: int = 1) -> tuple[torch.Tensor, list[Targets]]:
    pairs = [discs(count, size, size, seed, classes) for seed, count in enumerate(counts)]
    return torch.stack([image for image, _ in pairs]), [targets for _, targets in pairs]


def found_share(detections: Detections, targets: Targets, threshold: float = 0.5) -> float:
    """Of the objects, those of which a detected mask with a score of 0.5 overlaps by more than the threshold."""
    sure = detections.scores >= 0.5
    painted = paste_masks(detections.masks[sure], detections.boxes[sure], *targets.label_map.shape)
    hits, detected = 0, int(sure.sum())
    for number in targets.ids.tolist():
        mask = targets.label_map == number
        overlaps = [
            ((painted == k) & mask).sum() / ((painted == k) | mask).sum() for k in painted[mask].unique().tolist() if k
        ]
        hits += max(overlaps, default=0) > threshold
    return hits / max(targets.ids.numel(), detected)


def test_losses_are_frozen() -> None:
    images, targets = batch(5, 0, 12)
    torch.manual_seed(7)
    losses = small_detector()(images, None, targets)
    expected = {
        "rpn_class": 0.7003949,
        "rpn_box": 0.1619727,
        "roi_class": 0.6660317,
        "roi_box": 0.3550245,
        "mask": 0.6038919,
    }
    # other widths of vectors and other kernels add in another order: 3e-7 from AVX-512 to SSE4.1 and to plain torch
    torch.testing.assert_close({name: value.item() for name, value in losses.items()}, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (1,), (400,), (0, 400, 1)])
def test_any_number_of_objects(counts: tuple[int, ...]) -> None:
    images, targets = batch(*counts, size=128)
    assert [target.ids.numel() > 250 for target in targets] == [count == 400 for count in counts]
    network = small_detector()
    losses = network(images, None, targets)
    assert tuple(losses) == LOSSES
    for name, value in losses.items():
        assert value.ndim == 0, name
        assert value.dtype == torch.float32, name
        assert value.isfinite(), name
        if not any(counts):
            assert (value == 0) == (name in ("rpn_box", "roi_box", "mask")), name
        else:
            assert value > 0, name
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("classes", [1, 3])
def test_autocast_leaves_losses_in_float32(classes: int) -> None:
    names = tuple("abc"[:classes])
    plan = small_plan(classes=names, category_ids=tuple(range(classes)))
    network, (images, targets) = small_detector(plan), batch(6, 9, classes=classes)
    torch.manual_seed(0)
    wide = network(images, None, targets)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(images, None, targets)
        detections = network.detect(images)
    for name in LOSSES:
        assert half[name].dtype == torch.float32
        # three digits of bfloat16, and other proposals among those of almost equal scores
        torch.testing.assert_close(half[name], wide[name], rtol=0.1, atol=0.02)
    assert all(part.dtype == torch.float32 for one in detections for part in (one.boxes, one.scores, one.masks))
    sum(half.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def train(network: MaskRCNN, images: torch.Tensor, targets: list[Targets], steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loss, curve = DetectionLoss(), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(network(images, None, targets), targets)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        curve.append(value.item())
    return curve


def test_learns_an_image_by_heart() -> None:
    torch.manual_seed(0)
    images, targets = batch(5)
    network, steps = small_detector(), 0
    while found_share(network.detect(images)[0], targets[0]) <= 0.9:
        assert steps < 200
        train(network, images, targets, 25)
        steps += 25
    assert steps > 0


def test_same_curve_twice() -> None:
    images, targets = batch(4, 0, 7)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        curves = []
        for _ in range(2):
            torch.manual_seed(5)
            curves.append(train(small_detector(), images, targets, 4))
    finally:
        torch.use_deterministic_algorithms(before)
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0]
    torch.manual_seed(6)
    assert train(small_detector(), images, targets, 1) != curves[0][:1]


def test_detections_keep_to_the_rules() -> None:
    plan = small_plan(classes=("a", "b"), category_ids=(1, 2), score_threshold=0.3, max_detections=7)
    network = small_detector(plan).eval()
    images, _ = batch(5, 8)
    for one in network.detect(images):
        assert one.scores.numel() == 7
        assert (one.scores >= 0.3).all()
        assert (one.scores.diff() <= 0).all()
        assert set(one.labels.tolist()) <= {1, 2}
        assert one.masks.shape == (7, 28, 28)
        assert ((one.masks >= 0) & (one.masks <= 1)).all()
        assert (one.boxes >= 0).all()
        assert (one.boxes <= 64).all()
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()


def test_output_without_targets_is_packed() -> None:
    network = small_detector().eval()
    images, _ = batch(5, 8)
    packed = network(images)
    found = network.detect(images)
    assert packed.shape == (2, 6 + 28 * 28, max(one.scores.numel() for one in found))
    for one, other in zip(unpack_detections(packed), found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_nothing_found() -> None:
    plan = small_plan(score_threshold=1.0)
    network = small_detector(plan).eval()
    images, _ = batch(3)
    assert network.detect(images)[0].masks.shape == (0, 28, 28)
    packed = network(images)
    assert packed.shape == (1, 6 + 28 * 28, 1)
    assert not packed.any()


def test_an_image_is_not_changed_by_its_neighbour() -> None:
    network = small_detector().eval()
    images, _ = batch(5, 8)
    alone, together = network.detect(images[:1])[0], network.detect(images)[0]
    assert alone.scores.numel() == together.scores.numel() > 0
    for one, other in zip(alone, together, strict=True):
        # the kernels of the convolutions go by the size of the batch: rounding differs
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_boxes_end_where_the_image_ends() -> None:
    network = small_detector().eval()
    images, targets = batch(5, 8)
    sizes = torch.tensor([[40, 64], [64, 52]])
    for (height, width), one in zip(sizes.tolist(), network.detect(images, sizes), strict=True):
        assert one.boxes[:, 2].max() <= width
        assert one.boxes[:, 3].max() <= height
        assert one.boxes.shape[0] > 0
    assert all(value.isfinite() for value in network(images, sizes, targets).values())


def test_crowd_regions_are_no_negatives() -> None:
    images, targets = batch(0)
    everywhere = [targets[0]._replace(crowd=torch.tensor([[-500.0, -500.0, 500.0, 500.0]]))]
    losses = small_detector()(images, None, everywhere)
    assert all(value == 0 for value in losses.values())
    assert all(value.requires_grad for value in losses.values())
    images, targets = batch(5)
    losses = small_detector()(images, None, [targets[0]._replace(crowd=everywhere[0].crowd)])
    assert all(value > 0 for value in losses.values())  # objects that are told apart stay examples


def test_fewer_masks() -> None:
    images, targets = batch(6, 0, 5)
    network, shapes = small_detector(mask_batch=2), []
    network.mask_head.register_forward_hook(lambda module, given, found: shapes.append(found.shape[0]))
    network(images, None, targets)
    assert shapes == [4]


@pytest.mark.parametrize("norm", ["group", "batch", "frozen_batch"])
@pytest.mark.parametrize("box_head", ["fc", "conv"])
def test_norms_and_heads(norm: str, box_head: str) -> None:
    network = small_detector(small_plan(norm=norm, box_head=box_head), freeze_at=2 if norm == "frozen_batch" else 0)
    images, targets = batch(4)
    sum(network(images, None, targets).values()).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) != parameter.requires_grad, name
    norms = {type(module).__name__ for module in network.modules() if "Norm" in type(module).__name__}
    assert norms == {{"group": "GroupNorm", "batch": "BatchNorm2d", "frozen_batch": "FrozenBatchNorm"}[norm]}


def test_plan_of_the_reference() -> None:
    coco = {"fpn_channels": 256, "box_features": 1024, "mask_features": 256, "base_features": 64}
    plan = small_plan(
        classes=tuple(map(str, range(90))), category_ids=tuple(range(90)), channels=3, mean=(0.0,) * 3, std=(1.0,) * 3,
        block="bottleneck", layers=(3, 4, 6, 3), norm="frozen_batch", stem_stride=2, **coco,
    )  # fmt: skip
    with torch.device("meta"):
        network = network_from_instance_plan(plan)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    # ResNet-50 without the affine of its norms, which are buffers, and a pyramid with biases
    assert counts["backbone"] == 23_454_912 + 3_344_384
    assert counts["rpn"] == 593_935
    assert counts["box_head"] == 13_895_680 + 91 * 1025 + 360 * 1025
    assert counts["mask_head"] == 2_360_320 + 262_400 + 90 * 257


def test_arguments_are_passed_on() -> None:
    network = network_from_instance_plan(small_plan(rpn_nms=0.6, box_nms=0.4), **DRAWN, rpn_beta=0.1, roi_positive=0.5)
    assert (network.rules.rpn_batch, network.rules.roi_batch, network.rules.roi_positive) == (64, 32, 0.5)
    assert (network.rules.proposals.pre_nms, network.rules.proposals.post_nms) == (200, 64)
    assert network.rules.proposals.nms == network.proposals.nms == 0.6
    assert (network.rules.rpn_beta, network.detections.nms, network.pool.strides) == (0.1, 0.4, (2, 4, 8, 16))


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match=r"--rpn_low 0.7 is above --rpn_high 0.3"):
        small_detector(rpn_high=0.3, rpn_low=0.7)
    network, (images, targets) = small_detector(), batch(2)
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        network(images[0])
    with pytest.raises(ValueError, match="1 images need as many targets, got 2"):
        network(images, None, targets * 2)
    with pytest.raises(ValueError, match="within 64 x 64"):
        network(images, torch.tensor([[64, 65]]))
    with pytest.raises(ValueError, match=r"must be \[1, 2\]"):
        network(images, torch.tensor([64, 64]))
    with pytest.raises(ValueError, match=r"label map \(32, 64\)"):
        network(images, None, [targets[0]._replace(label_map=targets[0].label_map[:32])])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_waits_once_for_the_device() -> None:
    images, targets = batch(5, 0, 9)
    network, images, targets = small_detector().cuda(), images.cuda(), [target.to("cuda") for target in targets]
    network(images, None, targets)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            network(images, None, targets)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert (
        sum("synchroniz" in str(one.message) for one in caught) <= 2
    )  # for the number of masks; some releases warn twice
