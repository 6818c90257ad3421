"""What a browser is sent: the page with its controls, and answers as markup and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from costmodel.app.figures import figures, front
from costmodel.app.jobs import Planned
from costmodel.app.plans import FIELDS
from costmodel.app.prediction import LEVERS, Predicted
from costmodel.app.state import GROUPS, PREFIXES, Control, State, address
from costmodel.report.page import Table, table
from costmodel.report.simulate import interval_of, metrics_table
from costmodel.report.text import NONE, gib, metric, quantity, readable, share, title_of
from costmodel.report.web.markup import html_table
from costmodel.result import shown_line
from costmodel.schema.anchor import MEASURED
from costmodel.schema.references import Library
from costmodel.schema.what_if import load_levers
from costmodel.study.levers import switches
from costmodel.study.what_if import Worth
from costmodel.version import __version__

LETTERS = ("A", "B", "C")
PHASES = ("decode", "prefill", "generate", "serving", "training", "diffusion")  # of a model
COSTS = ("cost_per_million_tokens", "cost_per_trillion_tokens", "cost_per_image", "cost_per_step")
OPERATORS, HIDDEN = 40, 1e-3  # lines of a table, and the share of a line that is left out


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("costmodel.app"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        title_of=title_of, groups=GROUPS, measured=MEASURED, letters=LETTERS, plan_fields=FIELDS,
        version=__version__,
    )  # fmt: skip
    return environment


class Catalogue:
    """The names that a page offers."""

    def __init__(self, search_path: Sequence[str] = ()) -> None:
        library = Library(search_path)
        self.names = {kind: library.names(kind) for kind in ("models", "workloads", "precisions", "frameworks")}
        self.clusters = [f"{kind}/{name}" for kind in ("nodes", "clusters") for name in library.names(kind)]
        self.levers = switches(load_levers(LEVERS, tuple(search_path)))

    def choices(self, control: Control) -> Sequence[str]:
        """Return what a control offers, nothing of a number."""
        return self.names[control.choices] if isinstance(control.choices, str) else control.choices


def page(states: Sequence[State], catalogue: Catalogue) -> str:
    """Return the page with the controls of its scenarios. A script asks for their answers."""
    offered = [(PREFIXES[number], LETTERS[number], state, dict(state.values)) for number, state in enumerate(states)]
    return _environment().get_template("page.html").render(
        scenarios=offered, catalogue=catalogue, phases=PHASES, most=len(PREFIXES), query=address(states),
    )  # fmt: skip


def plan_page(texts: Mapping[str, Any], catalogue: Catalogue) -> str:
    """Return the form of plans with what it asks for."""
    return _environment().get_template("plan.html").render(asked=texts, catalogue=catalogue)


def answer(scenarios: Sequence[Predicted]) -> dict[str, Any]:
    """Return the answer to a page: markup, figures, the address of the state, and what changes at its controls."""
    named = list(zip(LETTERS, scenarios, strict=False))
    states = [one.state for one in scenarios]
    return {
        "html": _environment().get_template("answer.html").render(
            scenarios=[_shown(name, one) for name, one in named], rows=_compared(named), query=address(states),
            several=len(named) > 1,
        ),
        "figures": figures(named), "query": address(states),
        "controls": {PREFIXES[number]: _controls(one) for number, one in enumerate(scenarios)},
    }  # fmt: skip


def _controls(one: Predicted) -> dict[str, Any]:
    """Return what changes at the controls of a scenario: values that hold unless stated, choices, problems."""
    return {
        "phase": one.phase or one.runs.get(one.state.run, one.state.run), "usual": one.usual, "runs": one.runs,
        "wrong": {each.control: each.message for each in reversed(one.wrong) if each.control},
    }  # fmt: skip


def _shown(name: str, one: Predicted) -> dict[str, Any]:
    document = one.document
    if not document:
        return {"name": name, "one": one, "document": None}
    key, metrics = one.headline, document["metrics"]
    cost = next((each for each in COSTS if metrics.get(each) is not None), None)
    largest_first = sorted(document["basis"].items(), key=lambda item: -item[1])
    return {
        "name": name, "one": one, "document": document, "headline": title_of(key), "value": metric(key, metrics[key]),
        "interval": interval_of(document["intervals"], key), "reason": document.get("reason"),
        "cost": None if cost is None else f"{metric(cost, metrics[cost])} {readable(cost.removeprefix('cost_'))}",
        "used": gib(sum(size for part, size in document["memory"].items() if part not in ("capacity", "fits"))),
        "capacity": gib(document["memory"]["capacity"]),
        "metrics": _markup("All metrics", metrics_table(metrics, document["intervals"], title_of)),
        "operators": _markup("Operators, time per device", _operators(document["breakdown"])),
        "basis": ", ".join(f"{key} {share(value)}" for key, value in largest_first if value > HIDDEN),
    }  # fmt: skip


def _markup(caption: str, content: Table) -> Markup:
    return Markup(html_table(caption, content))


def _operators(breakdown: Sequence[Mapping[str, Any]]) -> Table:
    rows = table("operator", ">time", ">share", "bound", "basis", "format", ">rate")
    for line in breakdown[:OPERATORS]:
        rows.add(
            shown_line(line["name"]), quantity(line["time"], "time"), share(line["share"]), line["bound"],
            line["basis"], line["dtype"] or "", quantity(line["flop_rate"], "flop_rate") if line["flop_rate"] else "",
        )  # fmt: skip
    return rows


def _compared(named: Sequence[tuple[str, Predicted]]) -> Markup:
    shown = [(name, one) for name, one in named if one.document]
    if len(shown) < 2:
        return Markup()
    first = shown[0][1].document["metrics"]
    rows = table("metric", *(f">{name}" for name, _ in shown), *(f">{name} / {shown[0][0]}" for name, _ in shown[1:]))
    for key in first:
        values = [one.document["metrics"].get(key) for _, one in shown]
        if any(value is not None for value in values):
            ratios = [f"{value / first[key]:.3g}" if value is not None and first[key] else NONE for value in values[1:]]
            rows.add(title_of(key), *(metric(key, value) for value in values), *ratios)
    return _markup("Scenarios in columns", rows)


def run_markup(value: object) -> str:
    """Return the result of a job: a scenario by its events, a plan, what runs, or what levers are worth."""
    if isinstance(value, Planned):
        return _environment().get_template("planned.html").render(planned=value)
    if isinstance(value, Predicted):
        return _environment().get_template("events.html").render(shown=_shown("", value), tails=_tails(value))
    assert isinstance(value, list), "worths"
    rows = table("lever", ">saves", ">80 % interval", "measured against", "or why not")
    for worth in value:
        rows.add(worth.term, _percent(worth.saved), _saved(worth), worth.base, worth.refused or worth.limit or "")
    return html_table("What each lever saves of the time, alone", rows)


def run_figures(value: object) -> dict[str, Any]:
    """Return the figures of a job's result."""
    return {"front": front(value.plans)} if isinstance(value, Planned) and value.plans else {}


def escaped(text: str) -> str:
    """Return text as markup."""
    return str(escape(text))


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:+.1f} %"


def _saved(worth: Worth) -> str:
    return NONE if worth.ratio is None else f"{_percent(1 - worth.ratio[1])} .. {_percent(1 - worth.ratio[0])}"


def _tails(one: Predicted) -> Markup:
    percentiles = {name: each for name, each in (one.document.get("percentiles") or {}).items() if each}
    keys = list(dict.fromkeys(key for each in percentiles.values() for key in each))
    rows = table("of requests", *(f">{key}" for key in keys))
    for name, each in percentiles.items():
        rows.add(title_of(name), *(quantity(each[key], "time") if key in each else NONE for key in keys))
    return _markup("Percentiles", rows)


def script() -> str:
    """Return the script that draws figures, as on pages of reports, and that of the controls."""
    shared = files("costmodel.report.web").joinpath("figures.js").read_text("utf-8")
    return shared + files("costmodel.app").joinpath("static/app.js").read_text("utf-8")


def stylesheet() -> str:
    """Return the style of reports, and what the page's controls add to it."""
    report = files("costmodel.report.web").joinpath("page.css").read_text("utf-8")
    return report + files("costmodel.app").joinpath("static/app.css").read_text("utf-8")
