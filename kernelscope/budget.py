"""Sizes of memory: numbers of bytes, or words such as ``"200MB"``."""

from __future__ import annotations

import re

from .errors import DataError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def as_bytes(size: int | str, what: str = "memory") -> int:
    """The bytes that a size stands for.

    Raises:
        DataError: If it is no size.

    Example:
        >>> as_bytes("1.5KB")
        1500
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    read = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)\s*", size.upper()) if isinstance(size, str) else None
    if read is None or float(read[1]) == 0:
        raise DataError(f'{what} must be a number of bytes or a size such as "1GB"; {size!r} came. Write "500MB".')
    return int(float(read[1]) * UNITS[read[2]])


def as_words(size: float) -> str:
    """A number of bytes as a person would say it.

    Example:
        >>> as_words(1_500_000)
        '1.5 MB'
    """
    for unit in ("TB", "GB", "MB", "KB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.3g} {unit}"
    return f"{size:.0f} bytes"
