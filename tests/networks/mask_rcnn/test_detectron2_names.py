"""Names of detectron2 and of Caffe2's ImageNet models."""

from __future__ import annotations

import pytest

from monai_ext.networks.mask_rcnn.detectron2_names import name_of_caffe2, name_of_detectron2


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("backbone.bottom_up.stem.conv1.weight", "backbone.body.conv1.weight"),
        ("backbone.bottom_up.stem.conv1.norm.running_mean", "backbone.body.bn1.running_mean"),
        ("stem.conv1.norm.bias", "backbone.body.bn1.bias"),
        ("backbone.res2.0.conv1.weight", "backbone.body.layer1.0.conv1.weight"),
        ("backbone.bottom_up.res4.22.conv3.norm.weight", "backbone.body.layer3.22.bn3.weight"),
        ("res5.0.shortcut.weight", "backbone.body.layer4.0.downsample.0.weight"),
        ("res5.0.shortcut.norm.running_var", "backbone.body.layer4.0.downsample.1.running_var"),
        ("backbone.fpn_lateral2.weight", "backbone.fpn.inner.0.0.weight"),
        ("backbone.fpn_lateral5.norm.bias", "backbone.fpn.inner.3.1.bias"),
        ("backbone.fpn_output3.bias", "backbone.fpn.outer.1.0.bias"),
        ("proposal_generator.rpn_head.conv.weight", "rpn.conv.weight"),
        ("proposal_generator.rpn_head.objectness_logits.bias", "rpn.cls_logits.bias"),
        ("proposal_generator.rpn_head.anchor_deltas.weight", "rpn.bbox_pred.weight"),
        ("roi_heads.box_head.fc2.weight", "box_head.fc2.weight"),
        ("roi_heads.box_head.conv4.weight", "box_head.convs.3.weight"),
        ("roi_heads.box_head.conv1.norm.weight", "box_head.norms.0.weight"),
        ("roi_heads.box_predictor.cls_score.weight", "box_head.cls_score.weight"),
        ("roi_heads.box_predictor.bbox_pred.bias", "box_head.bbox_pred.bias"),
        ("roi_heads.mask_head.mask_fcn4.bias", "mask_head.convs.3.bias"),
        ("roi_heads.mask_head.mask_fcn1.norm.bias", "mask_head.norms.0.bias"),
        ("roi_heads.mask_head.deconv.weight", "mask_head.deconv.weight"),
        ("roi_heads.mask_head.predictor.weight", "mask_head.logits.weight"),
        ("pixel_std", None),
        ("proposal_generator.anchor_generator.cell_anchors.4", None),
        ("backbone.bottom_up.stem.fc.weight", None),
        ("backbone.bottom_up.stem.conv2.weight", "backbone.bottom_up.stem.conv2.weight"),  # without a place
        ("backbone.bottom_up.res3.0.conv2_offset.weight", "backbone.bottom_up.res3.0.conv2_offset.weight"),
        ("roi_heads.box_predictor.0.cls_score.weight", "roi_heads.box_predictor.0.cls_score.weight"),
    ],
)
def test_detectron2(name: str, own: str | None) -> None:
    assert name_of_detectron2(name) == own


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("conv1_w", "conv1.weight"),
        ("res_conv1_bn_s", "bn1.weight"),
        ("res_conv1_bn_b", "bn1.bias"),
        ("conv1_gn_s", "bn1.weight"),
        ("res2_0_branch1_w", "layer1.0.downsample.0.weight"),
        ("res2_0_branch1_bn_b", "layer1.0.downsample.1.bias"),
        ("res4_22_branch2a_w", "layer3.22.conv1.weight"),
        ("res5_2_branch2b_bn_riv", "layer4.2.bn2.running_var"),
        ("res5_2_branch2b_bn_rm", "layer4.2.bn2.running_mean"),
        ("res5_2_branch2c_gn_beta", "layer4.2.bn3.bias"),
    ],
)
def test_caffe2(name: str, own: str) -> None:
    assert name_of_caffe2(name) == f"backbone.body.{own}"


def test_caffe2_without_a_place() -> None:
    assert {name_of_caffe2(name) for name in ("fc1000_w", "fc1000_b", "conv1_b")} == {None}
    # a bias in front of a norm, and a branch that ResNets lack
    for name in ("res2_0_branch2a_b", "res2_0_branch3_w", "res2_0_branch2a_bn_other", "fc6_w"):
        assert name_of_caffe2(name) == name
