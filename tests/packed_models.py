"""A small model of every bundle, as trainings leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from drawn_classifier import make_plan, warmed_network
from monai_ext.atomic_files import save_tensors
from monai_ext.errors import InputError
from monai_ext.export.packed_check import verify_packed
from monai_ext.networks.plan_unet import network_from_plan
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan
from narrow_model import narrow_plan
from small_detector import small_detector, small_plan


def _nnunet() -> tuple[Any, torch.nn.Module]:
    plan = narrow_plan((16, 16, 16))
    return plan, network_from_plan(plan, deep_supervision=False)


def _unet_em() -> tuple[Any, torch.nn.Module]:
    plan = EmPlan("cells", "tile", (140, 140), (0.0, 255.0), 4, levels=3, upsampling="conv2")
    return plan, network_from_em_plan(plan)


def _se_resnext101() -> tuple[Any, torch.nn.Module]:
    plan = make_plan()
    return plan, warmed_network(plan)


def _mask_rcnn() -> tuple[Any, torch.nn.Module]:
    plan = small_plan(tile_overlap=32)
    return plan, small_detector(plan)


MODELS: dict[str, Callable[[], tuple[Any, torch.nn.Module]]] = {
    "nnunet": _nnunet,
    "unet_em": _unet_em,
    "se_resnext101": _se_resnext101,
    "mask_rcnn": _mask_rcnn,
}


def save_model(bundle: str, folder: Path) -> Path:
    """Write `model.pt` and `plan.json` of a bundle into a new folder, the same at every call."""
    torch.manual_seed(0)
    plan, network = MODELS[bundle]()
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.to_json())
    save_tensors(folder / "model.pt", network.state_dict())
    return folder


def refusal(path: Path, **options: Any) -> str:
    """What `verify` says, of which there must be one error."""
    with pytest.raises(InputError) as caught:
        verify_packed(path, say=lambda _: None, **options)
    return str(caught.value)
