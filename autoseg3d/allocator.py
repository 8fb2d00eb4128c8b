"""Keeps the memory that a network on the CPU frees, instead of handing it back to the system page by page.

Training and prediction free and ask again for the same large blocks in every step. glibc gives blocks above
its mmap threshold back at once, so that each step faults its pages in anew: about a third of the CPU time of a step on
large patches. Two settings of mallopt(3) stop that. Other C libraries are left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator

# Parameters of mallopt and their defaults, from glibc's malloc.h and mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * 2**20))
_DEFAULT = ((_M_MMAP_MAX, 65536), (_M_TRIM_THRESHOLD, 128 * 1024), (_M_TOP_PAD, 128 * 1024))


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_freed_pages() -> bool:
    """Lets this process keep what it frees, for the rest of its life; whether the C library took the settings."""
    library = _glibc()
    return library is not None and all(library.mallopt(parameter, value) == 1 for parameter, value in _KEEP)


def hand_back_freed_pages() -> None:
    """Gives the system what this process has freed and kept, as far as it lies together."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@contextlib.contextmanager
def keeping_freed_pages() -> Iterator[bool]:
    """Keeps what is freed for the length of the block, then restores glibc's defaults and hands the memory back.

    Yields whether the settings were taken.
    """
    taken = keep_freed_pages()
    try:
        yield taken
    finally:
        library = _glibc() if taken else None
        if library is not None:
            for parameter, value in _DEFAULT:
                library.mallopt(parameter, value)
            hand_back_freed_pages()
