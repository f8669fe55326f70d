"""How many arenas malloc has, so that memory stays level over thousands of requests."""

from __future__ import annotations

import ctypes
import sys

ARENAS = 2  # as many as compute at once
M_ARENA_MAX = -8  # of glibc's malloc.h


def limit_arenas() -> None:
    """Tell glibc, before there are threads; nothing happens where another library allocates.

    Each thread that ever ran the network would have an arena of its own, and each keeps what the network once needed
    (8 to 16 MiB). Gradio changes its threads, so memory would grow in steps until there are eight arenas a core.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)
