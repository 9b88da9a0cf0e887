"""Names of torchvision's Faster and Mask R-CNN with a feature pyramid in this package's detector."""

from __future__ import annotations

import re

from monai_ext.networks.mask_rcnn.residual_names import renamed

_NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # a convolution lies in a block of its own since 0.14; files as they are published have it bare
        (r"^backbone\.fpn\.inner_blocks\.(\d)\.(weight|bias)$", r"backbone.fpn.inner.\1.0.\2"),
        (r"^backbone\.fpn\.layer_blocks\.(\d)\.(weight|bias)$", r"backbone.fpn.outer.\1.0.\2"),
        (r"^backbone\.fpn\.inner_blocks\.(\d)\.([01])\.(\w+)$", r"backbone.fpn.inner.\1.\2.\3"),
        (r"^backbone\.fpn\.layer_blocks\.(\d)\.([01])\.(\w+)$", r"backbone.fpn.outer.\1.\2.\3"),
        (r"^rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)$", r"rpn.conv.\1"),
        (r"^rpn\.head\.(cls_logits|bbox_pred)\.(\w+)$", r"rpn.\1.\2"),
        (r"^roi_heads\.box_head\.fc6\.(\w+)$", r"box_head.fc1.\1"),
        (r"^roi_heads\.box_head\.fc7\.(\w+)$", r"box_head.fc2.\1"),
        (r"^roi_heads\.box_head\.([0-3])\.0\.(\w+)$", r"box_head.convs.\1.\2"),
        (r"^roi_heads\.box_head\.([0-3])\.1\.(\w+)$", r"box_head.norms.\1.\2"),
        (r"^roi_heads\.box_head\.5\.(\w+)$", r"box_head.fc1.\1"),
        (r"^roi_heads\.box_predictor\.(cls_score|bbox_pred)\.(\w+)$", r"box_head.\1.\2"),
        (r"^roi_heads\.mask_head\.([0-3])\.0\.(\w+)$", r"mask_head.convs.\1.\2"),
        (r"^roi_heads\.mask_head\.([0-3])\.1\.(\w+)$", r"mask_head.norms.\1.\2"),
        (r"^roi_heads\.mask_predictor\.conv5_mask\.(\w+)$", r"mask_head.deconv.\1"),
        (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.(\w+)$", r"mask_head.logits.\1"),
    )
)
_OLD_MASK = re.compile(r"^roi_heads\.mask_head\.mask_fcn([1-4])\.(\w+)$")
_OLD_RPN = "rpn.head.conv.weight"
_SECOND_RPN = "rpn.head.conv.1.0.weight"


def name_of_torchvision(name: str) -> str | None:
    """Name in `MaskRCNN`; the backbone has the same, and a name of no known pattern comes back as it is.

    >>> name_of_torchvision("rpn.head.conv.0.0.bias"), name_of_torchvision("roi_heads.mask_head.mask_fcn4.bias")
    ('rpn.conv.bias', 'mask_head.convs.3.bias')
    """
    old = _OLD_MASK.match(name)
    return f"mask_head.convs.{int(old[1]) - 1}.{old[2]}" if old else renamed(name, _NAMES)


def is_published(names: frozenset[str]) -> bool:
    """Whether these are the names before 0.14; the frozen norms of files that are published have an epsilon of 0."""
    return _OLD_RPN in names


def is_version_2(names: frozenset[str]) -> bool:
    """Whether the file is a `v2`, with two convolutions in the RPN and batch norms in the heads."""
    return _SECOND_RPN in names
