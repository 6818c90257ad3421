"""One run of the harness: probes, then the most informative kernels, each row on the disk before the next begins."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError
from costmodel.profiling.device_file import Facts, Rates, rates_of, write_device
from costmodel.profiling.rows import RowTable
from costmodel.profiling.shape_selection import most_informative
from costmodel.profiling.shapes import BYTES, TORCH, ProfileLimits, Shape, copies, launches, shapes
from costmodel.profiling.timing import Rule, Timing, measure
from costmodel.schema.whole_files import make_folder, write_whole

if TYPE_CHECKING:
    from costmodel.profiling.collectives import Ranks
    from costmodel.profiling.machine import Machine

SCHEMA = "costmodel/profile@1"
SECONDS = 60.0  # of a minute
_LONGEST = {"cpu": 2e-3, "cuda": 20e-3}  # seconds that a kernel's roofline may take to be timed
_MEMORY = {"cpu": 1 / 64, "cuda": 1 / 16}  # share of the memory that the operands of one call may take
_PROBES = ((2048, 2048, 2048), (1024, 4096, 1024))  # products that show the peak of a number format …
_LARGE_PROBES = ((8192, 8192, 8192), (4096, 16384, 4096))  # … and on a GPU
_FRESH = 1.0  # seconds for which the state of the device holds
_COPIES = 3  # the largest copies that show the bandwidth …
_BEYOND = 1 / 8  # … and one that the last cache cannot hold, where it takes at most this share of the memory

Widths: TypeAlias = "Callable[[Sequence[Mapping[str, str]]], npt.NDArray[np.float64]]"
Names: TypeAlias = "Callable[[str], str | None]"


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """The settings of a run. device: auto, cuda or cpu; suites: none for all; seconds: after which no kernel begins."""

    device: str
    suites: tuple[str, ...]
    seconds: float
    output: Path


@dataclass(slots=True)
class ProfileRun:
    """The result of a run: new rows and all, kernels that failed with the reason, and the device file if it wrote one.

    left: kernels that it had no time for; writes: this process is the one of its group that has written the table.
    """

    device: str
    new: int = 0
    rows: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    device_file: Path | None = None
    writes: bool = True


def run(request: ProfileRequest, names: Names, widths: Widths, on_progress: Callable[[float], None]) -> ProfileRun:
    """Time kernels until the time is over or none is left; rows that the output already holds are not timed again.

    names: the device file that a product's name or alias means; widths: half widths of predicted 80 % intervals over
    the predicted time, of rows; on_progress: called with the share of the run that is over.
    Raises InputError where torch is not installed, the device is not there, a suite is unknown, or the output is no
    table of this device.
    """
    if request.output.suffix != ".csv":
        raise InputError.single(
            f"{request.output} is no .csv file", hint="name one, such as mine.csv", field="--output"
        )
    shapes(request.suites, ProfileLimits({}, 1.0, 0.0, 0.0))  # reports an unknown suite before anything is imported
    if importlib.util.find_spec("torch") is None:
        raise InputError.single("torch is not installed", hint="pip install 'costmodel[profile]'", field="profile")
    from costmodel.profiling.collectives import Ranks
    from costmodel.profiling.machine import kind_of, machine

    ranks = Ranks(kind_of(request.device))
    try:
        device = machine(request.device, _threads(request.output))
        make_folder(request.output.parent)
        name = names(device.facts.product) if device.kind == "cuda" else None
        return _Run(request, device, ranks, name or _name(device), widths, named=name is not None).go(on_progress)
    finally:
        ranks.close()


def _threads(output: Path) -> int | None:
    """Return how many threads an earlier run on a CPU has timed; None where there was none."""
    aside = output.with_suffix(".json")
    if not (output.is_file() and aside.is_file()):
        return None
    try:
        threads = json.loads(aside.read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return threads if isinstance(threads, int) and threads > 0 else None


def _name(machine: Machine) -> str:
    """Return the name of a device that no file describes."""
    if machine.kind == "cpu":
        return "this-cpu"
    return "".join(letter if letter.isalnum() else "-" for letter in machine.facts.product.lower()).strip("-")


class _Run:
    """A run on one device. named: a file of the device is on the search path already."""

    def __init__(
        self, request: ProfileRequest, machine: Machine, ranks: Ranks, device: str, widths: Widths, *, named: bool
    ) -> None:
        from costmodel.profiling.operands import Operands

        self._request, self._machine, self._ranks, self._widths = request, machine, ranks, widths
        self._named = named
        self._operands = Operands(machine.kind, machine.facts.cache)
        self._result = ProfileRun(device, writes=ranks.first)
        self._end = time.monotonic() + request.seconds
        self._last_state: dict[str, str] = {}
        self._read_at = -math.inf

    def go(self, on_progress: Callable[[float], None]) -> ProfileRun:
        """Time what there is time for."""
        path = self._request.output if self._ranks.first else None
        with RowTable(path, self._result.device) as table:
            self._write_aside(table)
            try:
                if self._ranks.size == 1:
                    first = probes(self._machine.kind, self._machine.formats, self._machine.facts)
                    self._each(first, len(first), table, lambda _: None)
                    self._write_device(table)
                self._each(*self._chosen(table), table, on_progress)
            finally:
                self._result.rows = table.rows
                self._write_device(table)
                self._write_aside(table)
        return self._result

    def _chosen(self, table: RowTable) -> tuple[Iterable[Shape], int]:
        """Return the kernels that are left, the most informative first, the same on every rank, and their number."""
        candidates = shapes(self._suites(), self._reach(rates_of(table.measured.values(), self._machine.facts.cache)))
        rows = [shape.columns() | self._common_columns(shape) for shape in candidates]
        measured = frozenset(table.measured)
        order = most_informative(candidates, measured, self._widths(rows)) if self._ranks.first else iter(())
        if self._ranks.size == 1:
            return order, sum(shape.row_id not in measured for shape in candidates)
        agreed: list[Shape] = self._ranks.agree(list(order))
        return agreed, len(agreed)

    def _suites(self) -> tuple[str, ...]:
        """Return the suites: in a group those of the group alone, so that no rank times what another disturbs."""
        return ("collectives",) if self._ranks.size > 1 else self._request.suites

    def _reach(self, rates: Rates) -> ProfileLimits:
        from costmodel.profiling.libraries import importable

        facts, kind = self._machine.facts, self._machine.kind
        peaks = {name: rate for name in self._machine.formats if (rate := _rate(name, rates)) is not None}
        libraries = importable() if kind == "cuda" else ()
        memory = facts.memory * _MEMORY[kind]
        bandwidth = rates.memory or memory / _LONGEST[kind]
        longest = _LONGEST[kind] if self._ranks.size == 1 else 1.0
        return ProfileLimits(
            peaks=peaks or {"bf16": 1.0}, bandwidth=bandwidth, memory=memory, longest=longest,
            libraries=(TORCH, *libraries), gpu=kind == "cuda", ranks=self._ranks.size,
            local=self._ranks.local,
        )  # fmt: skip

    def _each(self, order: Iterable[Shape], count: int, table: RowTable, on_progress: Callable[[float], None]) -> None:
        """Time some kernels until the time is over. count: how many there are."""
        self._result.left = count
        for place, shape in enumerate(order):
            remaining = self._end - time.monotonic()
            if self._ranks.agree(remaining <= 0.0 and bool(table.measured)):
                return
            if shape.row_id in table.measured:
                continue
            self._one(shape, table)
            self._result.left = count - place - 1
            on_progress(max(1.0 - remaining / self._request.seconds, (place + 1) / count))

    def _one(self, shape: Shape, table: RowTable) -> None:
        """Time a kernel and write its row; note why where it cannot run."""
        try:
            timing, name = self._time(shape)
        except (RuntimeError, ImportError, TypeError, ValueError, AttributeError) as error:
            # Anything that a library refuses to run; the next kernel may be one that it runs.
            self._result.failed[shape.row_id] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            self._machine.check(shape.row_id)
            self._operands.release()
            return
        row = shape.columns() | self._common_columns(shape) | self._state() | {
            "kernel": name, "time_us": f"{timing.seconds * 1e6:.6g}", "spread": f"{timing.spread:.3g}",
            "repeats": str(timing.repeats),
        }  # fmt: skip
        table.append(row)
        self._result.new += 1

    def _time(self, shape: Shape) -> tuple[Timing, str]:
        from costmodel.profiling.libraries import build
        from costmodel.profiling.machine import HostWatch

        self._operands.prepare(shape.traffic)
        if shape.suite == "collectives":
            from costmodel.profiling.collectives import collective, time_together

            kernel = collective(shape, self._operands, self._ranks)
            return time_together(kernel.make, self._machine, self._ranks), kernel.name
        kernel = build(shape, self._operands)
        watch = HostWatch() if kernel.hosted else self._machine.watch
        timing = measure(kernel.make, watch, _rule(shape, self._machine))
        return replace(timing, seconds=timing.seconds / kernel.count), kernel.name

    def _state(self) -> dict[str, str]:
        """Return clock, power and driver, read anew at most once a second: asking the driver takes as long as a row."""
        if time.monotonic() - self._read_at > _FRESH:
            self._last_state, self._read_at = self._machine.state(), time.monotonic()
        return self._last_state

    def _common_columns(self, shape: Shape) -> dict[str, str]:
        """Return the cells that all rows of a run share."""
        timing = self._machine.timing if shape.op != "launch" else "eager_loop_host"
        return {"device": self._result.device, "framework": self._machine.framework, "timing": timing}

    def _write_device(self, table: RowTable) -> None:
        """Write the device's file where the search path has none, from all rows so far."""
        facts = self._machine.facts
        if self._ranks.first and not self._named:
            self._result.device_file = write_device(
                self._request.output.with_suffix(""), self._result.device, facts,
                rates_of(table.measured.values(), facts.cache), self._request.output.name,
            )  # fmt: skip

    def _write_aside(self, table: RowTable) -> None:
        """Write what ran the measurements beside the table, as JSON."""
        if not self._ranks.first:
            return
        document: dict[str, Any] = {
            "schema": SCHEMA, "device": self._result.device, **self._machine.describe(), "rows": table.rows,
            "failed": self._result.failed,
        }  # fmt: skip
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        write_whole(self._request.output.with_suffix(".json"), [text.encode("utf-8")])


def probes(kind: str, formats: Sequence[str], facts: Facts) -> list[Shape]:
    """Return what shows a device's peaks and bandwidth: the rooflines that bound the kernels that are worth timing.

    kind: cpu or cuda; formats: those it multiplies. One copy is larger than the last cache where an eighth of the
    memory has room for it: without it no bandwidth of the memory is known, and no device file is written.
    """
    sizes = _PROBES if kind == "cpu" else _LARGE_PROBES
    products = [
        Shape("gemm", "gemm", dtype, (("m", m), ("n", n), ("k", k)))
        for dtype in formats
        if not dtype.endswith("blk128")
        for m, n, k in sizes
    ]
    own = [shape for shape in copies() if shape.op == "elementwise"]
    fitting = [shape for shape in own if shape.traffic <= facts.memory * _MEMORY[kind]]
    inner = [shape for shape in own if 0 < shape.size("n") * BYTES["fp32"] <= facts.cache // 4]
    missed = [shape for shape in own if shape.size("n") * BYTES["fp32"] >= facts.cache]
    beyond = [s for s in missed[:1] if s not in fitting and s.traffic <= facts.memory * _BEYOND]
    aside = [shape for shape in (*copies(), *launches()) if shape.secondary]
    context = [shape for shape in aside if kind == "cuda" or shape.sub_op == "eager"]
    return [*fitting[-_COPIES:], *beyond, *inner[-1:], *products, *context]


def _rate(name: str, rates: Rates) -> float | None:
    """Return the peak of a number format as tables spell it."""
    return rates.peaks.get("fp8" if name.startswith("fp8") else name)


def _rule(shape: Shape, machine: Machine) -> Rule:
    """Return how often a kernel is run: operands of all repeats fit into the memory."""
    rule = Rule()
    room = machine.facts.memory * _MEMORY[machine.kind] * rule.fewest
    return replace(rule, most=int(min(max(room / max(shape.traffic, 1.0), rule.fewest), rule.most)))
