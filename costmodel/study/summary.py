"""What a sweep's table says in a few lines: how many points run, why others do not, and where the headline is best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from costmodel.records import ValueRecord
from costmodel.study.sweep import INTERVAL, Sweep
from costmodel.study.tables import Columns, numbers, switches

OnProgress: TypeAlias = "Callable[[int], None]"  # called with the points that are done


class Reader(ValueRecord):
    """Reads from a part of a table what a summary says of it, wherever the part is made.

    headlines: of each scenario.
    axes: path of each, whether it holds texts, and whether whole numbers.
    """

    headlines: Mapping[str, str]
    axes: tuple[tuple[str, bool, bool], ...]

    def read(self, columns: Columns) -> list[dict[str, Any]]:
        """Return what there is to say of each scenario of a part."""
        names = columns["scenario"]
        different = dict.fromkeys(names.tolist())
        if len(different) == 1:
            return [self._of_scenario(name, columns) for name in different]
        rows = {name: np.flatnonzero(names == name) for name in different}
        return [
            self._of_scenario(name, {key: column[own] for key, column in columns.items()}) for name, own in rows.items()
        ]

    def _of_scenario(self, name: str, columns: Columns) -> dict[str, Any]:
        headline = self.headlines[name]
        times, reasons = numbers(columns[headline]), columns["reason"]
        runs = switches(columns["fits"]) & (reasons == "")
        times = np.where(runs, times, np.nan)
        known = not np.all(np.isnan(times))
        return {
            "scenario": name, "points": len(times), "fit": int(runs.sum()),
            "infeasible": Counter(reasons[reasons != ""].tolist()),
            "best": self._at(columns, headline, int(np.nanargmin(times))) if known else None,
            "worst": self._at(columns, headline, int(np.nanargmax(times))) if known else None,
        }  # fmt: skip

    def _at(self, columns: Columns, headline: str, row: int) -> dict[str, Any]:
        """Return a point: its place on the axes, the headline metric there and its interval."""

        def number(name: str) -> float:
            return float(numbers(columns[name][row : row + 1])[0])

        at = {
            path: str(columns[path][row]) if texts else _plain(number(path), whole=whole)
            for path, texts, whole in self.axes
        }
        low, high = (number(f"{headline}_{end}") for end in INTERVAL)
        return {"at": at, "value": number(headline), "low": low, "high": high}


def reader_of(sweep: Sweep) -> Reader:
    """Return what reads the parts of a sweep."""
    headlines = {name: sweep.answers(name)[0] for name in sweep.scenarios}
    return Reader(headlines, tuple((axis.path, bool(axis.texts), axis.whole) for axis in sweep.axes))


class Summary:
    """Adds up the parts of a table, in whichever order they come."""

    def __init__(self, sweep: Sweep) -> None:
        self.points = 0
        self._sweep = sweep
        self._parts: dict[int, list[dict[str, Any]]] = {}

    def add(self, number: int, parts: list[dict[str, Any]]) -> None:
        """Add a part of the table, as `Reader` reads it."""
        self.points += sum(part["points"] for part in parts)
        self._parts[number] = parts

    def scenarios(self) -> dict[str, Any]:
        """Return for each scenario how many points run, why others do not, and its shortest and longest time."""
        scenarios: dict[str, Any] = {}
        for name in self._sweep.scenarios:
            parts = [part for _, of in sorted(self._parts.items()) for part in of if part["scenario"] == name]
            reasons: Counter[str] = Counter()
            for part in parts:
                reasons.update(part["infeasible"])
            ran = [part for part in parts if part["best"]]
            scenarios[name] = {
                "headline": self._sweep.answers(name)[0],
                "points": sum(part["points"] for part in parts),
                "fit": sum(part["fit"] for part in parts),
                "infeasible": dict(sorted(reasons.items())),
                "best": min((part["best"] for part in ran), key=_value, default=None),
                "worst": max((part["worst"] for part in ran), key=_value, default=None),
            }
        return scenarios


def _value(point: dict[str, Any]) -> float:
    return float(point["value"])


def _plain(value: float, *, whole: bool) -> float | int:
    return int(value) if whole else value
