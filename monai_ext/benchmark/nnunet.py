"""What the nnU-Net benchmark times: a training step, or a forward pass, on fixed patches."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from monai_ext.benchmark.step_profile import profile_steps
from monai_ext.benchmark.timing import Timing, peak_memory_mib, ran_out_of_memory, time_steps
from monai_ext.engines.optimizers import OPTIMIZERS, make_optimizer
from monai_ext.errors import InputError, Problems
from monai_ext.inferers.bfloat16_inferer import has_native_bfloat16
from monai_ext.losses.deep_supervision import DeeplySupervised
from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy
from monai_ext.networks.plan_unet import PlanUNet
from monai_ext.planning.patch_size import level_features
from monai_ext.planning.topology import Topology, msd_topology

logger = logging.getLogger(__name__)
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
        """Raise one `InputError` that lists all impossible values."""
        problems = Problems("benchmark nnunet")
        for name, known in (("mode", MODES), ("spatial_dims", (2, 3)), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                one_of = ", ".join(map(str, known))
                problems.add(f"--{name} {getattr(self, name)}", "unknown", f"one of {one_of}")
        least = {"batch_size": 1, "channels": 1, "classes": 2, "base_features": 1, "warmup_steps": 0}
        for name, minimum in {**least, "bench_batches": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < minimum:
                problems.add(f"--{name} {value}", f"is no whole number from {minimum} on", "change it")
        if self.spatial_dims in (2, 3):
            patch = self.patch_size
            whole = all(isinstance(edge, int) for edge in patch)
            if not whole or len(patch) != self.spatial_dims or min(patch) < 8:
                example = ",".join(map(str, DEFAULT_PATCH[self.spatial_dims]))
                what = f"is not {self.spatial_dims} whole numbers from 8 on"
                problems.add(f"--patch_size {patch}", what, f"such as --patch_size {example}")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            problems.add(f"--device {self.device}", str(error).splitlines()[0], "cpu, or cuda:0 on a GPU")
        problems.raise_if_any()

    @property
    def topology(self) -> Topology:
        """Levels of the network; its patch is the given one, padded to what the levels divide."""
        return msd_topology((1.0,) * self.spatial_dims, self.patch_size)

    @property
    def is_published(self) -> bool:
        """Whether patch and network are those that the published figures were measured with."""
        same_patch = tuple(self.patch_size) == DEFAULT_PATCH[self.spatial_dims]
        same_network = (self.channels, self.classes, self.base_features) == (4, 4, 32)
        return same_patch and same_network and not self.deep_supervision

    @property
    def precision(self) -> str:
        if self.amp and torch.device(self.device).type == "cuda":
            return "float16"
        if self.amp and has_native_bfloat16():
            return "bfloat16"
        return "tf32" if self.device.startswith("cuda") and torch.backends.cudnn.allow_tf32 else "float32"


def run_benchmark(options: BenchmarkOptions, profile: str | Path = "") -> tuple[Timing, dict[str, Any]]:
    """Time a configuration on random patches.

    Args:
        options: what to time.
        profile: folder for a trace of a few more steps after the timed ones; empty for none.

    Returns:
        The timing, and the options with the patch as timed, the precision and the peak memory in MiB.

    Raises:
        InputError: an option is impossible, or the device runs out of memory.
    """
    options.check()
    device = torch.device(options.device)
    if options.amp and options.precision in ("float32", "tf32"):
        logger.warning("amp: this device has no bfloat16 instructions; everything is computed in float32")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step = _make_step(options, device)
        timing = time_steps(step, device, options.batch_size, options.warmup_steps, options.bench_batches)
        memory = peak_memory_mib(device)
        if profile:
            profile_steps(step, profile)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        raise InputError(
            f"benchmark nnunet: {device} has too little memory for {options.batch_size} patches of "
            f"{'x'.join(map(str, options.patch_size))}. Cure: a smaller --batch_size or --patch_size, or --amp"
        ) from error
    measured = {"patch_size": options.topology.patch_size, "precision": options.precision, "peak_memory_mib": memory}
    return timing, {**asdict(options), **measured}


def _make_step(options: BenchmarkOptions, device: torch.device) -> Any:
    """A function that does one step."""
    torch.manual_seed(0)
    dims = options.spatial_dims
    topology = options.topology
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
