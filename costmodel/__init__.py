"""Predicts time, memory, money and energy of transformer workloads on GPU clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from costmodel.version import __version__

if TYPE_CHECKING:
    from costmodel.api import Workload, load

__all__ = ["Workload", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the facade when it is first used: `costmodel --help` must not wait for numpy."""
    if name in {"Workload", "load"}:
        from costmodel import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
