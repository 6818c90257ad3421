"""The terminal view of what changes are worth, and of a publication's proposals with how each is stated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from costmodel.report.page import Number, is_verbose, show, show_hint, table
from costmodel.report.text import NONE, metric, readable, shortened
from costmodel.schema.what_if import Levers
from costmodel.study.what_if import Worth

_APART = (
    "what it has or counts on already, measured against itself without that",
    "what changes save of other scenarios, which differ from it on both sides",
)
_CEILING = "if it took no time"  # what a change could save at most
_DIFFERENCE, _WORTH = "?>saved, 80 % interval", "?>may cost a device"
MOST, FEW = 10, 5  # changes that are shown, and names on a line
LONGEST = 24  # characters of a change in the short form


def show_worths(scenarios: Mapping[str, Sequence[Worth]]) -> None:
    """Print what each change saves of each scenario, the largest first: the best ones, or all on request.

    What is measured against another start than the scenario comes last. What changes nothing, and what cannot be had
    and why, gets a line each on request, or where few changes were asked for.
    """
    for scenario, rows in scenarios.items():
        own, *others = (
            sorted((row for row in rows if _shown(row) and row.base == base), key=lambda row: -(row.saved or 0.0))
            for base in ("scenario", "without", "another")
        )
        show(_answer(scenario, own), "bold")
        if is_verbose() or len(rows) <= FEW:
            _show_all(scenario, rows, own, others)
        else:
            _show_best(rows, own, others)
    if is_verbose() or sum(map(len, scenarios.values())) <= FEW:
        _show_reasons((row.name or row.term, row.refused) for rows in scenarios.values() for row in rows)
        _show_reasons((row.name or row.term, row.limit) for rows in scenarios.values() for row in rows if _shown(row))
    show_hint("alone: of the headline, the largest first")


def _answer(scenario: str, own: Sequence[Worth]) -> str:
    if not own:
        return f"{scenario}: no change of the list saves anything of it as it is"
    best, headline = own[0], own[0].metric
    span = "" if best.ratio is None else f" ({_interval(best)})"
    saves = "may save" if best.ratio is not None and best.ratio[1] > 1.0 else "saves"
    most = f"{saves} most of {len(own)}" if len(own) > MOST else f"{saves} most"
    before = f"{metric(headline, best.before)} {readable(headline)}"
    return f"{scenario}: {before}; {best.name or best.term} {most}, {_share(best.saved)}{span}"


def _show_best(rows: Sequence[Worth], own: Sequence[Worth], others: Iterable[Sequence[Worth]]) -> None:
    named = _has_names(own)
    view = table("lever", *(["?change"] if named else []), ">alone", ">80 % interval", ">at most")
    for row in own[:MOST]:
        words = tuple(shortened(word, LONGEST) for word in _named(row, named=named))
        view.add(*words, _share(row.saved, 1), _interval(row, 1), _share(row.ceiling, 0))
    if view.rows:
        show(view)
    for levers, heading in zip(others, _APART, strict=True):
        if levers:
            listed = ", ".join(f"{row.name or row.term} {_share(row.saved)}" for row in levers[:FEW])
            show(f"{heading}: {listed}{', …' if len(levers) > FEW else ''}", "dim")
    if any(fault := _fault(row) for row in rows if _shown(row)):
        show(fault, "red")


def _show_all(scenario: str, rows: Sequence[Worth], own: Sequence[Worth], others: Iterable[Sequence[Worth]]) -> None:
    _show_own(scenario, own)
    for levers, heading in zip(others, _APART, strict=True):
        if levers:
            _show_apart(f"{scenario}: {heading}", levers)
    if any(row.saved is not None and row.rent is None for row in own):
        show("what a change may cost is not known: no source states a rent; set hardware.price.rental", "dim")
    if any(row.saved is not None and row.ceiling is None for row in own):
        show("no ceiling: shorter steps leave fewer requests at once on a server, which shortens them again", "dim")
        if any(row.ratio is None for row in own):
            show("no interval: within the error of its times the server may be overloaded", "dim")
    if idle := [row.name or row.term for row in rows if row.changes_nothing]:
        show(f"change nothing here, or less than 0.005 %: {', '.join(idle)}", "dim")


def _shown(row: Worth) -> bool:
    return row.saved is not None and not row.changes_nothing


def _show_own(scenario: str, rows: Sequence[Worth]) -> None:
    if not rows:
        return
    headline = rows[0].metric
    show(f"{scenario}: what each change saves of {metric(headline, rows[0].before)}", "bold")
    together = f">{headline} with it and all before it in the list of changes"
    named = _has_names(rows)
    view = table(
        "lever", *(["?change"] if named else []), ">alone", ">80 % interval", f">{_CEILING}", _DIFFERENCE, _WORTH,
        f"?{together}", "?",
    )  # fmt: skip
    for row in rows:
        view.add(
            *_named(row, named=named), _share(row.saved), _interval(row), _share(row.ceiling), _difference(row),
            _worth(row), metric(headline, row.together), _fault(row),
        )  # fmt: skip
    show(view)
    for row in rows:
        if (row.saved or 0.0) > (1.0 if row.ceiling is None else row.ceiling):
            show(f"{row.term}: more than its share, as kernels need whole waves of tiles fewer", "dim")


def _show_apart(heading: str, rows: Sequence[Worth]) -> None:
    """Print what changes save of a scenario that is not the one at hand."""
    headline = rows[0].metric
    show(heading, "bold")
    named = _has_names(rows)
    view = table(
        "lever", *(["?change"] if named else []), "??measured against", f"?>{headline} of that", "?>with the change",
        ">saved", ">80 % interval", f">{_CEILING}", _DIFFERENCE, _WORTH, "?",
    )  # fmt: skip
    for row in rows:
        sides = ", ".join(f"{path.removeprefix('scenario.')} {value}" for path, value in (row.against or {}).items())
        view.add(
            *_named(row, named=named), sides, metric(headline, row.before), metric(headline, row.after),
            _share(row.saved), _interval(row), _share(row.ceiling), _difference(row), _worth(row), _fault(row),
        )  # fmt: skip
    show(view)


def _has_names(rows: Sequence[Worth]) -> bool:
    return any(row.name not in (None, row.term) for row in rows)


def _named(row: Worth, *, named: bool) -> tuple[str, ...]:
    return (row.name or "", row.term) if named else (row.term,)


def _fault(row: Worth) -> str:
    return "" if row.keeps_to_its_ceiling else "beyond its ceiling: a fault of the model"


def _show_reasons(reasons: Iterable[tuple[str, str | None]]) -> None:
    """Print why levers cannot be had or what their numbers leave out, each reason once with all that it is said of."""
    levers: dict[str, list[str]] = {}
    for name, reason in reasons:
        if reason and name not in levers.setdefault(reason, []):
            levers[reason].append(name)
    for reason, names in levers.items():
        show(f"{', '.join(names)}: {reason}", "dim")


def _share(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else Number(f"{100 * value:.{digits}f} %", value)


def _interval(row: Worth, digits: int = 2) -> str:
    if row.ratio is None:
        return NONE
    return f"{100 * (1 - row.ratio[1]):.{digits}f} .. {100 * (1 - row.ratio[0]):.{digits}f} %"


def _difference(row: Worth) -> str:
    if row.difference is None:
        return NONE
    low, high = (metric(row.metric, end) for end in row.difference)
    return f"{low} .. {high}"


def _worth(row: Worth) -> str:
    return NONE if row.worth is None else Number(metric("cost_rate", row.worth), row.worth)


def show_levers(file: Levers) -> None:
    """Print every mechanism and recommendation: its switches, its path, or why it has none."""
    shown = table("section", "kind", "what", "switches", "?path", "?why")
    for lever in file.levers:
        names = ", ".join(switch.name for switch in lever.switches)
        shown.add(lever.section, lever.kind, lever.term, names or NONE, lever.path or "", lever.why or "")
    show(shown)
