"""Rows that cannot be what they say: written twice, at odds with themselves, or faster than their device can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.hardware import Device
from costmodel.measurements.row_group import OperatorRows
from costmodel.measurements.tables import NUMBERS, TEXTS, Table
from costmodel.quantities import Array, Indices, Seconds, sum_of
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator

CONTEXT = "secondary"  # the tier that the tables keep as context: neither fitted nor scored
TOO_FAST_TO_COMPUTE = "faster than the dense peak at the highest clock"
TOO_FAST_TO_READ = "faster than device memory gives the bytes that L2 cannot hold"


def context(table: Table) -> npt.NDArray[np.bool_]:
    """Return where a row is context only."""
    return np.asarray(table.text("tier") == CONTEXT, dtype=bool)


def repeated(table: Table) -> dict[int, int]:
    """Return rows that repeat an earlier one in every column but row_id, the time included -> the first such row.

    The same shape with another time is another measurement.
    """
    _, which, counts = np.unique(table.seconds, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero((counts[which.ravel()] > 1) & np.isfinite(table.seconds))
    some = table.take(candidates)
    columns = [some.text(name) for name in TEXTS if name != "row_id"]
    columns += [np.nan_to_num(some.number(name)) for name in NUMBERS]
    first: dict[tuple[Any, ...], int] = {}
    repeats: dict[int, int] = {}
    for row, *key in zip(candidates.tolist(), *columns, some.seconds, strict=True):
        earlier = first.setdefault(tuple(key), row)
        if earlier != row:
            repeats[row] = earlier
    return repeats


def contradictory(table: Table) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield the reasons for which sizes of a row exclude each other, with a mask of the rows. Blanks exclude none."""
    for new, keys in (("q_len", "kv_len"), ("q2_len", "kv2_len")):
        yield f"{keys} is less than {new}, whose tokens it counts too", table.number(keys) < table.number(new)
    heads, shared = table.number("q_heads"), table.number("kv_heads")
    yield "kv_heads do not divide q_heads", np.nan_to_num(heads % shared) > 0
    yield "topk is more than num_experts", table.number("topk") > table.number("num_experts")


def impossible(mapped: Sequence[OperatorRows], table: Table) -> Iterator[tuple[str, Indices]]:
    """Yield why some rows are faster than their device can be, with the rows.

        time < FLOP / (dense peak * max / reference clock)
        time < (compulsory bytes - L2 capacity) / B_memory

    What earlier kernels left in L2 need not be read, so only the bytes beyond it prove anything. Layers of experts
    whose routing is known on average only prove nothing.
    """
    for part in mapped:
        first = part.rows[0]
        if str(table.text("op")[first]) == "moe_layer" and str(table.text("sub_op")[first]) != "fused_experts":
            continue
        seconds = table.seconds[part.rows]
        for reason, least in (
            (TOO_FAST_TO_COMPUTE, _arithmetic(part.operators, part.device)),
            (TOO_FAST_TO_READ, _reading(part.operators, part.device)),
        ):
            wrong = np.flatnonzero(np.broadcast_to(least, seconds.shape) > seconds)
            if len(wrong):
                yield reason, part.rows[wrong]


def slowness(mapped: Sequence[OperatorRows], table: Table, launch: Seconds) -> dict[str, tuple[float, int]]:
    """Return the median of measured times over the least that kernels need, and of how many, of each file of a table.

        least = launches + max(FLOP / (dense peak at the highest clock), bytes / B_memory)

    Of 145 public tables in microseconds it is between 0.5 and 5.4 (two of few rows: 8 and 16), whatever their kernels.
    Messages, whose links a table hardly says, do not count.
    """
    ratios: dict[str, list[Array]] = {}
    for part in mapped:
        kernels = [each for each in part.operators if isinstance(each, Gemm | AttentionKernel | Elementwise)]
        if len(kernels) < len(part.operators):
            continue
        traffic: Any = sum_of(each.traffic for each in kernels)
        memory = traffic / np.asarray(part.device.device_memory.bandwidth)
        least = launch * (len(part.operators) - part.fused) + np.maximum(
            _arithmetic(part.operators, part.device), memory
        )
        ratio = table.seconds[part.rows] / least
        for file in np.unique(table.files[part.rows].astype(str)):
            ratios.setdefault(str(file), []).append(ratio[table.files[part.rows] == file])
    by_file = {file: np.concatenate(each) for file, each in ratios.items()}
    timed = {file: each[np.isfinite(each)] for file, each in by_file.items()}
    return {file: (float(np.median(each)), len(each)) for file, each in timed.items() if len(each)}


def _arithmetic(operators: Sequence[Operator], device: Device) -> Array:
    total: Any = 0.0
    for operator in operators:
        for kernel in getattr(operator, "parts", (operator,)):
            if not isinstance(kernel, Gemm | AttentionKernel):
                continue
            unit = device.math[kernel.dtype]
            clock = np.maximum(unit.clock, device.clock_max)
            total = total + kernel.flop / (unit.flop_per_cycle * device.processors * clock)
    return np.asarray(total)


def _reading(operators: Sequence[Operator], device: Device) -> Array:
    """Return the least time of the bytes that L2 cannot hold [s]."""
    total: Any = 0.0
    for operator in operators:
        if isinstance(operator, Gemm | AttentionKernel | Elementwise):
            total = total + operator.traffic
    cache, memory = device.level("l2"), device.device_memory
    assert memory.bandwidth is not None, "a device file states the bandwidth of its memory"
    return np.asarray((total - (0.0 if cache is None else cache.capacity)) / memory.bandwidth)
