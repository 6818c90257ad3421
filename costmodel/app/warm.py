"""Imported once, before workers are forked: what every answer needs, and the first scenario's files and kernels."""

from costmodel.app import jobs, view
from costmodel.app.prediction import predicted
from costmodel.app.state import State
from costmodel.app.workers import settle

__all__ = ["jobs", "view"]

predicted(State())  # a scenario that cannot run says so, and raises nothing
settle()
