"""Keep memory that was freed: arrays of a few megabytes are made and thrown away for every clip."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for what it makes next; False where that is unknown.

    glibc hands large arrays back to the system at once, and the system clears each page of the
    next one: a fifth of the time of an augmented clip, four fifths of that of making floats of a
    batch, up to half of a training step. The process stays as large as it was at its largest.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
