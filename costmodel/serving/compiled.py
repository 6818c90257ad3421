"""Functions on arrays that numba compiles where it is installed. Without it Python runs the same lines.

Functions marked `inner` stay plain Python. A compiled caller compiles them with it. Compiled code is kept next to the
caller's file, or in the user's folder of caches, and renewed when that file changes, not when another one does. Where
neither can be written to, each process compiles anew. None of these functions may allocate arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from struct import pack
from typing import Any, TypeVar, cast

from costmodel.network.numba_cache import compiled as compile_and_keep

Function = TypeVar("Function", bound=Callable[..., Any])
_inner: dict[Callable[..., Any], dict[str, Any]] = {}  # with options of its compilation
_compiled: set[Callable[..., Any]] = set()  # by this process


def inner(function: Function) -> Function:
    """Mark a function that compiled callers call."""
    _inner[function] = {}
    return function


def spliced(function: Function) -> Function:
    """Mark a function that is compiled into its callers, since it returns records: Numba returns none from a call."""
    _inner[function] = {"inline": "always"}
    return function


def has_numba() -> bool:
    """Tell whether functions can be compiled."""
    return find_spec("numba") is not None


@cache
def compiled(function: Function) -> Function:
    """Return a function compiled by numba at its first call. The function itself without numba."""
    if not has_numba():
        return function
    from numba.extending import register_jitable

    # No function allocates: counting references to the arrays of each call would take longer than the calls themselves.
    uncounted: dict[str, Any] = {"_nrt": False}
    while _inner:  # nothing but compiled code calls these
        own, options = _inner.popitem()
        register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True, **uncounted, **options)(own)
    _compiled.add(function)
    return cast(Function, compile_and_keep(function, nogil=True, **uncounted))


def is_kept(function: Callable[..., Any]) -> bool:
    """Tell whether a function of this room was compiled before, by this process or one whose code numba has kept.

    Its index has the digest of the file that it is of, in older releases of numba its time.
    """
    if function in _compiled:
        return True
    folder, source = kept_in(), Path(function.__code__.co_filename)
    indices = Path(folder).glob(f"{source.stem}.{function.__name__}-*.nbi") if folder else ()
    stamps = sha256(source.read_bytes()).digest(), pack(">d", source.stat().st_mtime)
    return any(stamp in content for content in map(Path.read_bytes, indices) for stamp in stamps)


def kept_in() -> str | None:
    """Return the folder where compiled functions of this room are kept, null where numba can write to none.

    Found as numba finds it: $NUMBA_CACHE_DIR, else `__pycache__` next to the file, else the user's folder of caches,
    the first in which it can create a file [numba.readthedocs.io/en/stable/developer/caching.html]. Without such a
    folder each process compiles anew. Blank where NUMBA_DISABLE_JIT switches it off. Needs numba.
    """
    placed = compile_and_keep(kept_in)
    if not hasattr(placed, "stats"):
        return ""
    folder = placed.stats.cache_path
    return None if folder is None else str(folder)
