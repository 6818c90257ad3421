"""The answer on one line, and the notes that can move it, those that move it most first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from costmodel.analytic.evaluation import evaluate
from costmodel.records import replace
from costmodel.report.page import is_verbose, show
from costmodel.report.text import gib, interval, metric, percent, readable, share, shown_basis
from costmodel.result import Point
from costmodel.schema.resolved import PROVENANCE
from costmodel.workload.plans import Decode, Generate, Prefill
from costmodel.workload.popularity import DRAWN

if TYPE_CHECKING:
    from costmodel.api import Workload
    from costmodel.result import Point

FEW_DIGITS = 3  # of the ends of an interval
LEAST = 0.01  # of a result that a note has to move
MOST_NOTES = 3
_PER = {
    "step_time": " a step", "ttft": " to the first token", "tpot": " a token", "latency": " a request",
}  # fmt: skip
_FACTS = (  # metrics that people ask for next, as far as a scenario has them
    ("ttft", "TTFT {}"),
    ("tpot", "TPOT {}"),
    ("mfu", "MFU {}"),
    ("tokens_per_second_per_device", "{} tokens/s/device"),
    ("cost_per_million_tokens", "{} per million tokens"),
    ("cost_per_trillion_tokens", "{} per trillion tokens"),
    ("images_per_second", "{} images/s"),
    ("cost_per_image", "{} per image"),
)


def answer_line(name: str, point: Point) -> str:
    """Return a scenario's prediction with its 80 % interval, what bounds it, its memory and its cost an hour."""
    if not point.fits:
        return f"{name}: cannot run: {point.reason}"
    headline = point.headline
    value = point.metrics[headline]
    what = "" if "images_per_second" in point.metrics else _PER.get(headline, f" {readable(headline)}")
    number = f"no end of {readable(headline)}" if value is None else f"{metric(headline, value)}{what}"
    ends = point.intervals.get(headline)
    span = "" if ends is None else f" ({interval(headline, *ends, digits=FEW_DIGITS)})"
    memory = "" if point.memory is None else f"{gib(point.on_device, 0)}/{gib(point.capacity, 0)} GiB"
    rate = point.metrics.get("cost_rate")
    state = "" if point.verdict in (None, "stable") else point.verdict
    cost = "" if rate is None else metric("cost_rate", rate)
    parts = (f"{number}{span}", state, f"{point.bound}-bound", memory, cost)
    return f"{name}: {', '.join(filter(None, parts))}"


def facts_line(point: Point) -> str:
    """Return where a scenario runs, and what else people ask of it."""
    parts = [f"{devices(point)} of {point.cluster}"]
    for key, words in _FACTS:
        value = point.metrics.get(key)
        if value is not None and key != point.headline:
            parts.append(words.format(metric(key, value)))
    return ", ".join(parts)


def devices(point: Point) -> str:
    """Return how many devices a scenario runs on."""
    return "1 device" if point.devices == 1 else f"{point.devices:,} devices"


def basis_line(point: Point) -> str:
    """Return what a scenario's time rests on, in per cent of it, the largest first."""
    shares = sorted(((value, name) for name, value in point.basis().items() if value >= LEAST), reverse=True)
    return ", ".join(f"{percent(value, 0)} {shown_basis(name)}" for value, name in shares)


def show_notes(points: Mapping[str, Point]) -> None:
    """Print each note once: all on request, else those that can move a result by a hundredth, these first."""
    weights: dict[str, float] = {}
    for point in points.values():
        for note in point.notes:
            weights[note] = max(weights.get(note, 0.0), _weight(note, point))
    shown = list(weights)
    if not is_verbose():
        heavy = [note for note in telling(shown) if weights[note] >= LEAST]
        shown = sorted(heavy, key=lambda note: -weights[note])[:MOST_NOTES]  # equal ones stay in their order
    for note in shown:
        show(f"note: {note}")
    if fewer := len(weights) - len(shown):
        show(f"{fewer} note{'s' * (fewer > 1)} on sources and on what moves little left out", "dim")


def telling(notes: Iterable[str]) -> list[str]:
    """Return notes, in the short form without those that say where a value is from and move nothing."""
    return [note for note in notes if is_verbose() or not any(each in note for each in PROVENANCE)]


def _weight(note: str, point: Point) -> float:
    """Return the share of the time that a note on kernels, `FAMILY/VARIANT, …: TEXT`, is of; of another note, 1."""
    kernels = set(kernels_of(note))
    named = [entry for entry in point.breakdown if kernels & entry.kernels]
    known = any(kernels & {each.partition("/")[0] for each in entry.kernels} for entry in point.breakdown)
    if not named and not known:
        return 1.0
    return sum(entry.time for entry in named) / (point.whole or 1.0)


def kernels_of(note: str) -> Iterator[str]:
    """Yield the kernels that a note begins with."""
    family, _, variants = note.partition(": ")[0].partition("/")
    for variant in variants.split(", "):
        yield f"{family}/{variant}" if variant else family


# ---- The load of expert layers as one line, and what an even one hides -----------------------------------------------

_EVEN = 1.0005  # a load that reads as 1 with three digits


def is_even(facts: Mapping[str, float]) -> bool:
    """Tell whether all ranks have the same load, run all of their experts and drop nothing."""
    return facts["expert_load"] < _EVEN and _all_hit(facts) and facts["dropped_share"] == 0


def routing_line(facts: Mapping[str, float]) -> str:
    """Return the load of the busiest rank, how many of its experts receive tokens, and the share that is dropped."""
    text = (
        f"expert load: {_busiest(facts)}; "
        f"{facts['experts_hit']:.3g} of its {facts['experts_held']:.3g} experts receive tokens"
    )
    dropped = facts["dropped_share"]
    return f"{text}; {share(dropped)} of token copies are dropped" if dropped else text


def drawn_line(workload: Workload, name: str, point: Point, least: float = 0.0) -> str | None:
    """Return how much longer a pass takes whose experts are drawn at random, where even ranks are assumed.

    Nothing where ranks do not share experts, where the scenario states their load, or where it is less than a share
    `least` longer.
    """
    scenario = workload.scenario(name)
    is_pass = isinstance(scenario.plan, Prefill | Decode | Generate) and scenario.parallel.ep > 1
    assumed = scenario.routing.load == "balanced" and scenario.communication.expert_load is None
    if not (is_pass and assumed and point.fits) or point.routing is None or not is_even(point.routing):
        return None
    drawn = replace(scenario, routing=replace(scenario.routing, load=DRAWN))
    even, uneven = (
        each[point.headline] for each in (point.metrics, evaluate(drawn, workload.calibration(scenario)).metrics(None))
    )
    if even is None or uneven is None or abs(float(uneven) - float(even)) < least * float(even):
        return None
    return (
        f"even ranks are assumed; experts drawn at random for each token give {readable(point.headline)} "
        f"{metric(point.headline, float(uneven))} ({float(uneven) / even - 1.0:+.1%}): "
        f"--set scenarios.{name}.routing.load={DRAWN}"
    )


def load_phrase(facts: Mapping[str, float]) -> str:
    """Return in a few words what is not even: the busiest rank's load, experts without tokens, what is dropped."""
    parts = [_busiest(facts)] if facts["expert_load"] >= _EVEN else []
    if not _all_hit(facts):
        parts.append(f"{facts['experts_hit']:.3g} of {facts['experts_held']:.3g} experts receive tokens")
    if facts["dropped_share"]:
        parts.append(f"{share(facts['dropped_share'])} of token copies are dropped")
    return ", ".join(parts)


def _busiest(facts: Mapping[str, float]) -> str:
    if facts["expert_load"] < _EVEN:
        return "all ranks get the same number of tokens"
    return f"the busiest rank gets {facts['expert_load']:.3g} times the average tokens"


def _all_hit(facts: Mapping[str, float]) -> bool:
    return facts["experts_hit"] >= facts["experts_held"] * (2 - _EVEN)
