"""Functions compiled by numba and kept on disk. Without numba importing is fine, and compiling an ImportError."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from costmodel.errors import Notice


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Return a function compiled at its first call, kept where numba finds a folder that it can write.

    Without such a folder (an installation that is read-only, no home) numba refuses to keep it, and each process
    compiles it anew. So it does where others can write there: what is kept is run as it stands.
    """
    import numba

    try:
        kept = numba.njit(function, cache=True, **options)
    except RuntimeError:  # cannot cache function: no locator available
        return numba.njit(function, **options)
    folder = getattr(getattr(kept, "stats", None), "cache_path", None)  # none where NUMBA_DISABLE_JIT is set
    if folder is None or is_ours(Path(folder)):
        return kept
    said = Notice(f"{folder} can be written by others: compiled code is neither run from there nor kept")
    warnings.warn(said, stacklevel=2)
    return numba.njit(function, **options)


def is_ours(folder: Path) -> bool:
    """Tell whether nobody but this user and the system's owner can change what is in a folder."""
    try:
        state = folder.stat()
    except OSError:  # it is yet to be made, by this user
        return True
    return not state.st_mode & stat.S_IWOTH and (os.name != "posix" or state.st_uid in (0, os.getuid()))
