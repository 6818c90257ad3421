"""One run of the harness: probes, then the most informative kernels, each row written before the next begins."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError
from costmodel.profiling.device_file import Facts, Rates, file_of, rates_of, unit_of, write_device
from costmodel.profiling.failures import FailureLog, SecondTries, passes
from costmodel.profiling.rows import RowTable, most_informative
from costmodel.profiling.shapes import (
    BYTES,
    FP4,
    FP4_BACKEND,
    SUSTAINED_LOADS,
    VLLM,
    ProfileLimits,
    Shape,
    copies,
    launches,
    shapes,
    sustained,
)
from costmodel.profiling.timing import Call, Rule, Series, Timing, measure
from costmodel.records import MutableRecord, ValueRecord, field, replace
from costmodel.schema.whole_files import make_folder, write_whole

if TYPE_CHECKING:
    from costmodel.profiling.collectives import Ranks
    from costmodel.profiling.kernels import Kernel

SCHEMA = "costmodel/profile@1"
SECONDS = 60.0  # of a minute
DTYPES = {
    "bf16": ("bf16",), "fp16": ("fp16",), "fp32": ("fp32",), "fp8": ("fp8_e4m3", "fp8_e4m3_blk128"), "fp4": (FP4,),
}  # fmt: skip
_USUAL = {"cpu": ("fp32", "bf16"), "cuda": ("bf16", "fp8", "fp4")}  # number formats that models use
_LONGEST = {"cpu": 2e-3, "cuda": 20e-3}  # seconds that a kernel's roofline may take to be timed
_MEMORY = {"cpu": 1 / 64, "cuda": 1 / 16}  # share of the memory that the operands of one call may take
_PROBES = ((2048, 2048, 2048), (1024, 4096, 1024))  # products that show the peak of a number format …
_LARGE_PROBES = ((8192, 8192, 8192), (4096, 16384, 4096))  # … and on a GPU
_COPIES = 3  # the largest copies that show the bandwidth …
_BEYOND = 1 / 8  # … and one that the last cache cannot hold, where it takes at most this share of the memory
_FAST = {"fp8_e4m3": "tensor_fast", FP4: FP4_BACKEND}  # the backends that reach the peak of a format
_SHORT = 10e-6  # seconds of a kernel below which its time in a graph is taken, too
_HOPELESS = 3  # kernels of a family without a row whose failure ends the family for this run
_SUSTAINED = 5.0  # seconds of a sustained load

Widths: TypeAlias = "Callable[[Sequence[Mapping[str, str]]], npt.NDArray[np.float64]]"
Names: TypeAlias = "Callable[[str], str | None]"
Progress: TypeAlias = "Callable[[float], None]"


class Watch(Protocol):
    """Times calls on a device: one after the other, inside a graph (None where there are none), under a long load."""

    def series(self, calls: Sequence[Call]) -> Series: ...  # noqa: D102
    def in_a_graph(self, calls: Sequence[Call]) -> float | None: ...  # noqa: D102
    def sustained(self, calls: Sequence[Call], seconds: float, duty: float) -> Timing: ...  # noqa: D102


class Bench(Protocol):
    """A device on which kernels are timed, as `machine.Machine` is one."""

    kind: str
    facts: Facts
    timing: str
    formats: tuple[str, ...]
    versions: Mapping[str, str]
    cudnn: str
    hopper: bool
    operands: Any

    @property
    def watch(self) -> Watch: ...  # noqa: D102
    @property
    def framework(self) -> str: ...  # noqa: D102
    def now(self) -> float: ...  # noqa: D102
    def build(self, shape: Shape) -> Kernel: ...  # noqa: D102
    def state(self, begin: float, end: float) -> dict[str, str]: ...  # noqa: D102
    def check(self, kernel: str) -> None: ...  # noqa: D102
    def describe(self) -> dict[str, Any]: ...  # noqa: D102


class ProfileRequest(ValueRecord):
    """The settings of a run.

    device: auto, cuda or cpu.
    suites: none for all.
    seconds: after which none begins.
    dtypes: keys of DTYPES, none for what models use.
    sustained: run loads of seconds before the rest.
    """

    device: str
    suites: tuple[str, ...]
    seconds: float
    output: Path
    dtypes: tuple[str, ...] = ()
    sustained: bool = False


class ProfileRun(MutableRecord):
    """The result of a run: new rows and all, kernels that failed with the reason, and the device file if it wrote one.

    failed: of all runs of this table.
    uncaptured: rows without the time in a graph, with the reason.
    left: kernels that it had no time for.
    writes: this process is the one of its group that has written the table.
    timing: share of the run that the stopwatch was in use.
    """

    device: str
    new: int = 0
    rows: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    uncaptured: dict[str, str] = field(default_factory=dict)
    device_file: Path | None = None
    writes: bool = True
    timing: float = 0.0


def run(request: ProfileRequest, names: Names, widths: Widths, on_progress: Progress) -> ProfileRun:
    """Time kernels until the time is over or none is left. Rows that the output already holds are not timed again.

    names: the device file that a product's name or alias means.
    widths: half widths of predicted 80 % intervals over the predicted time, of rows.
    on_progress: called with the share of the run that is over. Raises InputError where torch is not installed, the
    device is not there, a suite is unknown, or the output is no table of this device.
    """
    if request.output.suffix != ".csv":
        raise InputError.single(
            f"{request.output} is no .csv file", hint="name one, such as mine.csv", field="--output"
        )
    shapes(request.suites, ProfileLimits({}, 1.0, 0.0, 0.0))  # an unknown suite is stated before anything is imported
    if importlib.util.find_spec("torch") is None:
        raise InputError.single("torch is not installed", hint="pip install 'costmodel[profile]'", field="profile")
    from costmodel.profiling.collectives import Ranks
    from costmodel.profiling.found_device import kind_of
    from costmodel.profiling.machine import machine

    ranks = Ranks(kind_of(request.device))
    try:
        if ranks.size == 1 and request.suites == ("collectives",):
            hint = "start one process for each device: torchrun --nproc_per_node=8 -m costmodel profile …"
            raise InputError.single("messages need two ranks, this is one", hint=hint, field="--suite")
        bench = machine(request.device, _threads(request.output))
        try:
            return run_on(bench, request, ranks, widths, on_progress, names)
        finally:
            bench.close()
    finally:
        ranks.close()


def run_on(
    bench: Bench,
    request: ProfileRequest,
    ranks: Ranks,
    widths: Widths,
    on_progress: Progress,
    names: Names,
) -> ProfileRun:
    """Time kernels on a device, as `run` does. Raises InputError where it needs a file, and nobody states its clock."""
    name = file_of(bench.kind, bench.facts, names)
    if name is None and bench.facts.clock is None:
        product = bench.facts.product
        raise InputError.single(
            f"neither torch nor the driver's tools state the clock of {product}, which no device file describes",
            hint=f"install nvidia-smi or amdsmi, or write a device file with the alias `{product}`", field="--device",
        )  # fmt: skip
    make_folder(request.output.parent)
    return _Run(request, bench, ranks, name or _name(bench), widths, named=name is not None).go(on_progress)


def _threads(output: Path) -> int | None:
    """Return how many threads an earlier run on a CPU has timed. None where there was none."""
    aside = output.with_suffix(".json")
    if not (output.is_file() and aside.is_file()):
        return None
    try:
        threads = json.loads(aside.read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return threads if isinstance(threads, int) and threads > 0 else None


def _name(bench: Bench) -> str:
    if bench.kind == "cpu":
        return "this-cpu"
    return "".join(letter if letter.isalnum() else "-" for letter in bench.facts.product.lower()).strip("-")


class _Costs(MutableRecord):
    """Seconds that a row of a family takes with all that is built for it, and what the device ran of them."""

    by_family: dict[tuple[str, ...], float] = field(default_factory=dict)
    rows: dict[tuple[str, ...], int] = field(default_factory=dict)
    timed: float = 0.0
    failures: dict[tuple[str, ...], int] = field(default_factory=dict)

    def hopeless(self, family: tuple[str, ...]) -> bool:
        """Tell whether the first kernels of a family have all failed: the next would for the same reason."""
        return not self.rows.get(family) and self.failures.get(family, 0) >= _HOPELESS

    def add(self, family: tuple[str, ...], seconds: float) -> None:
        """Take up one more row: the mean of a family moves by its share."""
        count = self.rows[family] = self.rows.get(family, 0) + 1
        mean = self.by_family.get(family, seconds)
        self.by_family[family] = mean + (seconds - mean) / count


class _Watched:
    """A stopwatch that adds up how long it was in use."""

    def __init__(self, watch: Watch, now: Callable[[], float], costs: _Costs) -> None:
        self._watch, self._now, self._costs = watch, now, costs

    def series(self, calls: Sequence[Call]) -> Series:
        begin = self._now()
        series = self._watch.series(calls)
        self._costs.timed += self._now() - begin
        return series


class _Run:
    """A run on one device. named: a file of the device is on the search path already."""

    def __init__(
        self, request: ProfileRequest, bench: Bench, ranks: Ranks, device: str, widths: Widths, *, named: bool
    ) -> None:
        self._request, self._bench, self._ranks, self._widths = request, bench, ranks, widths
        self._named = named
        self._result = ProfileRun(device, writes=ranks.first)
        self._begin = bench.now()
        self._costs = _Costs()
        self._tries = SecondTries()

    def go(self, on_progress: Progress) -> ProfileRun:
        path = self._request.output if self._ranks.first else None
        log = None if path is None else path.with_suffix(".failed.jsonl")
        with RowTable(path, self._result.device) as table, FailureLog(log) as failures:
            for row_id, reason in failures.ended_by(frozenset(table.measured)).items():
                failures.fail(row_id, reason)
            failures.forget(table.measured)
            self._write_aside(table, failures)
            try:
                if self._ranks.size == 1:
                    for first in self._first(table):
                        self._each(iter(first), len(first), table, failures, lambda _: None)
                    self._write_device(table)
                self._each(*self._chosen(table, failures), table, failures, on_progress)
            finally:
                self._result.rows, self._result.failed = table.rows, failures.failed
                self._result.uncaptured = failures.uncaptured
                self._result.timing = self._costs.timed / max(self._bench.now() - self._begin, 1e-9)
                self._write_device(table)
                self._write_aside(table, failures)
        return self._result

    def _first(self, table: RowTable) -> Iterator[list[Shape]]:
        """Yield what comes before all else: what shows the device's rates, then the loads of seconds, if asked for."""
        limits = self._limits(Rates({}, None, None, None))
        yield [limits.named(shape) for shape in probes(self._bench.kind, self._probed(), self._bench.facts)]
        if self._request.sustained:
            yield sustained(self._limits(rates_of(table.measured.values(), self._bench.facts.cache)))

    def _chosen(self, table: RowTable, failures: FailureLog) -> tuple[Iterator[Shape], int]:
        """Return the kernels that are left, the most informative first, the same on every rank, and their number."""
        limits = self._limits(rates_of(table.measured.values(), self._bench.facts.cache))
        # In a group only its own suite: no rank times what another disturbs.
        candidates = shapes(("collectives",) if self._ranks.size > 1 else self._request.suites, limits)
        rows = [shape.columns() | self._common_columns(shape) for shape in candidates]
        done = frozenset(table.measured) | failures.settled | self._tries.tried
        first = self._ranks.first
        order = most_informative(candidates, done, self._widths(rows), self._costs.by_family) if first else iter(())
        if self._ranks.size == 1:
            return order, sum(shape.row_id not in done for shape in candidates)
        agreed: list[Shape] = self._ranks.agree(list(order))
        return iter(agreed), len(agreed)

    def _dtypes(self) -> tuple[str, ...]:
        asked = self._request.dtypes or _USUAL[self._bench.kind]
        named = [dtype for name in asked for dtype in DTYPES[name] if dtype in self._bench.formats]
        return tuple(named) or self._bench.formats

    def _probed(self) -> tuple[str, ...]:
        """Return the number formats whose peaks to show: all, or those asked for and FP32, without which no file is."""
        if not self._request.dtypes:
            return self._bench.formats
        return tuple(dict.fromkeys(("fp32", *self._dtypes())))

    def _limits(self, rates: Rates) -> ProfileLimits:
        facts, kind = self._bench.facts, self._bench.kind
        peaks = {name: rate for name in self._dtypes() if (rate := rates.peaks.get(unit_of(name))) is not None}
        memory = facts.memory * _MEMORY[kind]
        bandwidth = rates.memory or memory / _LONGEST[kind]
        longest = _LONGEST[kind] if self._ranks.size == 1 else 1.0
        return ProfileLimits(
            peaks=peaks or {"bf16": 1.0}, bandwidth=bandwidth, memory=memory, longest=longest,
            versions=self._bench.versions, cudnn=self._bench.cudnn, gpu=kind == "cuda", hopper=self._bench.hopper,
            ranks=self._ranks.size, local=self._ranks.local,
        )  # fmt: skip

    def _each(
        self,
        order: Iterator[Shape],
        count: int,
        table: RowTable,
        failures: FailureLog,
        on_progress: Progress,
    ) -> None:
        """Time some kernels until the time is over, and one at least, so that each run goes on. count: how many."""
        self._result.left = count
        for index, shape in enumerate(self._tries.among(order)):
            spent = (self._bench.now() - self._begin) / self._request.seconds
            if self._ranks.agree(spent >= 1.0 and self._result.new > 0):
                return
            done = shape.row_id in table.measured or shape.row_id in failures.settled
            if self._ranks.agree(done or self._costs.hopeless(shape.family)):
                continue
            self._one(shape, table, failures)
            self._result.left = max(count - index - 1, 0)
            on_progress(max(spent, min((index + 1) / count, 1.0)))

    def _one(self, shape: Shape, table: RowTable, failures: FailureLog) -> None:
        """Time a kernel and write its row. Where it cannot run, write why.

        Whatever a library raises counts: an assertion, a missing compiler, a key that it does not know. In a group
        every rank says how it went, so that none waits for one that has failed. Where the failure may pass, all memory
        is given back, and the kernel is tried once more some kernels later.
        """
        failures.begin(shape.row_id)
        begin = self._bench.now()
        row: dict[str, str] = {}
        reason = ""
        try:
            row = self._row(shape, failures)
        except KeyboardInterrupt:
            failures.end(shape.row_id)
            raise
        except Exception as error:
            reason = _said(error)
        reason = self._ranks.first_reason(reason)
        if reason:
            failures.fail(shape.row_id, reason)
            if passes(reason):
                self._tries.add(shape)
            else:
                self._costs.failures[shape.family] = self._costs.failures.get(shape.family, 0) + 1
            self._bench.check(shape.row_id)
            return
        end = self._bench.now()
        self._costs.add(shape.family, end - begin)
        table.append(row | self._bench.state(begin, end))
        failures.forget([shape.row_id])
        self._result.new += 1
        if shape.row_id in failures.uncaptured:
            self._bench.check(shape.row_id)  # after the row is written: the capture may have stopped the device

    def _row(self, shape: Shape, failures: FailureLog) -> dict[str, str]:
        """Time a kernel. Return the cells of its row, but for the state of the board.

        One that no graph can hold has a row without that time; why stands among the failures.
        """
        if shape.suite == "collectives":
            kernel, timing = self._message(shape)
        else:
            kernel = self._bench.build(shape)
            timing = self._timing(kernel, shape)
        in_a_graph = ""
        try:
            in_a_graph = self._graph_cell(kernel, timing)
        except Exception as error:
            failures.add_uncaptured(shape.row_id, _said(error))
        timing = replace(timing, seconds=timing.seconds / kernel.count, host=timing.host / kernel.count)
        return shape.columns() | self._common_columns(shape) | {
            "kernel": kernel.name, "time_us": f"{timing.seconds * 1e6:.6g}", "spread": f"{timing.spread:.3g}",
            "repeats": str(timing.repeats), "host_us": f"{timing.host * 1e6:.4g}", "queued": str(int(timing.queued)),
            "graph_us": in_a_graph,
        }  # fmt: skip

    def _message(self, shape: Shape) -> tuple[Kernel, Timing]:
        from costmodel.profiling.collectives import collective, time_together
        from costmodel.profiling.watches import HostWatch

        self._bench.operands.prepare(shape.traffic)
        kernel = collective(shape, self._bench.operands, self._ranks)
        watch = HostWatch(alone=False) if self._bench.kind == "cpu" else self._bench.watch
        return kernel, time_together(kernel.make, watch, self._ranks)

    def _timing(self, kernel: Kernel, shape: Shape) -> Timing:
        if shape.load:
            calls = [kernel.make() for _ in range(2)]
            self._costs.timed += _SUSTAINED
            duty = 0.5 if shape.load == SUSTAINED_LOADS[-1] else 1.0
            return self._bench.watch.sustained(calls, _SUSTAINED, duty)
        if kernel.hosted:
            from costmodel.profiling.watches import HostWatch

            return measure(kernel.make, HostWatch(), _rule(shape, self._bench))
        return measure(
            kernel.make, _Watched(self._bench.watch, self._bench.now, self._costs), _rule(shape, self._bench)
        )

    def _graph_cell(self, kernel: Kernel, timing: Timing) -> str:
        """Return what a short kernel takes inside a graph, where neither launches nor events stand between two."""
        if timing.seconds >= _SHORT or not kernel.captured or kernel.hosted or kernel.count > 1:
            return ""
        begin = self._bench.now()
        seconds = self._bench.watch.in_a_graph([kernel.make() for _ in range(timing.repeats)])
        self._costs.timed += self._bench.now() - begin
        return "" if seconds is None else f"{seconds * 1e6:.6g}"

    def _common_columns(self, shape: Shape) -> dict[str, str]:
        timing = self._bench.timing if shape.op != "launch" else "eager_loop_host"
        if shape.load:
            timing = f"sustained_{_SUSTAINED:.0f}s"
        engine = f"{VLLM} {shape.version}" if shape.library == VLLM else self._bench.framework
        return {"device": self._result.device, "framework": engine, "timing": timing}

    def _write_device(self, table: RowTable) -> None:
        """Write the device's file where the search path has none, from all rows so far."""
        facts = self._bench.facts
        if self._ranks.first and not self._named:
            self._result.device_file = write_device(
                self._request.output.with_suffix(""), self._result.device, facts,
                rates_of(table.measured.values(), facts.cache), self._request.output.name,
            )  # fmt: skip

    def _write_aside(self, table: RowTable, failures: FailureLog) -> None:
        """Write what ran the measurements next to the table, as JSON."""
        if not self._ranks.first:
            return
        document: dict[str, Any] = {
            "schema": SCHEMA, "device": self._result.device, **self._bench.describe(), "rows": table.rows,
            "failed": failures.failed, "uncaptured": failures.uncaptured,
        }  # fmt: skip
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        write_whole(self._request.output.with_suffix(".json"), [text.encode("utf-8")])


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def probes(kind: str, formats: Sequence[str], facts: Facts) -> list[Shape]:
    """Return what shows a device's peaks and bandwidth: the rooflines that bound the kernels that are worth timing.

    kind: cpu or cuda.
    formats: those it multiplies. One copy is larger than the last cache where an eighth of the memory has room for it:
    without it no bandwidth of the memory is known, and no device file is written.
    """
    sizes = _PROBES if kind == "cpu" else _LARGE_PROBES
    products = [
        Shape("gemm", "gemm", dtype, (("m", m), ("n", n), ("k", k)), backend=_FAST.get(dtype, ""))
        for dtype in formats
        if not dtype.endswith("blk128")
        for m, n, k in sizes
    ]
    own = [shape for shape in copies() if shape.sub_op == "copy"]
    again = own if kind == "cpu" else [shape for shape in copies() if shape.sub_op == "copy_again"]
    fitting = [shape for shape in own if shape.traffic <= facts.memory * _MEMORY[kind]]
    inner = [shape for shape in again if 0 < shape.size("n") * BYTES["fp32"] <= facts.cache // 4]
    missed = [shape for shape in own if shape.size("n") * BYTES["fp32"] >= facts.cache]
    beyond = [s for s in missed[:1] if s not in fitting and s.traffic <= facts.memory * _BEYOND]
    aside = [shape for shape in (*copies(gpu=False), *launches()) if shape.secondary]
    context = [shape for shape in aside if kind == "cuda" or shape.sub_op == "eager"]
    return [*fitting[-_COPIES:], *beyond, *inner[-1:], *products, *context]


def _rule(shape: Shape, bench: Bench) -> Rule:
    """Return how often a kernel is run: operands of all repeats fit into the memory."""
    rule = Rule()
    room = bench.facts.memory * _MEMORY[bench.kind] * rule.fewest
    return replace(rule, most=int(min(max(room / max(shape.traffic, 1.0), rule.fewest), rule.most)))
