"""What is asked of a plan: a load or a number of tokens, limits, clusters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from costmodel.errors import InputError, Problem, suggest
from costmodel.hardware import Device
from costmodel.planning.money import Prices, read_prices
from costmodel.records import ValueRecord
from costmodel.units import parse, render

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
UNITS = {"cost_rate": "$/h", "cost_per_million": "$", "energy_per_million": "J"}
"""Keys of a plan's entry -> their units. Those of `metrics` are SI, but for its `cost_rate`, in $/h as the entry's."""
CLASSES = "scenarios.serving.requests.classes"
USUAL = "p99"  # the statistic of a limit that names none
_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kMBGT]?)")
_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_DAY = 86_400.0  # seconds
_OF_TRAINING = ("tokens", "days", "devices")  # options of one kind of plan alone
_OF_SERVERS = (
    "rate", "requests_per_day", "users", "isl", "osl", "trace", "ttft", "tpot", "anchors",
)  # fmt: skip
_LARGEST = 1e18  # tokens or requests that a plan may be asked for


class Limit(ValueRecord):
    """A limit on a time of requests. seconds: what it may take [s]; statistic: of which requests."""

    seconds: float
    statistic: str = USUAL

    def __str__(self) -> str:
        return f"{render(self.seconds, 'time')}@{self.statistic}"


class PlanRequest(ValueRecord):
    """What a plan has to do, and where.

    model: name, file or folder, null where all of the catalogue are asked for.
    clusters: `nodes/NAME` or `clusters/NAME`, each planned for itself.
    rate: requests that come [1/s]; users: requests in flight, a closed loop. One of them, or those of the trace.
    isl, osl: tokens of a prompt and of an answer, as the trace has them where not stated.
    trace: file of requests, in any format that `requests.trace` reads.
    ttft, tpot: limits on the first token and on the time of each further one.
    budget: ceiling of the cost rate [$/s]; confidence: probability that the limits hold for which it is sized.
    anchors: files of measured values of one's own runs.
    train: a training run instead of servers, of `tokens` in `days` at most.
    prices: one's own prices, which replace those of the files.
    emit: engine or format of the launch script; source: launch script that is read.
    devices: numbers of them that a training run may take; changes: path of its workload -> value, as `--set` has them.
    Of servers `requests.classes` is among these: kinds of requests, of which a plan keeps each one's own `slo` too.
    """

    model: str | None = None
    clusters: tuple[str, ...] = ()
    rate: float | None = None
    users: int | None = None
    isl: float | None = None
    osl: float | None = None
    trace: str | None = None
    ttft: Limit | None = None
    tpot: Limit | None = None
    budget: float | None = None
    confidence: float | None = None
    anchors: tuple[str, ...] = ()
    train: bool = False
    tokens: float | None = None
    days: float | None = None
    emit: str | None = None
    prices: Prices | None = None
    source: str | None = None
    search_path: tuple[str, ...] = ()
    devices: tuple[int, ...] = ()
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def settings(self) -> dict[str, str]:
        """Return the changes of its workload."""
        return dict(self.changes)

    @property
    def of_hardware(self) -> dict[str, str]:
        """Return those of them that are of the hardware, of each cluster."""
        return {path: text for path, text in self.changes if path.startswith("hardware.")}

    @property
    def classes(self) -> str | None:
        """Return the kinds of requests as a scenario has them, null where all are the same."""
        return self.settings.get(CLASSES)

    def rental(self, device: Device) -> float | None:
        """Return the rent of a device [$/s], null where it has no price."""
        return (self.prices or Prices()).rental(device)

    def document(self) -> dict[str, object]:
        """Return the request as it stands in a plan, SI numbers, without what was not asked for."""
        values: dict[str, object] = {
            "model": self.model, "clusters": list(self.clusters), "rate": self.rate, "users": self.users,
            "isl": self.isl, "osl": self.osl, "trace": self.trace, "ttft": _text(self.ttft), "tpot": _text(self.tpot),
            "budget": self.budget, "confidence": self.confidence, "anchors": list(self.anchors) or None,
            "train": self.train or None, "tokens": self.tokens, "days": self.days,
            "set": self.settings or None,
        }  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}


def _text(limit: Limit | None) -> str | None:
    return None if limit is None else str(limit)


def read_request(given: Mapping[str, Any]) -> PlanRequest:
    """Return the request of options as people write them: `rate: "20/s"`, `ttft: "1s@p99"`, files by their names.

    Raises InputError on one that says nothing, or two that contradict.
    """
    unknown = [name for name in given if name not in OPTIONS]
    problems = [Problem(None, f"--{name}", "a plan has no such option", suggest(name, OPTIONS)) for name in unknown]
    loads = [f"--{each.replace('_', '-')}" for each in ("rate", "requests_per_day", "users") if each in given]
    if len(loads) > 1:
        problems.append(Problem(None, loads[1], f"{' and '.join(loads)} contradict each other", "keep one of them"))
    train = bool(given.get("train"))
    for name in _OF_SERVERS if train else _OF_TRAINING:
        if given.get(name):
            what, other = ("a training run", "it") if train else ("servers", "it, or add --train")
            other += ", or name a --cluster of as many: a node file with `count`" if name == "devices" else ""
            field = f"--{name.replace('_', '-').replace('anchors', 'anchor')}"
            problems.append(Problem(None, field, f"a plan of {what} has no such option", f"remove {other}"))
    values: dict[str, Any] = {}
    for name, read in _READ.items():
        try:
            values |= {name: read(str(given[name]), f"--{name.replace('_', '-')}")} if name in given else {}
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    if "prices" in given:
        values["prices"] = read_prices(str(given["prices"]), tuple(map(str, given.get("search_path", ()))))
    if "requests_per_day" in values:
        values["rate"] = values.pop("requests_per_day") / _DAY
    if "users" in values:
        values["users"] = int(values["users"])
    return PlanRequest(
        model=given.get("model"), clusters=tuple(given.get("clusters", ())), trace=given.get("trace"),
        anchors=tuple(given.get("anchors", ())), train=train, emit=given.get("emit"),
        source=given.get("source"), search_path=tuple(map(str, given.get("search_path", ()))), **values,
    )  # fmt: skip


def read_limit(text: str, field: str) -> Limit:
    """Return a limit such as `1s@p99`, `50 ms@mean` or `200ms`, which is of the slowest 1 %. Raises InputError."""
    value, at, statistic = text.partition("@")
    statistic = statistic.strip().lower() if at else USUAL
    if statistic not in STATISTICS:
        raise InputError.single(
            f"{text!r} limits no known statistic", hint=f"write one of {', '.join(STATISTICS)} after the @", field=field
        )
    seconds = read_quantity(value, "time", field)
    return Limit(seconds, statistic)


def read_quantity(text: str, dimension: str, field: str) -> float:
    """Return a positive quantity with its unit in SI. Raises InputError."""
    try:
        value = parse(text, dimension)
    except InputError as error:
        problem = error.problems[0]
        raise InputError.single(problem.message, hint=problem.hint, field=field) from None
    if value <= 0.0:
        raise InputError.single(f"{text!r} is not above zero", field=field)
    return value


def read_count(text: str, field: str) -> float:
    """Return a number such as `20`, `10M` or `15T`. Raises InputError."""
    match = _COUNT.fullmatch(text.strip().replace(",", "").replace("_", ""))
    value = float(match[1]) * _COUNTS[match[2]] if match is not None else 0.0
    if not 0.0 < value <= _LARGEST:
        raise InputError.single(
            f"{text!r} is no number above zero", hint="write a number such as 2000, 10M or 15T", field=field
        )
    return value


def read_share(text: str, field: str) -> float:
    """Return a probability such as `90 %` or `0.9`. Raises InputError."""
    value = read_quantity(text, "ratio", field) if "%" in text else read_count(text, field)
    if not 0.0 < value < 1.0:
        raise InputError.single(f"{text!r} is no probability", hint="write one such as 90%", field=field)
    return value


_READ: Mapping[str, Callable[[str, str], Any]] = {
    **dict.fromkeys(("users", "isl", "osl", "tokens", "days", "requests_per_day"), read_count),
    **dict.fromkeys(("ttft", "tpot"), read_limit),
    "rate": lambda text, field: read_quantity(f"{text}/s" if _COUNT.fullmatch(text) else text, "rate", field),
    "budget": lambda text, field: read_quantity(text, "money_rate", field),
    "confidence": read_share,
}
"""Option -> how its text is read."""
OPTIONS = (
    *_READ, "model", "clusters", "devices", "trace", "anchors", "train", "emit", "source", "prices", "search_path",
)  # fmt: skip
"""Options of a plan, as `costmodel plan` has them with underscores."""
