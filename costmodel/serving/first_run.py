"""Long runs whose loops are not compiled yet: as Python, until they have taken what compilation takes.

Numba compiles the loops over requests once, for some seconds, and most runs are over sooner as Python. So they run as
Python first, in parts of simulated time, which changes no number. Only when this run and those before it have taken as
long as compilation does are the loops compiled: all in all at most twice the time of who knew what is to come.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import ContextVar
from time import process_time

import numpy as np

from costmodel.errors import Notice
from costmodel.schema import catalogue
from costmodel.schema.catalogue import Question
from costmodel.serving.checkpoint import is_over
from costmodel.serving.routing import Service
from costmodel.serving.rows import as_objects

COMPILATION = 10.0  # seconds of the processor that Numba took (NUMBA_OPT=1), where a million additions take 30 ms
INTERPRETING = Notice("requests run as Python, since their loops are not compiled yet")
WITHOUT_NUMBA = Notice(
    "requests run as Python, since Numba is not installed: `pip install 'costmodel[fast]'` makes long runs faster"
)
COMPILING = Notice("compiling the loops over requests, once for all later runs: half a minute")
_SOON = 0.5  # seconds of the processor: parts that take less are followed by longer ones
_FIRST_PART = 1.0  # simulated seconds
_SPENT = Question("seconds", ("requests as Python",), ())
_spent_here = ContextVar("_spent_here", default=0.0)  # the same of this process, where no folder keeps it
Loop = Callable[[Service, float], int]


def run_as_python(run: Loop, service: Service, until: float, *, slow: bool = False) -> int:
    """Run a deployment up to a moment as Python. Return an engine that is stuck, -1: none.

    slow: of a long run, whose answer says that Numba would shorten it.
    """
    if slow:
        warnings.warn(WITHOUT_NUMBA, stacklevel=2)
    with as_objects(service) as objects:
        return run(objects, until)


def try_python(run: Loop, service: Service, until: float) -> int | None:
    """Run a deployment up to a moment, as long as Python is worth it. Null where it should go on compiled.

    Returns an engine that is stuck, -1: none.
    """
    known = catalogue.recall(_SPENT)
    before: float = max(_spent_here.get(), 0.0 if known is None else known.answer)
    if before >= COMPILATION:
        warnings.warn(COMPILING, stacklevel=2)
        return None
    warnings.warn(INTERPRETING, stacklevel=2)
    begin, spent, part = process_time(), 0.0, _FIRST_PART
    moment, stuck = float(np.nanmin(np.append(service.engines.state["moment"], 0.0))), -1
    with as_objects(service) as objects:
        while stuck < 0 and moment < until and not is_over(objects) and before + spent < COMPILATION:
            moment = min(moment + part, until)
            stuck = run(objects, moment)
            part *= 2.0 if process_time() - begin - spent < _SOON else 1.0
            spent = process_time() - begin
        over = is_over(objects)
    _spent_here.set(before + spent)
    catalogue.keep(_SPENT, {}, before + spent)
    if stuck >= 0 or moment >= until or over:
        return stuck
    warnings.warn(COMPILING, stacklevel=2)
    return None
