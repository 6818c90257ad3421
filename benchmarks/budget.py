"""What the package may hold and cost, beside what it does: `python -m benchmarks.budget [--counts]`.

`budget.yaml` states the limits. Counts (lines of rooms, fields, modules at start, calls of a point) are the same on
every machine and are tested; seconds of the processor are printed only. A limit is raised by hand, with the reason in
the commit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

import costmodel
from benchmarks.processor_time import UNIT, command_seconds, seconds, unit_seconds
from costmodel.analytic.grid import evaluate_single
from costmodel.records import fields, replace
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Framework

ROOT = Path(__file__).parents[1]
BUDGET = Path(__file__).with_name("budget.yaml")
WORKLOAD, SCENARIO = "deepseek_v3", "training"
COMMAND = ("simulate", WORKLOAD, "--scenario", "decode")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure beside its limit, both in `unit`."""

    name: str
    measured: float
    limit: float
    unit: str

    @property
    def is_met(self) -> bool:
        """Return whether the figure is within its limit."""
        return self.measured <= self.limit


def counts() -> Iterator[Figure]:
    """Yield what does not depend on the machine."""
    limits = yaml.safe_load(BUDGET.read_text(encoding="utf-8"))
    for room, limit in limits["lines"].items():
        yield Figure(f"lines of {room}", lines(ROOT / room), limit, "lines")
    yield Figure("decisions", len(list((ROOT / "docs/decisions").glob("0*.md"))), limits["decisions"], "pages")
    yield Figure("fields of Framework", len(fields(Framework)), limits["framework"], "fields")
    yield Figure(f"modules of `{' '.join(COMMAND)}`", modules(), limits["modules"], "modules")
    for kind, count in zip(("a point", "a point of new sizes"), calls(), strict=True):
        yield Figure(f"Python calls of {kind} of {WORKLOAD}'s {SCENARIO}", count, limits["calls"][kind], "calls")


def times() -> Iterator[Figure]:
    """Yield seconds of the processor."""
    limits = yaml.safe_load(BUDGET.read_text(encoding="utf-8"))["seconds"]
    yield Figure("--help", command_seconds("--help"), limits["help"], "s")
    yield Figure(" ".join(COMMAND), command_seconds(*COMMAND), limits["decode"], "s")
    yield Figure(f"simulate {WORKLOAD}", command_seconds("simulate", WORKLOAD), limits["flagship"], "s")
    workload = costmodel.load(WORKLOAD)
    spent = seconds(lambda: workload.evaluate(SCENARIO), 10)
    yield Figure(f"a point of {WORKLOAD}'s {SCENARIO}", spent, limits["point"], "s")


def lines(room: Path) -> int:
    """Return how many lines the Python files of a folder have, those of folders in it included."""
    return sum(len(file.read_bytes().splitlines()) for file in room.rglob("*.py"))


def modules() -> int:
    """Return how many modules the command has imported when it ends, its files being in the compiled catalogue."""
    program = (
        "import sys; from costmodel.cli.main import main\n"
        f"sys.argv[1:] = {list(COMMAND)!r}\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(len(sys.modules))"
    )
    with TemporaryDirectory() as catalogue:
        surroundings = {**os.environ, "COSTMODEL_CACHE": catalogue}
        for _ in range(2):
            ran = subprocess.run(
                [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT, env=surroundings
            )
    return int(ran.stdout.splitlines()[-1])


def calls() -> tuple[int, int]:
    """Return how many Python functions a point calls, evaluated again and with sequences of another length."""
    workload = costmodel.load(WORKLOAD, scenarios=[SCENARIO])
    chosen = workload.scenario(SCENARIO)
    assert isinstance(chosen.plan, Training)
    shorter = replace(chosen, plan=replace(chosen.plan, sequence=chosen.plan.sequence / 2.0))
    fits = workload.calibration(chosen)
    evaluate_single(chosen, fits)
    return _counted(lambda: evaluate_single(chosen, fits)), _counted(lambda: evaluate_single(shorter, fits))


def _counted(run: Callable[[], object]) -> int:
    """Return how many Python functions a run calls."""
    count = 0

    def counting(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every figure; return 1 where a count is above its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--counts", action="store_true", help="without seconds")
    chosen = parser.parse_args(arguments)
    counted = list(counts())
    for figure in (*counted, *(() if chosen.counts else times())):
        verdict = "OK" if figure.is_met else "ABOVE"
        print(f"{figure.name:50} {figure.measured:12,.6g} of {figure.limit:10,.6g} {figure.unit:8} {verdict}")
    if not chosen.counts:
        print(f"{UNIT}: {1e3 * unit_seconds():.1f} ms")
    return int(not all(figure.is_met for figure in counted))


if __name__ == "__main__":
    raise SystemExit(main())
