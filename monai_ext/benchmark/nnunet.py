"""What the nnU-Net benchmark times: a training step, or a forward pass, on fixed patches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from monai_ext.benchmark.timing import Timing, peak_memory_mib, time_steps
from monai_ext.engines.optimizers import make_optimizer
from monai_ext.errors import InputError
from monai_ext.inferers.bfloat16_inferer import has_native_bfloat16
from monai_ext.losses.deep_supervision import DeeplySupervised
from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy
from monai_ext.networks.plan_unet import PlanUNet
from monai_ext.planning.patch_size import level_features
from monai_ext.planning.topology import msd_topology

MODES = ("train", "predict")
DEFAULT_BATCH = {2: 64, 3: 2}
DEFAULT_PATCH = {2: (192, 160), 3: (128, 128, 128)}  # brain tumours, the task of the published figures


@dataclass(frozen=True)
class BenchmarkOptions:
    """One configuration to time; see `BenchmarkCommands.nnunet`."""

    mode: str
    spatial_dims: int = 3
    batch_size: int = 2
    amp: bool = False
    compile: bool = False
    channels_last: bool = False
    patch_size: tuple[int, ...] = DEFAULT_PATCH[3]
    channels: int = 4
    classes: int = 4
    base_features: int = 32
    deep_supervision: bool = False
    optimizer: str = "adam"
    warmup_steps: int = 50
    bench_batches: int = 150
    device: str = "cpu"

    def check(self) -> None:
        """Raise `InputError` for impossible values."""
        wrong = []
        if self.mode not in MODES:
            wrong.append(f"--mode {self.mode} is not one of {', '.join(MODES)}")
        if self.spatial_dims not in (2, 3):
            wrong.append(f"--spatial_dims {self.spatial_dims} is not 2 or 3")
        elif len(self.patch_size) != self.spatial_dims or min(self.patch_size) < 8:
            wrong.append(f"--patch_size {list(self.patch_size)} is not {self.spatial_dims} numbers from 8 on")
        numbers = ("batch_size", "channels", "base_features", "bench_batches")
        wrong += [f"--{name} {getattr(self, name)} is below 1" for name in numbers if getattr(self, name) < 1]
        if self.classes < 2 or self.warmup_steps < 0:
            wrong.append(f"--classes {self.classes} is below 2, or --warmup_steps {self.warmup_steps} below 0")
        if wrong:
            raise InputError(f"benchmark nnunet: {'; '.join(wrong)}. Cure: mend these options")

    @property
    def is_published(self) -> bool:
        """Whether patch and network are those that the published figures were measured with."""
        same_patch = tuple(self.patch_size) == DEFAULT_PATCH[self.spatial_dims]
        return same_patch and (self.channels, self.classes, self.base_features) == (4, 4, 32)

    @property
    def precision(self) -> str:
        if self.amp and torch.device(self.device).type == "cuda":
            return "float16"
        if self.amp and has_native_bfloat16():
            return "bfloat16"
        return "tf32" if self.device.startswith("cuda") and torch.backends.cudnn.allow_tf32 else "float32"


def run_benchmark(options: BenchmarkOptions) -> tuple[Timing, dict[str, Any]]:
    """Time a configuration on random patches.

    Returns:
        The timing, and the options with the precision and the peak memory in MiB.

    Raises:
        InputError: an option is impossible, or the device runs out of memory.
    """
    options.check()
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        timing = time_steps(
            _make_step(options, device), device, options.batch_size, options.warmup_steps, options.bench_batches
        )
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"benchmark nnunet: {device} has too little memory for {options.batch_size} patches of "
            f"{'x'.join(map(str, options.patch_size))}. Cure: a smaller --batch_size or --patch_size, or --amp"
        ) from error
    return timing, {**asdict(options), "precision": options.precision, "peak_memory_mib": peak_memory_mib(device)}


def _make_step(options: BenchmarkOptions, device: torch.device) -> Any:
    """A function that does one step."""
    torch.manual_seed(0)
    dims = options.spatial_dims
    topology = msd_topology((1.0,) * dims, options.patch_size)
    features = level_features(len(topology.strides), options.base_features, dims)
    network: Any = PlanUNet(
        dims,
        options.channels,
        options.classes,
        topology.strides,
        topology.kernels,
        features,
        deep_supervision=options.deep_supervision and options.mode == "train",
    ).to(device)
    layout = torch.preserve_format
    if options.channels_last:
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        network = network.to(memory_format=layout)
    size = (options.batch_size, *topology.patch_size)
    images = torch.randn(size[0], options.channels, *size[1:], device=device).contiguous(memory_format=layout)
    labels = torch.randint(0, options.classes, (size[0], 1, *size[1:]), device=device)
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(options.precision)

    def autocast() -> Any:
        return torch.autocast(device.type, kind or torch.bfloat16, enabled=kind is not None)

    if options.mode == "predict":
        network.eval()
        forward = torch.compile(network) if options.compile else network

        @torch.inference_mode()
        def predict() -> None:
            with autocast():
                forward(images)

        return predict
    network.train()
    forward = torch.compile(network) if options.compile else network
    loss = DeeplySupervised(DiceCrossEntropy(batch_dice=True))
    optimizer = make_optimizer(network.parameters(), options.optimizer)
    scaler = torch.amp.GradScaler(device.type, enabled=kind == torch.float16)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            value = loss(forward(images), labels)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()

    return train
