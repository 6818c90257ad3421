"""A scenario of one result next to the same of another, or next to what a serving benchmark measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from costmodel.analytic.capital import COST
from costmodel.errors import InfeasibleError, InputError, Location, suggest
from costmodel.measurements.importing.compressed import parse_json, read_bytes
from costmodel.measurements.importing.serving import is_benchmark, is_snapshot, read_benchmark
from costmodel.records import ValueRecord, asdict, field
from costmodel.result import stored_line
from costmodel.schema.results import ResultFile, ScenarioResult, read_result
from costmodel.study.prices import KINDS, Quoted, quotes, unlike

SCHEMA = "costmodel/comparison@1"
SAME = 0.005  # of a ratio that rounds to one


class Pair(ValueRecord):
    """One figure of both, null where a side lacks it, as operators may be lacking.

    ratio: the first over the second, null where that is zero or either is lacking.
    inside: the first's 80 % interval holds the second, null where it states none.
    """

    scenario: str
    name: str
    first: float | None
    second: float | None
    ratio: float | None
    inside: bool | None


class Compared(ValueRecord):
    """What both state. operators: lines of the breakdown of either, exposed times [s], none for a benchmark.

    refused: scenario -> the file in which it cannot run and why, for those that have nothing to compare.
    prices: that the costs of both rest on.
    benchmark: the file of a benchmark, if the second is one.
    """

    metrics: tuple[Pair, ...]
    operators: tuple[Pair, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    prices: tuple[Quoted, ...] = ()
    benchmark: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the comparison as JSON holds it."""
        return {
            "schema": SCHEMA,
            "metrics": [asdict(one) for one in self.metrics],
            "operators": [asdict(one) for one in self.operators],
            **({"refused": dict(self.refused)} if self.refused else {}),
            **({"prices": [asdict(one) for one in self.prices]} if self.prices else {}),
            **({"notes": self.notes} if self.notes else {}),
        }

    @property
    def notes(self) -> list[str]:
        """Return what a reader has to know of the costs, and what a benchmark says of the engine."""
        costs = [line for of in KINDS for line in unlike(one for one in self.prices if one.of == of)]
        return [*costs, *self._offer()]

    def _offer(self) -> Iterator[str]:
        """Yield how much slower an engine is than predicted, and that a benchmark anchors predictions of it."""
        ratios = {pair.name: pair.ratio for pair in self.metrics}
        ratio = ratios.get("tpot")
        if self.benchmark is None or not ratio:
            return
        change = 1.0 / ratio - 1.0
        speed = "as fast as" if abs(change) < SAME else f"{abs(change):.0%} {'slower' if change > 0 else 'faster'} than"
        yield (
            f"by its time per token this engine is {speed} predicted: `--anchor {self.benchmark}` with `simulate`, "
            "`search` or `sweep` moves and narrows predictions of it"
        )


def compare(result: Path, other: Path, scenario: str | None = None) -> Compared:
    """Return the figures that a result and another file both state.

    other: a result, or the file of a serving benchmark. scenario: the only one to compare. A
    benchmark needs it where the result has several. Raises InputError where a file is wrong or nothing is in common,
    InfeasibleError where all that is cannot run.
    """
    ours = read_result(result)
    chosen = _chosen(ours, scenario, result)
    if _is_benchmark_file(other):
        if len(chosen) > 1:
            hint = f"write --scenario with one of {', '.join(chosen)}"
            raise InputError.single("a benchmark is compared with one scenario", hint=hint, field="--scenario")
        measured = read_benchmark(other, str(other)).metrics
        ((name, first),) = chosen.items()
        refused = _refused(name, {result: first})
        comparison = Compared(tuple(_metrics(name, first, measured)), (), refused, benchmark=str(other))
    else:
        theirs = read_result(other)
        both = {name: (first, theirs.scenarios[name]) for name, first in chosen.items() if name in theirs.scenarios}
        refused = {}
        for name, (first, second) in both.items():
            refused |= _refused(name, {result: first, other: second})
        runs = [(name, first, second) for name, (first, second) in both.items() if name not in refused]
        metrics = [pair for name, first, second in runs for pair in _metrics(name, first, second.metrics)]
        lines = [pair for name, first, second in runs for pair in _operators(name, first, second)]
        comparison = Compared(tuple(metrics), tuple(lines), refused, tuple(_prices(metrics, runs)))
    if not comparison.metrics and comparison.refused:
        reasons = "; ".join(f"{name} of {why}" for name, why in comparison.refused.items())
        raise InfeasibleError(f"nothing to compare: {reasons}")
    if not comparison.metrics:
        raise InputError.single(
            f"{other} has no metric in common with {result}", hint="compare scenarios of one name and phase",
            location=Location(str(other)),
        )  # fmt: skip
    return comparison


def _refused(name: str, sides: Mapping[Path, ScenarioResult]) -> dict[str, str]:
    """Return a scenario with the file in which it cannot run and why. Nothing where it runs in all. sides: by file."""
    reasons = dict.fromkeys(
        f"{path} cannot run: {one.reason or 'does not fit in memory'}"
        for path, one in sides.items()
        if one.reason is not None or not one.memory.fits
    )
    return {name: "; ".join(reasons)} if reasons else {}


def _prices(metrics: Iterable[Pair], runs: Iterable[tuple[str, ScenarioResult, ScenarioResult]]) -> Iterator[Quoted]:
    """Yield the prices of both sides that compared costs rest on."""
    named = {pair.name for pair in metrics}
    hardware = [
        side.hardware.model_dump() for _, *sides in runs for side in sides if side.hardware is not None
    ]  # fmt: skip
    for of, costs in (("rental", COST), ("purchase", ("capital_cost",))):
        if named & set(costs):
            yield from quotes(hardware, of)


def _chosen(result: ResultFile, scenario: str | None, path: Path) -> Mapping[str, ScenarioResult]:
    if scenario is None:
        return result.scenarios
    if scenario not in result.scenarios:
        hint = suggest(scenario, list(result.scenarios))
        raise InputError.single(f"no scenario `{scenario}`", hint=hint, location=Location(str(path)))
    return {scenario: result.scenarios[scenario]}


def _is_benchmark_file(path: Path) -> bool:
    """Tell whether a file is a benchmark's: the figures of one run, or lines of them."""
    text = read_bytes(path, str(path)).decode("utf-8", errors="replace")
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first.lstrip().startswith("{") and is_snapshot(text):
        return True
    return any(is_benchmark(_document(part, path)) for part in (first, text))


def _document(text: str, path: Path) -> Any:
    """Return a JSON document, none where the text is no whole one."""
    try:
        return parse_json(text, str(path))
    except InputError:
        return None


def _metrics(name: str, first: ScenarioResult, second: Mapping[str, float | None]) -> list[Pair]:
    pairs = []
    for metric, value in first.metrics.items():
        other = second.get(metric)
        if value is None or other is None:
            continue
        interval = first.intervals.get(metric)
        inside = None if interval is None else interval[0] <= other <= interval[1]
        pairs.append(Pair(name, metric, value, other, _ratio(value, other), inside))
    return pairs


def _operators(name: str, first: ScenarioResult, second: ScenarioResult) -> list[Pair]:
    """Return the operators of both, those of the first in its order, then what only the second has."""
    ours, theirs = ({stored_line(line.name): line.time for line in one.breakdown} for one in (first, second))
    return [
        Pair(name, line, ours.get(line), theirs.get(line), _ratio(ours.get(line), theirs.get(line)), None)
        for line in dict.fromkeys([*ours, *theirs])
    ]


def _ratio(first: float | None, second: float | None) -> float | None:
    return None if first is None or not second else first / second
