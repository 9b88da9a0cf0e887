"""Names of a residual classifier's tensors in other libraries, and what those libraries do otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightSource:
    """Where a file comes from, told by its names.

    Attributes:
        name: for messages.
        stem_pool: of the network that was trained, see `ClassPlan`; no tensor tells.
    """

    name: str
    stem_pool: str


TIMM = WeightSource("timm", "pad1")
LEGACY = WeightSource("legacy (Cadene)", "ceil")
TORCHVISION = WeightSource("torchvision or timm", "pad1")
NVIDIA = WeightSource("NVIDIA DeepLearningExamples", "pad1")
MONAI = WeightSource("MONAI", "ceil")

# the first that matches a name of the file decides; names of blocks are those of every library but NVIDIA's later files
_SIGNS = (
    (re.compile(r"\.adn\.N\."), MONAI),
    (re.compile(r"^layers\.\d+\.\d+\.|\.squeeze\.squeeze\."), NVIDIA),
    (re.compile(r"\.se_module\.fc1\.|^layer0\.conv1\."), LEGACY),
    (re.compile(r"\.se\.fc1\."), TIMM),
    (re.compile(r"^layer1\.0\.conv1\.weight$"), TORCHVISION),
)

_NAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^(?:layer0\.)?(conv1|bn1)\.(\w+)$", r"layer0.\1.\2"),
        (r"^(layer\d+\.\d+)\.conv(\d+)\.(weight|bias)$", r"\1.conv\2.conv.\3"),
        (r"^(layer\d+\.\d+)\.bn(\d+)\.(\w+)$", r"\1.conv\2.adn.N.\3"),
        (r"^(layer\d+\.\d+)\.downsample\.0\.(\w+)$", r"\1.project.conv.\2"),
        (r"^(layer\d+\.\d+)\.downsample\.1\.(\w+)$", r"\1.project.adn.N.\2"),
        (r"^(layer\d+\.\d+)\.(?:se|se_module)\.fc1\.(\w+)$", r"\1.se_layer.fc.0.\2"),
        (r"^(layer\d+\.\d+)\.(?:se|se_module)\.fc2\.(\w+)$", r"\1.se_layer.fc.2.\2"),
        (r"^(layer\d+\.\d+)\.squeeze\.squeeze\.(\w+)$", r"\1.se_layer.fc.0.\2"),
        (r"^(layer\d+\.\d+)\.squeeze\.expand\.(\w+)$", r"\1.se_layer.fc.2.\2"),
        (r"^(?:fc|last_linear)\.(weight|bias)$", r"last_linear.\1"),
    )
)
_STAGE = re.compile(r"^layers\.(\d+)\.")


def source_of(names: Iterable[str]) -> WeightSource | None:
    """The library whose names these are, or None."""
    names = list(names)
    return next((source for sign, source in _SIGNS if any(sign.search(name) for name in names)), None)


def network_name(name: str) -> str:
    """A tensor's name in `SeResNeXt` (MONAI's SENet); a name of no known pattern comes back as it is.

    >>> network_name("layer3.22.bn2.running_var"), network_name("layers.2.22.squeeze.expand.bias")
    ('layer3.22.conv2.adn.N.running_var', 'layer3.22.se_layer.fc.2.bias')
    """
    # NVIDIA's later files hold the stages in a sequence that counts from 0
    name = _STAGE.sub(lambda match: f"layer{int(match[1]) + 1}.", name)
    for pattern, ours in _NAMES:
        if pattern.match(name):
            return pattern.sub(ours, name)
    return name
