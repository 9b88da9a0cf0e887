"""What libraries that decode images raise when a file is damaged, where the file and not the caller is at fault."""

from __future__ import annotations

import struct
import zlib

# SyntaxError, AssertionError and OverflowError come from Pillow: a broken header, no palette, palette values below 0
DECODING_ERRORS: tuple[type[Exception], ...] = (
    OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, EOFError, SyntaxError,
    RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
