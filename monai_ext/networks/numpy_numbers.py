"""Single numbers of numpy as pickles hold them, without the memory that a pickle may ask for instead."""

from __future__ import annotations

from typing import Any

import numpy as np

LARGEST = 32  # bytes, of complex numbers of 256 bits
_scalar: Any = np.float64(0).__reduce__()[0]  # its module's name changed with numpy 2


def number_of_bytes(dtype: np.dtype, content: bytes | None = None) -> Any:
    """numpy's `multiarray.scalar`, for numbers only: a dtype of 2 GB of nothing would be filled with zeros.

    Raises:
        ValueError: the dtype is none of a number, or `content` has another size.
    """
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc" or dtype.itemsize > LARGEST or content is None:
        raise ValueError(f"asks for a numpy scalar of {dtype!s:.40}, which is no number")
    return _scalar(dtype, content)
