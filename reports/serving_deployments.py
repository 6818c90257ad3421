"""Settings that an engine's documentation recommends for a run, where a table of runs states none: a file of rules."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_suffix(".yaml")
_COMPARED = {">=": operator.ge, "<": operator.lt, ">": operator.gt}


@cache
def table(part: str) -> Any:
    """Return a part of the file: rules, or names in tables of runs and what they stand for."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))[part]


def deployment(row: Mapping[str, str], engine: str) -> dict[str, Any]:
    """Return keys of the scenario of a row on one engine: memory, precision and scheduler. engine: its framework."""
    found = _settings("scenario", {**row, "engine": engine})
    scheduler = found.get("scheduler", {})
    if "beside_prompt" in scheduler:
        scheduler["token_budget"] = round(float(row["isl"])) + scheduler.pop("beside_prompt")
    return found


def draft_depth(row: Mapping[str, str], engine: str) -> int | None:
    """Return the tokens that an engine drafts where its documentation says how many; null: it does not."""
    return _settings("drafts", {**row, "engine": engine}).get("depth")


def exchange(row: Mapping[str, str], engine: str, degrees: Mapping[str, int]) -> dict[str, Any]:
    """Return how ranks of these degrees exchange tokens, where it is not as the framework's default."""
    return _settings("exchange", {**row, "engine": engine, "dp": degrees.get("dp", 1)})


def pools(row: Mapping[str, str], engine: str) -> dict[str, Any]:
    """Return keys of the scenario of a row on two pools, of both of them."""
    return _settings("pools", {**row, "engine": engine})


def _settings(part: str, facts: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings of all rules of a part of the file that a row meets, later ones first where both say."""
    found: dict[str, Any] = {}
    for rule in table(part):
        if all(_meets(facts[name], wanted) for name, wanted in rule["when"].items()):
            for name, value in rule["set"].items():
                found[name] = {**found.get(name, {}), **value} if isinstance(value, dict) else value
    return found


def _meets(value: object, wanted: str | list[str]) -> bool:
    """Tell whether a value is as a rule wants it: a comparison, a pattern, or one of a list."""
    if isinstance(wanted, list):
        return any(_meets(value, each) for each in wanted)
    sign, _, number = wanted.partition(" ")
    if sign in _COMPARED:
        return bool(_COMPARED[sign](float(str(value)), float(number)))
    return fnmatchcase(str(value), wanted)
