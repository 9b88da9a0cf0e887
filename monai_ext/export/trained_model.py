"""A trained model of any bundle, found by the folder it lies in: weights, plan and network together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from monai_ext.engines.checkpoint_files import load_tensors
from monai_ext.engines.run_folder import find_model, plan_beside
from monai_ext.errors import InputError
from monai_ext.planning.plan_file import read_plan_file
from monai_ext.planning.plan_identity import noted_plan
from monai_ext.planning.plan_kinds import SIGNS, bundle_of, plan_type

logger = logging.getLogger(__name__)
CURE = "give the output folder of a training, its model.pt, or a bundle with models/model.pt"


@dataclass(frozen=True)
class _Bundle:
    """Where the network and its weights come from: `module:name`, and options of the network."""

    network: str
    options: tuple[tuple[str, Any], ...] = ()
    load: str = "monai_ext.engines.training_checkpoint:load_weights"


_BUNDLES = {
    "nnunet": _Bundle(
        "monai_ext.networks.plan_unet:network_from_plan",
        (("deep_supervision", False),),
    ),
    "unet_em": _Bundle("monai_ext.networks.valid_unet:network_from_em_plan", (("dropout", 0.0),)),
    "se_resnext101": _Bundle(
        "monai_ext.networks.se_resnext:network_from_class_plan",
        load="monai_ext.engines.pretrained_weights:load_classifier",  # trained to be quantised or not
    ),
    "mask_rcnn": _Bundle(
        "monai_ext.networks.mask_rcnn.detector:network_from_instance_plan",
    ),
}


@dataclass(frozen=True)
class TrainedModel:
    """What a training left.

    Attributes:
        bundle: name of its bundle: `nnunet`, `unet_em`, `se_resnext101` or `mask_rcnn`.
        plan: of that bundle.
        network: with the trained weights, float32, on the CPU, in evaluation mode.
        ckpt_path: the file of the weights; `plan.json` lies beside it.
    """

    bundle: str
    plan: Any
    network: nn.Module
    ckpt_path: Path

    @property
    def folder(self) -> Path:
        """Where model and plan lie."""
        return self.ckpt_path.parent


def open_model(place: str | Path) -> TrainedModel:
    """Open a trained model.

    Args:
        place: output folder of a training, a `model.pt`, or the folder of a bundle.

    Raises:
        InputError: nothing is there, the plan is missing or of no bundle, or the weights are not those of the plan, by
            their shapes or by the note that they hold, or values are not finite.
    """
    place = Path(place)
    if not place.exists():
        raise InputError(f"{place}: does not exist. Cure: {CURE}")
    is_bundle = (place / "configs").is_dir()
    ckpt_path = Path(find_model("", str(place)) if is_bundle else find_model(str(place), ""))
    plan_file = Path(plan_beside(str(ckpt_path), str(place)))
    name = bundle_of(read_plan_file(plan_file))
    if not name:
        raise InputError(f"{plan_file}: is the plan of none of {', '.join(SIGNS)}. Cure: {CURE}")
    bundle = _BUNDLES[name]
    plan = plan_type(name).load(plan_file)
    network: nn.Module = _named(bundle.network)(plan, **dict(bundle.options))
    network = _named(bundle.load)(network, ckpt_path, CURE)
    if not noted_plan(load_tensors(ckpt_path, CURE)):
        logger.warning(
            "%s: holds no note of the plan it was trained with (an earlier version or another program wrote it); "
            "whether it belongs to %s cannot be checked", ckpt_path, plan_file,
        )  # fmt: skip
    broken = [key for key, value in network.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise InputError(
            f"{ckpt_path}: {broken[0]}{f' and {len(broken) - 1} more' if len(broken) > 1 else ''}: values that are not "
            "finite, the network predicts nothing. Cure: the model of a training that did not diverge"
        )
    return TrainedModel(name, plan, network.eval().requires_grad_(False), ckpt_path)


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
