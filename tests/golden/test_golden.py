"""The flagship's headline numbers, written out: a change that moves one shows it. `--update-golden` rewrites them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import costmodel

GOLDEN = Path(__file__).with_name("deepseek_v3.txt")
DIGITS = 6


def shown(value: object) -> str:
    """Return a number with the digits that are compared."""
    return f"{value:.{DIGITS}g}" if isinstance(value, float | int) and not isinstance(value, bool) else str(value)


def lines(workload: costmodel.Workload) -> Iterator[str]:
    """Yield one line for each headline number of the result."""
    document = workload.simulate()
    for name, value in document["model"].items():
        yield f"model.{name} = {shown(value)}"
    for scenario, found in document["scenarios"].items():
        yield ""
        for metric, value in found["metrics"].items():
            yield f"{scenario}.{metric} = {shown(value)}"
        for part, value in found.get("schedule", {}).items():
            yield f"{scenario}.schedule.{part} = {shown(value)}"
        for part, value in found["memory"].items():
            yield f"{scenario}.memory.{part} = {shown(value)}"
        yield f"{scenario}.bound = {found['bound']}"
        for entry in found["breakdown"][:5]:
            yield f"{scenario}.breakdown.{entry['name']} = {shown(entry['time'])}"


def test_the_flagship_gives_its_golden_numbers(v3: costmodel.Workload, pytestconfig: pytest.Config) -> None:
    text = "\n".join(lines(v3)) + "\n"
    if pytestconfig.getoption("--update-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
    golden = GOLDEN.read_text(encoding="utf-8")
    moved = [
        f"{old}  ->  {new}" for old, new in zip(golden.splitlines(), text.splitlines(), strict=False) if old != new
    ]
    assert text == golden, "\n".join(["moved (run with --update-golden to accept, and say by how much):", *moved])
