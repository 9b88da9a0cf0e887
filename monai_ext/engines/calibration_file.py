"""The temperature that was fitted for a model, as it lies beside its file."""

from __future__ import annotations

import logging
from pathlib import Path

from monai_ext.evaluation.calibration import CALIBRATION_FILE, Temperature
from monai_ext.file_digest import file_sha256

logger = logging.getLogger(__name__)


def calibration_beside(ckpt_path: str | Path, wanted: bool = True) -> Temperature | None:
    """Temperature that was fitted for a model, read from `calibration.json` beside it.

    Args:
        ckpt_path: the model file.
        wanted: False gives None whatever lies there.

    Returns:
        None if there is none, or (with a warning) if it was fitted for other weights.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(ckpt_path).parent / CALIBRATION_FILE
    if not wanted or not path.is_file():
        return None
    fitted = Temperature.load(path)
    if fitted.model_sha256 and fitted.model_sha256 != file_sha256(ckpt_path):
        logger.warning("%s: was fitted for other weights than %s, and is not used; evaluate anew", path, ckpt_path)
        return None
    return fitted
