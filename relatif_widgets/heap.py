"""What glibc's malloc does with memory between one batch and the next.

It gives the top of its heap back to the system wherever more than some megabytes are free there,
and the next batch asks for them again, page by page, each of which the system fills with zeros: a
batch of gradients is tens of megabytes. How many are some depends on what the process freed
before, so that the same fit took a tenth longer in one process than in another.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h

_MAPPED = 32 << 20
"""Bytes from which on a block has pages of its own: the largest that glibc comes to by itself."""

_USUAL = 2 * _MAPPED
"""Bytes at the top of the heap that are kept: what glibc comes to by itself then."""

_KEPT = 256 << 20
"""The same while batches of `fitting._CHUNK_BYTES` come and go."""


_LARGE = 1 << 30


@contextmanager
def kept(work: int) -> Iterator[None]:
    """Keep what batches free until the end, and give it back then; elsewhere than in glibc do nothing.

    Args:
        work: Bytes that all batches make. Where these are less than a gigabyte, nothing is done either: what
            malloc is told holds for whatever the process does next, and a small one may be short of memory.
    """
    library = _glibc()
    if library is None or work < _LARGE:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _MAPPED)
    library.mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, _USUAL)
        library.malloc_trim(0)


def _glibc() -> Any:
    """The C library of this process, or None where it is another."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
