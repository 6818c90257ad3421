"""The answer on one line, and the notes that can move it, those that move it most first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from costmodel.report.page import is_verbose, show
from costmodel.report.text import gib, interval, metric, percent, readable, shown_basis
from costmodel.result import Point
from costmodel.schema.resolved import PROVENANCE

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
