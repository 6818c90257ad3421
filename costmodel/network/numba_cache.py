"""Functions compiled by numba and kept on disk. Without numba importing is fine, and compiling an ImportError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Return a function compiled at its first call, kept where numba finds a folder that it can write.

    Without such a folder (an installation that is read-only, no home) numba refuses to keep it, and each process
    compiles it anew.
    """
    import numba

    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # cannot cache function: no locator available
        return numba.njit(function, **options)
