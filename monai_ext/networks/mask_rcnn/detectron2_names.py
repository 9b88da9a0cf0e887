"""Names of detectron2's detectors, and of the Caffe2 backbones that they start from, in this package's detector."""

from __future__ import annotations

import re

from monai_ext.networks.mask_rcnn.residual_names import BODY, renamed

_PREFIX = r"^(?:backbone\.)?(?:bottom_up\.)?"
_NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (rf"{_PREFIX}stem\.conv1\.(weight)$", rf"{BODY}conv1.\1"),
        (rf"{_PREFIX}stem\.conv1\.norm\.(\w+)$", rf"{BODY}bn1.\1"),
        (r"^proposal_generator\.rpn_head\.conv\.(\w+)$", r"rpn.conv.\1"),
        (r"^proposal_generator\.rpn_head\.objectness_logits\.(\w+)$", r"rpn.cls_logits.\1"),
        (r"^proposal_generator\.rpn_head\.anchor_deltas\.(\w+)$", r"rpn.bbox_pred.\1"),
        (r"^roi_heads\.box_head\.(fc[12])\.(\w+)$", r"box_head.\1.\2"),
        (r"^roi_heads\.box_predictor\.(cls_score|bbox_pred)\.(\w+)$", r"box_head.\1.\2"),
        (r"^roi_heads\.mask_head\.deconv\.(\w+)$", r"mask_head.deconv.\1"),
        (r"^roi_heads\.mask_head\.predictor\.(\w+)$", r"mask_head.logits.\1"),
    )
)
_BLOCK = re.compile(rf"{_PREFIX}res([2-5])\.(\d+)\.(conv[1-3]|shortcut)\.(norm\.)?(\w+)$")
_PYRAMID = re.compile(r"^backbone\.fpn_(lateral|output)([2-5])\.(norm\.)?(\w+)$")
_CONV_OF_HEAD = re.compile(r"^roi_heads\.(box_head\.conv|mask_head\.mask_fcn)([1-4])\.(norm\.)?(weight|bias)$")
_NO_WEIGHTS = re.compile(
    rf"^pixel_(mean|std)$|^proposal_generator\.anchor_generator\.cell_anchors\.\d+$|{_PREFIX}(stem\.fc|linear)\.\w+$"
)

_CAFFE_STEM = re.compile(r"^(?:res_)?conv1_(?:(w)|(?:bn|gn)_(\w+))$")
_CAFFE_BLOCK = re.compile(r"^res([2-5])_(\d+)_branch(1|2a|2b|2c)_(?:(w)|(?:bn|gn)_(\w+))$")
_CAFFE_BRANCHES = {"1": "downsample.0", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE_NORM = {
    "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias",
    "rm": "running_mean", "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
# the stem of ResNet-50 has a bias in front of its norm that detectron2 does not use either
_CAFFE_NO_WEIGHTS = re.compile(r"^(?:fc1000|pred)_[wb]$|^conv1_b$|^lr$|^model_iter$")


def name_of_detectron2(name: str) -> str | None:
    """Name in `MaskRCNN`; None for anchors, pixel statistics and classifying layers; else the name as it is.

    >>> name_of_detectron2("backbone.bottom_up.res5.0.shortcut.norm.bias"), name_of_detectron2("pixel_mean")
    ('backbone.body.layer4.0.downsample.1.bias', None)
    """
    if _NO_WEIGHTS.match(name):
        return None
    if match := _BLOCK.match(name):
        stage, index, layer, norm, what = match.groups()
        return f"{BODY}layer{int(stage) - 1}.{index}.{_layer(layer, bool(norm))}.{what}"
    if match := _PYRAMID.match(name):
        kind = "inner" if match[1] == "lateral" else "outer"
        return f"backbone.fpn.{kind}.{int(match[2]) - 2}.{1 if match[3] else 0}.{match[4]}"
    if match := _CONV_OF_HEAD.match(name):
        head, kind = match[1].partition(".")[0], "norms" if match[3] else "convs"
        return f"{head}.{kind}.{int(match[2]) - 1}.{match[4]}"
    return renamed(name, _NAMES)


def name_of_caffe2(name: str) -> str | None:
    """The same for the names of Caffe2's ImageNet models (`R-50.pkl`).

    >>> name_of_caffe2("res_conv1_bn_s"), name_of_caffe2("res4_5_branch2c_w"), name_of_caffe2("fc1000_b")
    ('backbone.body.bn1.weight', 'backbone.body.layer3.5.conv3.weight', None)
    """
    if _CAFFE_NO_WEIGHTS.match(name):
        return None
    if (match := _CAFFE_STEM.match(name)) and (match[1] or match[2] in _CAFFE_NORM):
        return f"{BODY}conv1.weight" if match[1] else f"{BODY}bn1.{_CAFFE_NORM[match[2]]}"
    if (match := _CAFFE_BLOCK.match(name)) and (match[4] or match[5] in _CAFFE_NORM):
        at, layer = f"{BODY}layer{int(match[1]) - 1}.{match[2]}", _CAFFE_BRANCHES[match[3]]
        return f"{at}.{layer}.weight" if match[4] else f"{at}.{_norm_of(layer)}.{_CAFFE_NORM[match[5]]}"
    return name


def _layer(layer: str, norm: bool) -> str:
    layer = "downsample.0" if layer == "shortcut" else layer
    return _norm_of(layer) if norm else layer


def _norm_of(layer: str) -> str:
    return "downsample.1" if layer == "downsample.0" else layer.replace("conv", "bn")
