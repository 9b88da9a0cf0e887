"""Names of torchvision's detectors, as they are published and as they are written now."""

from __future__ import annotations

import pytest

from monai_ext.networks.mask_rcnn.torchvision_detector_names import is_published, is_version_2, name_of_torchvision


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("backbone.body.layer1.0.downsample.0.weight", "backbone.body.layer1.0.downsample.0.weight"),
        ("backbone.fpn.inner_blocks.3.0.weight", "backbone.fpn.inner.3.0.weight"),
        ("backbone.fpn.inner_blocks.3.weight", "backbone.fpn.inner.3.0.weight"),
        ("backbone.fpn.layer_blocks.0.bias", "backbone.fpn.outer.0.0.bias"),
        ("backbone.fpn.layer_blocks.0.1.running_var", "backbone.fpn.outer.0.1.running_var"),
        ("rpn.head.conv.bias", "rpn.conv.bias"),
        ("rpn.head.conv.0.0.bias", "rpn.conv.bias"),
        ("rpn.head.cls_logits.weight", "rpn.cls_logits.weight"),
        ("rpn.head.bbox_pred.bias", "rpn.bbox_pred.bias"),
        ("roi_heads.box_head.fc6.weight", "box_head.fc1.weight"),
        ("roi_heads.box_head.fc7.bias", "box_head.fc2.bias"),
        ("roi_heads.box_head.3.0.weight", "box_head.convs.3.weight"),
        ("roi_heads.box_head.0.1.bias", "box_head.norms.0.bias"),
        ("roi_heads.box_head.5.weight", "box_head.fc1.weight"),
        ("roi_heads.box_predictor.cls_score.bias", "box_head.cls_score.bias"),
        ("roi_heads.box_predictor.bbox_pred.weight", "box_head.bbox_pred.weight"),
        ("roi_heads.mask_head.mask_fcn1.weight", "mask_head.convs.0.weight"),
        ("roi_heads.mask_head.3.0.weight", "mask_head.convs.3.weight"),
        ("roi_heads.mask_head.3.1.weight", "mask_head.norms.3.weight"),
        ("roi_heads.mask_predictor.conv5_mask.weight", "mask_head.deconv.weight"),
        ("roi_heads.mask_predictor.mask_fcn_logits.bias", "mask_head.logits.bias"),
        ("rpn.head.conv.1.0.weight", "rpn.head.conv.1.0.weight"),  # without a place
        ("roi_heads.keypoint_head.0.weight", "roi_heads.keypoint_head.0.weight"),
    ],
)
def test_names(name: str, own: str) -> None:
    assert name_of_torchvision(name) == own


def test_versions() -> None:
    assert is_published(frozenset({"rpn.head.conv.weight"}))
    assert not is_published(frozenset({"rpn.head.conv.0.0.weight"}))
    assert is_version_2(frozenset({"rpn.head.conv.0.0.weight", "rpn.head.conv.1.0.weight"}))
    assert not is_version_2(frozenset({"rpn.head.conv.0.0.weight"}))
