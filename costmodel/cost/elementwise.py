"""An element-wise kernel's time from the fit of its kind: it streams, from memory or from L2, row by row."""

from __future__ import annotations

from typing import ClassVar

from costmodel.cost.parameter import DeclaredRecord, constant, fitted, mechanism
from costmodel.cost.residual import Features
from costmodel.cost.time import VECTOR_DTYPE, Machine, Terms, Time, busy_kernel, p_norm
from costmodel.equations import equation
from costmodel.quantities import Bytes, Count, Seconds, log2, maximum, minimum, where
from costmodel.workload.operators import Elementwise

OVERLAP_P = 4.0  # chosen: a row's own time and the stream of all rows overlap, and the longer one counts, smoothly


class SerialRows(DeclaredRecord, kw_only=True):
    """A few rows are looked up by a kernel of its own, whose CTAs each take all of them in turn.

    [pytorch/pytorch, aten/src/ATen/native/cuda/Indexing.cu, index_select: indexSelectSmallIndex up to 16 indices]
    """

    serial_row: float = fitted("s", 5e-7, 1e-9, 1e-5, "what each of a few rows takes, one after the other")
    serial_rows_limit: int = constant("rows up to which they are taken one after the other", "count", 16)

    def time(self, rows: Count) -> Seconds:
        """Return what taking rows in turn adds [s]."""
        return where(rows <= self.serial_rows_limit, rows * self.serial_row, 0.0)


class ElementwiseForm(DeclaredRecord, kw_only=True):
    """Kernels that only stream, one CTA a row. A kernel that does not state its rows has neither term of them."""

    SECTION: ClassVar[str] = "7.6"
    AXES: ClassVar[dict[str, float]] = {"rows": 2.0, "row_bytes": 2.0}

    launch: float = fitted("s", 3e-6, 3e-7, 3e-4, "kernel overhead")
    hbm_efficiency: float = fitted("1", 0.85, 0.05, 1.3, "of the HBM bandwidth")
    l2_efficiency: float = fitted("1", 1.2, 0.5, 10.0, "the same for bytes that stay in L2")
    l2_share: float = fitted("1", 0.5, 0.01, 1.0, "share of L2 that holds them")
    cta_load_rate: float = fitted("B/cycle", 10.0, 0.5, 1000.0, "what one row's CTA moves")
    row_cycles: float = fitted("cycles", 100.0, 0.5, 1e5, "what a row costs its processor beside its bytes")

    serial_rows: SerialRows | None = mechanism(SerialRows)

    def time(self, operator: Elementwise, machine: Machine) -> Time:
        """Return the kernel's time."""
        terms = self.terms(operator, machine)
        busy = terms["busy_time"] + terms.get("serial_time", 0.0)
        return busy_kernel(self.launch, busy, terms["hbm_time"], OVERLAP_P)

    @equation
    def terms(self, operator: Elementwise, machine: Machine) -> Terms:
        """Return the terms.

        t = launch + busy_time
        t = launch + busy_time + serial_time               where a kernel takes a few rows in turn
        busy_time = (stream**OVERLAP_P + row**OVERLAP_P) ** (1 / OVERLAP_P)
        row = where(operator.rows > 0, row_bytes, 0) / (cta_load_rate * clock)
        stream = hbm + operator.rows * row_cycles / (machine.processors * clock)
        hbm = (hits / l2_efficiency + misses / hbm_efficiency) / machine.hbm_bandwidth
        hits = min(operator.traffic, l2_share * level.capacity)      bytes that stay in L2
        misses = operator.traffic - hits
        """
        level, clock = machine.device.level("l2"), machine.device.math[VECTOR_DTYPE].clock
        hits = 0.0 if level is None else minimum(operator.traffic, self.l2_share * level.capacity)
        misses = operator.traffic - hits
        hbm = (hits / self.l2_efficiency + misses / self.hbm_efficiency) / machine.hbm_bandwidth
        stream = hbm + operator.rows * self.row_cycles / (machine.processors * clock)
        row_bytes = _row_bytes(operator)
        row = where(operator.rows > 0, row_bytes, 0.0) / (self.cta_load_rate * clock)
        few = {} if self.serial_rows is None else {"serial_time": self.serial_rows.time(operator.rows)}
        return few | {
            "busy_time": p_norm(OVERLAP_P, stream, row), "row_time": row, "stream_time": stream, "hbm_time": hbm,
            "l2_hit_bytes": hits,
        }  # fmt: skip

    def features(self, operator: Elementwise) -> Features:
        """Return log2 of the rows and of the bytes of one. All is one row where rows are not stated."""
        return log2(maximum(operator.rows, 1.0)), log2(maximum(_row_bytes(operator), 1.0))


def _row_bytes(operator: Elementwise) -> Bytes:
    return operator.traffic / maximum(operator.rows, 1.0)
