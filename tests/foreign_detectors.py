"""State dicts of detectors and backbones under the names of other libraries, and forward passes that read them.

Both are written from the naming rules alone, so that a test against them does not repeat the code that it tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

DETECTORS = ("torchvision", "torchvision-old", "detectron2", "detectron2-gn")
BACKBONES = ("resnet", "nvidia", "monai", "detectron2-resnet", "caffe2")
NORM_KEYS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class ForeignDetector:
    """A network of another library.

    Attributes:
        source: one of `DETECTORS` or `BACKBONES`.
        classes: without background.
        counters: with those of batch norms, where the library writes them.
        masks: with a mask head.
    """

    source: str
    layers: tuple[int, int, int, int] = (1, 2, 1, 1)
    planes: int = 8
    pyramid: int = 16
    box_features: int = 12
    mask_features: int = 16
    classes: int = 3
    anchors: int = 3
    channels: int = 3
    counters: bool = True
    masks: bool = True

    @property
    def family(self) -> str:
        return self.source.partition("-")[0]

    @property
    def grouped(self) -> bool:
        return self.source == "detectron2-gn"

    def conv(self, stage: int, index: int, layer: str) -> tuple[str, str]:
        """Names of a convolution and of its norm; layer is conv1 to conv3, or shortcut; stage -1 is the stem."""
        if self.family == "detectron2":
            start = "" if self.source == "detectron2-resnet" else "backbone.bottom_up."
            name = f"{start}stem.conv1" if stage < 0 else f"{start}res{stage + 2}.{index}.{layer}"
            return name, f"{name}.norm"
        if self.source == "caffe2":
            branch = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}[layer]
            name = "conv1" if stage < 0 else f"res{stage + 2}_{index}_branch{branch}"
            return f"{name}_w", f"res_{name}_bn" if stage < 0 else f"{name}_bn"
        start = {"torchvision": "backbone.body."}.get(self.family, "")
        if self.source == "monai":
            if stage < 0:
                return "layer0.conv1", "layer0.bn1"
            name = f"layer{stage + 1}.{index}.{'project' if layer == 'shortcut' else layer}"
            return f"{name}.conv", f"{name}.adn.N"
        if stage < 0:
            return f"{start}conv1", f"{start}bn1"
        block = f"layers.{stage}.{index}." if self.source == "nvidia" else f"{start}layer{stage + 1}.{index}."
        if layer == "shortcut":
            return f"{block}downsample.0", f"{block}downsample.1"
        return block + layer, block + layer.replace("conv", "bn")

    def heads(self) -> dict[str, str]:
        """Names of what follows the backbone, by what they are."""
        if self.family == "detectron2":
            names = {f"inner{i}": f"backbone.fpn_lateral{i + 2}" for i in range(4)}
            names |= {f"outer{i}": f"backbone.fpn_output{i + 2}" for i in range(4)}
            rpn, roi = "proposal_generator.rpn_head", "roi_heads"
            names |= {"rpn": f"{rpn}.conv", "logits": f"{rpn}.objectness_logits", "deltas": f"{rpn}.anchor_deltas"}
            names |= {"fc1": f"{roi}.box_head.fc1", "fc2": f"{roi}.box_head.fc2"}
            names |= {f"box{i}": f"{roi}.box_head.conv{i + 1}" for i in range(4)}
            names |= {f"mask{i}": f"{roi}.mask_head.mask_fcn{i + 1}" for i in range(4)}
            names |= {"deconv": f"{roi}.mask_head.deconv", "masks": f"{roi}.mask_head.predictor"}
        else:
            old, roi = self.source.endswith("-old"), "roi_heads"
            block = "" if old else ".0"
            names = {f"inner{i}": f"backbone.fpn.inner_blocks.{i}{block}" for i in range(4)}
            names |= {f"outer{i}": f"backbone.fpn.layer_blocks.{i}{block}" for i in range(4)}
            names |= {"rpn": "rpn.head.conv" + ("" if old else ".0.0")}
            names |= {"logits": "rpn.head.cls_logits", "deltas": "rpn.head.bbox_pred"}
            names |= {"fc1": f"{roi}.box_head.fc6", "fc2": f"{roi}.box_head.fc7"}
            names |= {f"mask{i}": f"{roi}.mask_head." + (f"mask_fcn{i + 1}" if old else f"{i}.0") for i in range(4)}
            names |= {"deconv": f"{roi}.mask_predictor.conv5_mask", "masks": f"{roi}.mask_predictor.mask_fcn_logits"}
        return names | {"scores": f"{roi}.box_predictor.cls_score", "boxes": f"{roi}.box_predictor.bbox_pred"}

    def state(self, seed: int = 0, numbered: bool = False) -> dict[str, torch.Tensor]:
        """Random tensors under every name of the network.

        Args:
            seed: of the values.
            numbered: the n-th tensor is n everywhere and has the memory of one number; for networks of full size.
        """
        generator = torch.Generator().manual_seed(seed)
        state: dict[str, torch.Tensor] = {}

        def put(name: str, *shape: int, scale: float = 1.0, positive: bool = False) -> None:
            if numbered:
                state[name] = torch.full((1,) * len(shape), float(len(state) + 1)).expand(shape)
                return
            values = torch.randn(shape, generator=generator) * scale
            state[name] = values.abs() + 0.5 if positive else values

        def layer(name: str, *shape: int, bias: bool = True, rows: int = 0) -> None:
            put(f"{name}.weight", *shape, scale=(2 / (shape[1] * (shape[2] ** 2 if len(shape) > 2 else 1))) ** 0.5)
            if bias:
                put(f"{name}.bias", rows or shape[0], scale=0.1)

        def norm(name: str, channels: int, grouped: bool = False) -> None:
            if self.source == "caffe2":
                put(f"{name}_s", channels, positive=True)
                put(f"{name}_b", channels, scale=0.1)
                return
            for key in NORM_KEYS[: 2 if grouped else 4]:
                put(f"{name}.{key}", channels, scale=0.1, positive=key in ("weight", "running_var"))
            if self.counters and self.family not in ("detectron2",):
                state[f"{name}.num_batches_tracked"] = torch.tensor(7)

        def both(stage: int, index: int, what: str, out: int, given: int, kernel: int) -> None:
            name, of_norm = self.conv(stage, index, what)
            if self.source == "caffe2":
                put(name, out, given, kernel, kernel, scale=(2 / (given * kernel**2)) ** 0.5)
            else:
                layer(name, out, given, kernel, kernel, bias=False)
            norm(of_norm, out, self.grouped)

        both(-1, 0, "conv1", self.planes, self.channels, 7)
        if self.source == "caffe2":
            state["conv1_b"] = torch.zeros(self.planes)
        given, stages = self.planes, []
        for stage, depth in enumerate(self.layers):
            width = self.planes * 2**stage
            for index in range(depth):
                both(stage, index, "conv1", width, given, 1)
                both(stage, index, "conv2", width, width, 3)
                both(stage, index, "conv3", 4 * width, width, 1)
                if index == 0:
                    both(stage, index, "shortcut", 4 * width, given, 1)
                given = 4 * width
            stages.append(given)
        if self.source in BACKBONES:
            if self.source == "caffe2":
                put("fc1000_w", 5, given)
                put("fc1000_b", 5)
            else:
                head = {"monai": "last_linear", "detectron2-resnet": "stem.fc"}.get(self.source, "fc")
                layer(head, 5, given)
            return state
        return self._heads(state, stages, layer, norm, put)

    def _heads(self, state, stages, layer, norm, put) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
        names, c, m = self.heads(), self.pyramid, self.mask_features

        def normed(key: str, *shape: int) -> None:
            layer(names[key], *shape, bias=not self.grouped)
            if self.grouped:
                norm(f"{names[key]}.norm", shape[0], True)

        for index, channels in enumerate(stages):
            normed(f"inner{index}", c, channels, 1, 1)
        for index in range(4):
            normed(f"outer{index}", c, c, 3, 3)
        layer(names["rpn"], c, c, 3, 3)
        layer(names["logits"], self.anchors, c, 1, 1)
        layer(names["deltas"], 4 * self.anchors, c, 1, 1)
        if self.grouped:
            for index in range(4):
                normed(f"box{index}", c, c, 3, 3)
        layer(names["fc1"], self.box_features, c * 49)
        if not self.grouped:
            layer(names["fc2"], self.box_features, self.box_features)
        # torchvision has rows of the background that are not used
        rows = self.classes + (self.family == "torchvision")
        layer(names["scores"], self.classes + 1, self.box_features)
        layer(names["boxes"], 4 * rows, self.box_features)
        if self.masks:
            for index in range(4):
                normed(f"mask{index}", m, c if index == 0 else m, 3, 3)
            layer(names["deconv"], m, m, 2, 2)
            layer(names["masks"], rows, m, 1, 1)
        return state

    def features(self, state: dict[str, torch.Tensor], x: torch.Tensor, stride_in_1x1: bool) -> list[torch.Tensor]:
        """C2 to C5 of images as the library gives them to the network, in evaluation mode."""
        eps = 0.0 if self.source == "torchvision-old" else 1e-5

        def both(x: torch.Tensor, at: tuple[int, int, str], stride: int) -> torch.Tensor:
            name, of_norm = self.conv(*at)
            kernel = state[name if self.source == "caffe2" else f"{name}.weight"]
            x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
            if self.source == "caffe2":
                return x * state[f"{of_norm}_s"][:, None, None] + state[f"{of_norm}_b"][:, None, None]
            if self.grouped:
                return self.group(x, state, of_norm)
            weight, bias, mean, var = (state[f"{of_norm}.{key}"][:, None, None] for key in NORM_KEYS)
            return (x - mean) / (var + eps).sqrt() * weight + bias

        x = F.max_pool2d(both(x, (-1, 0, "conv1"), 2).relu(), 3, 2, 1)
        stages = []
        for stage, depth in enumerate(self.layers):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                first, second = (stride, 1) if stride_in_1x1 else (1, stride)
                y = both(x, (stage, index, "conv1"), first).relu()
                y = both(y, (stage, index, "conv2"), second).relu()
                y = both(y, (stage, index, "conv3"), 1)
                x = both(x, (stage, index, "shortcut"), stride) if index == 0 else x
                x = (x + y).relu()
            stages.append(x)
        return stages

    @staticmethod
    def group(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        channels = x.shape[1]
        groups = 32 if channels >= 64 else channels // 4
        return F.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"])

    def pyramid_levels(self, state: dict[str, torch.Tensor], stages: list[torch.Tensor]) -> list[torch.Tensor]:
        """P2 to P6 of C2 to C5, with sizes that halve evenly."""
        fine, levels = None, []
        for index in (3, 2, 1, 0):
            lateral = self.layer(state, f"inner{index}", stages[index])
            fine = lateral if fine is None else lateral + fine.repeat_interleave(2, 2).repeat_interleave(2, 3)
            levels.insert(0, self.layer(state, f"outer{index}", fine))
        return [*levels, levels[3][:, :, ::2, ::2]]

    def layer(self, state: dict[str, torch.Tensor], key: str, x: torch.Tensor) -> torch.Tensor:
        """Convolution or matrix of that key, with its norm if it has one."""
        name = self.heads()[key]
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        x = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        return self.group(x, state, f"{name}.norm") if f"{name}.norm.weight" in state else x

    def rpn(self, state: dict[str, torch.Tensor], level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[B, H * W * A]` and deltas `[B, H * W * A, 4]` of a level."""
        x = self.layer(state, "rpn", level).relu()
        logits, deltas = self.layer(state, "logits", x), self.layer(state, "deltas", x)
        count, _, height, width = deltas.shape
        deltas = deltas.view(count, self.anchors, 4, height, width).permute(0, 3, 4, 1, 2)
        return logits.permute(0, 2, 3, 1).flatten(1), deltas.reshape(count, -1, 4)

    def boxes(self, state: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities `[R, K]` and deltas `[R, K, 4]` of the classes, without background."""
        if self.grouped:
            for index in range(4):
                x = self.layer(state, f"box{index}", x).relu()
        x = self.layer(state, "fc1", x.flatten(1)).relu()
        x = x if self.grouped else self.layer(state, "fc2", x).relu()
        scores = self.layer(state, "scores", x).softmax(1)
        deltas = self.layer(state, "boxes", x).unflatten(1, (-1, 4))
        return (scores[:, 1:], deltas[:, 1:]) if self.family == "torchvision" else (scores[:, :-1], deltas)

    def mask_logits(self, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """`[R, K, 2 P, 2 P]` of all classes, without background."""
        for index in range(4):
            x = self.layer(state, f"mask{index}", x).relu()
        name = self.heads()["deconv"]
        x = F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2).relu()
        x = self.layer(state, "masks", x)
        return x[:, 1:] if self.family == "torchvision" else x
