"""A plan as a file: JSON, a table in CSV or Markdown, or one page with the front of its deployments."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.errors import InputError
from costmodel.planning.deployments import HOLDS
from costmodel.report.page import Number, Table, printing, show, table
from costmodel.report.text import NONE, count, quantity
from costmodel.report.web.document import Section, page
from costmodel.report.web.markup import html_table, items
from costmodel.report.web.scatter import Mark, front, scatter

SUFFIXES = {".json": "json", ".csv": "csv", ".md": "md", ".html": "html"}
_HOUR, _MILLION = 3600.0, 1e6
_COSTS = ("input", "cached", "output", "all")


def form_of(path: Path) -> str:
    """Return the form that a file's name asks for. Raises InputError on another suffix."""
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise InputError.single(
            f"{path.name} says no format", hint=f"end it with one of {', '.join(SUFFIXES)}", field="--output"
        )
    return form


def write_plan(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document of `plan --json` as the file's suffix says."""
    form = form_of(path)
    if form == "html":
        path.write_bytes(_page(document))
    elif form == "json":
        path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")
    else:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), printing(form):
            show(plan_table(document["plans"]))
        path.write_text(printed.getvalue(), "utf-8")


def plan_table(plans: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each deployment: what it is, its times, rent and costs of a million tokens."""
    rows = table(
        ">row", "cluster", ">devices", ">replicas", "engine", "precision", "layout",
        *(f">{name} {statistic}" for statistic in ("p99", "mean") for name in ("TTFT", "TPOT")), ">$/h",
        *(f">$/M {name}" for name in _COSTS), "holds", "binds",
    )  # fmt: skip
    for row, entry in enumerate(plans, 1):
        pools = [entry[role] for role in ("prefill", "decode") if entry.get(role)] or [entry]
        layouts = (
            " ".join(f"{name.upper()} {value}" for name, value in pool["parallel"].items() if value != 1)
            for pool in pools
        )
        numbers = (str(pool["instances"] if "instances" in pool else pool["replicas"]) for pool in pools)
        times = (_time(entry["metrics"].get(name)) for name in ("ttft_p99", "tpot_p99", "ttft", "tpot"))
        costs = entry.get("cost_per_million") or {}
        rows.add(
            str(row), " + ".join(dict.fromkeys(pool["cluster"] for pool in pools)), str(entry["devices"]),
            " + ".join(numbers), str(entry["framework"]), str(entry["precision"]),
            " + ".join(layout or "one device" for layout in layouts), *times, _dollars(entry["cost_rate"]),
            *(_dollars(costs.get(name)) for name in _COSTS), HOLDS[entry["holds"]], str(entry["binds"]),
        )  # fmt: skip
    return rows


def _dollars(value: float | None) -> str:
    return NONE if value is None else Number(count(value), float(f"{value:.12g}"), "")


def _time(value: float | None) -> str:
    return NONE if value is None else Number(quantity(value, "time"), value, "s")


def marks(plans: Sequence[Mapping[str, Any]]) -> tuple[list[Mark], list[Mark]]:
    """Return the points of both plots: tokens/s a device over tokens/s a user; $/M output tokens over TTFT.

    Their labels are rows of the table.
    """
    throughput, cost = [], []
    for row, entry in enumerate(plans, 1):
        metrics, output = entry["metrics"], (entry.get("cost_per_million") or {}).get("output")
        label = str(row)
        if metrics.get("tpot") and output and entry["cost_rate"]:
            rate = entry["cost_rate"] / _HOUR / output * _MILLION / entry["devices"]
            throughput.append(Mark(1.0 / metrics["tpot"], rate, label))
        if metrics.get("ttft") and output:
            cost.append(Mark(metrics["ttft"], output, label))
    return throughput, cost


def _text(value: object) -> str:
    """Return a value of a request: names of a list, whole numbers without a point."""
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return count(value) if isinstance(value, float) else str(value)


def _page(document: Mapping[str, Any]) -> bytes:
    plans = document["plans"]
    throughput, cost = marks(plans)
    best = front(throughput, lower_x=False, lower_y=False)
    cheapest = front(cost, lower_x=True, lower_y=True)
    sections = [
        Section("Deployments", [html_table("The best of each cluster, the cheapest first", plan_table(plans))]),
        Section(
            "Throughput and interactivity",
            [scatter(throughput, best, "tokens/s of a user", "output tokens/s of a device")],
        ),
        Section(
            "Cost and latency", [scatter(cost, cheapest, "mean time to first token, s", "$ a million output tokens")]
        ),
        Section("Not chosen", [items(map(str, document.get("left_out", [])))]),
    ]
    request = ", ".join(f"{name} {_text(value)}" for name, value in document["request"].items())
    return page("Plan", f"Asked for: {request}.", sections, document)
