"""Names of a residual classifier's tensors in the detector's backbone."""

from __future__ import annotations

import re

BODY = "backbone.body."
_BLOCK = r"^(layer[1-4]\.\d+)"
_NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), BODY + name)
    for pattern, name in (
        (r"^(?:layer0\.)?(conv1|bn1)\.(\w+)$", r"\1.\2"),
        (rf"{_BLOCK}\.(conv[1-3]|bn[1-3]|downsample\.[01])\.(\w+)$", r"\1.\2.\3"),
        # MONAI and the classifiers of this package
        (rf"{_BLOCK}\.conv([1-3])\.conv\.(\w+)$", r"\1.conv\2.\3"),
        (rf"{_BLOCK}\.conv([1-3])\.adn\.N\.(\w+)$", r"\1.bn\2.\3"),
        (rf"{_BLOCK}\.project\.conv\.(\w+)$", r"\1.downsample.0.\2"),
        (rf"{_BLOCK}\.project\.adn\.N\.(\w+)$", r"\1.downsample.1.\2"),
    )
)
_NVIDIA_STAGE = re.compile(r"^layers\.(\d+)\.")
_CLASSIFYING = re.compile(r"^(fc|last_linear)\.(weight|bias)$")


def name_of_classifier(name: str) -> str | None:
    """Name in `MaskRCNN` of a tensor of torchvision's, timm's, NVIDIA's or MONAI's ResNet.

    None for the classifying layer, which a detector has no use for; a name of no known pattern comes back as it is.

    >>> name_of_classifier("layers.0.2.downsample.1.bias"), name_of_classifier("fc.weight")
    ('backbone.body.layer1.2.downsample.1.bias', None)
    """
    if _CLASSIFYING.match(name):
        return None
    # NVIDIA's later files hold the stages in a sequence that counts from 0
    name = _NVIDIA_STAGE.sub(lambda match: f"layer{int(match[1]) + 1}.", name)
    return renamed(name, _NAMES)


def renamed(name: str, patterns: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    """The first pattern that matches, replaced; the name itself if there is none."""
    return next((pattern.sub(ours, name) for pattern, ours in patterns if pattern.match(name)), name)
