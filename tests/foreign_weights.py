"""State dicts of residual classifiers under the names of other libraries, and a forward pass that reads them.

Both are written from the naming rules alone, so that a test against them does not repeat the code that it tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

SOURCES = ("timm", "legacy", "torchvision", "nvidia", "nvidia-old")
GATES = {"timm": "se.fc{}", "legacy": "se_module.fc{}", "nvidia": "squeeze.{}", "nvidia-old": "squeeze.{}"}
PADDED_POOL = {"timm", "torchvision", "nvidia", "nvidia-old"}


@dataclass(frozen=True)
class Foreign:
    """A network of another library.

    Attributes:
        source: one of `SOURCES`; torchvision has no gates.
        hidden: units of every gate; 0: output channels / 16.
    """

    source: str
    layers: tuple[int, int, int, int] = (1, 2, 1, 1)
    planes: int = 16
    groups: int = 4
    group_width: int = 16
    hidden: int = 0
    classes: int = 5
    channels: int = 3

    @property
    def gated(self) -> bool:
        return self.source in GATES

    def block(self, stage: int, index: int) -> str:
        return f"layers.{stage}.{index}." if self.source == "nvidia" else f"layer{stage + 1}.{index}."

    def gate(self, order: int) -> str:
        names = ("squeeze", "expand") if self.source.startswith("nvidia") else (1, 2)
        return GATES[self.source].format(names[order])

    @property
    def stem(self) -> str:
        return "layer0." if self.source == "legacy" else ""

    @property
    def head(self) -> str:
        return "last_linear" if self.source == "legacy" else "fc"

    def state(self, seed: int = 0, counters: bool = True, numbered: bool = False) -> dict[str, torch.Tensor]:
        """Random tensors under every name of the network, in the order of its modules.

        Args:
            seed: of the values.
            counters: with those of batch norms, which files older than PyTorch 0.4.1 lack.
            numbered: the n-th tensor is n everywhere and has the memory of one number; for networks of full size.
        """
        generator = torch.Generator().manual_seed(seed)
        state: dict[str, torch.Tensor] = {}

        def randn(*shape: int) -> torch.Tensor:
            if numbered:
                return torch.full((1,) * len(shape), float(len(state))).expand(shape)
            return torch.randn(shape, generator=generator)

        def scaled(factor: float, shift: float, values: torch.Tensor) -> torch.Tensor:
            return values if numbered else factor * values + shift

        def convolution(name: str, out: int, given: int, kernel: int, bias: bool = False) -> None:
            scale = (2 / (given * kernel**2)) ** 0.5
            state[f"{name}.weight"] = scaled(scale, 0, randn(out, given, kernel, kernel))
            if bias:
                state[f"{name}.bias"] = randn(out)

        def norm(name: str, channels: int) -> None:
            state[f"{name}.weight"] = scaled(1, 0.5, randn(channels).abs())
            state[f"{name}.bias"] = scaled(0.1, 0, randn(channels))
            state[f"{name}.running_mean"] = scaled(0.1, 0, randn(channels))
            state[f"{name}.running_var"] = scaled(1, 0.5, randn(channels).abs())
            if counters:
                state[f"{name}.num_batches_tracked"] = torch.tensor(7)

        convolution(f"{self.stem}conv1", self.planes, self.channels, 7)
        norm(f"{self.stem}bn1", self.planes)
        given = self.planes
        for stage, depth in enumerate(self.layers):
            planes = self.planes * 2**stage
            width, out = planes * self.group_width // 64 * self.groups, 4 * planes
            for index in range(depth):
                block = self.block(stage, index)
                convolution(f"{block}conv1", width, given, 1)
                norm(f"{block}bn1", width)
                convolution(f"{block}conv2", width, width // self.groups, 3)
                norm(f"{block}bn2", width)
                convolution(f"{block}conv3", out, width, 1)
                norm(f"{block}bn3", out)
                if self.gated:
                    hidden = self.hidden or out // 16
                    convolution(block + self.gate(0), hidden, out, 1, bias=True)
                    convolution(block + self.gate(1), out, hidden, 1, bias=True)
                if index == 0:
                    convolution(f"{block}downsample.0", out, given, 1)
                    norm(f"{block}downsample.1", out)
                given = out
        state[f"{self.head}.weight"] = scaled(given**-0.5, 0, randn(self.classes, given))
        state[f"{self.head}.bias"] = randn(self.classes)
        if self.source == "nvidia-old":  # linear gates
            return {k: v.flatten(1) if ".squeeze." in k and v.ndim == 4 else v for k, v in state.items()}
        return state

    def logits(self, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """`[B, channels, H, W]` -> `[B, classes]` in evaluation mode."""

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
            return F.batch_norm(x, mean, var, weight, bias)

        def linear(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.linear(x, state[f"{name}.weight"].flatten(1), state[f"{name}.bias"])

        x = norm(F.conv2d(x, state[f"{self.stem}conv1.weight"], stride=2, padding=3), f"{self.stem}bn1").relu()
        padded = self.source in PADDED_POOL
        x = F.max_pool2d(x, 3, 2, padding=1 if padded else 0, ceil_mode=not padded)
        for stage, depth in enumerate(self.layers):
            for index in range(depth):
                block, stride = self.block(stage, index), 2 if stage and not index else 1
                y = norm(F.conv2d(x, state[f"{block}conv1.weight"]), f"{block}bn1").relu()
                y = F.conv2d(y, state[f"{block}conv2.weight"], stride=stride, padding=1, groups=self.groups)
                y = F.conv2d(norm(y, f"{block}bn2").relu(), state[f"{block}conv3.weight"])
                y = norm(y, f"{block}bn3")
                if self.gated:
                    hidden = linear(y.mean((2, 3)), block + self.gate(0)).relu()
                    y = y * linear(hidden, block + self.gate(1)).sigmoid()[:, :, None, None]
                if index == 0:
                    x = F.conv2d(x, state[f"{block}downsample.0.weight"], stride=stride)
                    x = norm(x, f"{block}downsample.1")
                x = (x + y).relu()
        return linear(x.mean((2, 3)), self.head)
