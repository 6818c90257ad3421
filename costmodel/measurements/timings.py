"""Which of a row's times a fit is of: that of a call in a graph, or of one behind another on a stream."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costmodel.measurements.tables import Table
from costmodel.records import replace

IN_A_GRAPH = "cuda_graph_l2flush"  # the method of timing of such rows: a graph of all repeats, each with own operands


def waited(table: Table) -> npt.NDArray[np.bool_]:
    """Return where a call waited for the host, so that its time is no kernel's."""
    return np.asarray(table.text("queued") == "0", dtype=bool)


def timed_for(table: Table, *, graphs: bool) -> Table:
    """Return rows with the times that kernels have under a program which replays graphs, or does not.

    A row has its time in a graph where it states one, and the program replays graphs or the other time is no kernel's,
    since the host was late. Other rows stay as they are.
    """
    taken = np.isfinite(table.graph_seconds) & (graphs | waited(table))
    texts = {
        "timing": np.where(taken, IN_A_GRAPH, table.text("timing")),
        "queued": np.where(taken, "", table.text("queued")),
    }
    return replace(table, seconds=np.where(taken, table.graph_seconds, table.seconds), texts={**table.texts, **texts})
