"""Predicts time, memory, money and energy of transformer workloads on GPU clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costmodel.version import __version__

if TYPE_CHECKING:
    from costmodel.facade import Result, Workload, load

__all__ = ["Result", "Workload", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the facade when it is first used: `costmodel --help` must not wait for numpy."""
    if name in {"Result", "Workload", "load"}:
        from costmodel import facade

        return getattr(facade, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
