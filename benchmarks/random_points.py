"""Random points over every shipped calibration: bounds of physics, growth along sizes, grids against single points.

python -m benchmarks.random_points --kernels 100000 --scenarios 400

For every fit of every calibration file it draws kernels at random sizes and checks that none is faster than its work at
the highest clock and its bytes; then ladders of one size each, along which a time should not fall. Scenarios of shipped
workloads are evaluated over random grids: points of a grid equal single ones, intervals contain them, breakdowns sum.
Counts what is broken, and prints the worst; returns 1 where a bound, a sum, an interval or a grid is.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

import costmodel
from costmodel.calibration.fit_files import FitStore, default_framework
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.operator_time import operator_time
from costmodel.cost.physical_bound import least_time
from costmodel.cost.time import Machine
from costmodel.fitting.growth import SPANS, bases, kernels, ladders, typical
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import Operator

LADDERS = 4  # of each size: the typical one, and from sizes near what was measured
SEED = 7  # another than that of the fits
WIDER = 16  # steps of hardware, over four octaves
FALLS = (0.01, 0.05)  # that are counted: more than one, and more than five per cent
SCENARIOS = ("deepseek_v3", "llama3_8b_rtx4090", "mixtral_8x7b_h100", "gpt3_175b_a100")
ROUNDING = 1e-9


@dataclass(slots=True)
class Tally:
    """What was counted, and the worst of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)

    def note(self, kind: str, number: int, worst: float = 0.0, place: str = "") -> None:
        """Count some of a kind, and keep the place of the worst."""
        self.counts[kind] += number
        if number and worst > self.worst.get(kind, (0.0, ""))[0]:
            self.worst[kind] = worst, place


def fits_of_all(store: FitStore) -> Iterator[tuple[str, str, FamilyFit, Machine]]:
    """Yield (file, key, fit, machine) of every shipped fit of single kernels that has a form."""
    framework = default_framework()
    names = [name for name in sorted(Library().names("calibrations")) if name.count("/") == 1]
    for name in names:
        device, _, implementation = name.partition("/")
        fits, hardware = store.device_fits(device, implementation), load_device(device)
        machine = Machine(hardware, framework, hardware.processors)
        for key in () if fits is None else fits.file.families:
            fit = None if fits is None else fits.fit(key, device)
            if fit is not None and fit.form is not None:
                yield name, key, fit, machine


def check_kernels(points: int, seed: int, tally: Tally) -> None:
    """Draw kernels of every fit; count rates above the roofline, and falls along ladders of each size."""
    every = [
        each for each in fits_of_all(FitStore(Library())) if kernels(each[1], each[3].device, typical()) is not None
    ]
    rng = np.random.default_rng(seed)
    for name, key, fit, machine in every:
        number = -(-points // len(every))
        drawn = {
            size: np.floor(2.0 ** rng.uniform(np.log2(low), np.log2(high), number))
            for size, (low, high) in SPANS.items()
        }
        operator = kernels(key, machine.device, drawn)
        assert operator is not None, "tried above"
        seconds = np.broadcast_to(np.asarray(operator_time(operator, machine, None, fit).seconds), (number,))
        tally.note("kernels", number)
        tally.note("kernels whose time is no number", int((~np.isfinite(seconds)).sum()))
        beyond = np.asarray(least_time(operator, machine)) / seconds - 1.0
        tally.note(
            "kernels faster than the roofline", int((beyond > ROUNDING).sum()), float(beyond.max()), f"{name} {key}"
        )
        for check in (_climb, _widen):
            check((name, key, fit, machine), seed, tally)


def _climb(of: tuple[str, str, FamilyFit, Machine], seed: int, tally: Tally) -> None:
    """Count the steps along ladders of each size where the time falls, and those where that of the form alone does."""
    name, key, fit, machine = of
    for size, operator in ladders(key, fit, machine, LADDERS, seed):
        falls = _falls(operator, machine, fit)
        own = _falls(operator, machine, replace(fit, residual=None))
        tally.note("steps along a size", len(falls))
        for fall in FALLS:
            place, steps = f"{name} {key} along {size}", f"steps that fall by over {fall:.0%}"
            tally.note(steps, int((falls > fall).sum()), float(falls.max()), place)
            tally.note(f"{steps}, as the form alone does", int(((falls > fall) & (own > fall / 2.0)).sum()))


def _falls(operator: Operator, machine: Machine, fit: FamilyFit) -> Array:
    """Return by which share the time falls at each step of a ladder."""
    seconds = np.atleast_1d(np.asarray(operator_time(operator, machine, None, fit).seconds))
    falls: Array = 1.0 - seconds[1:] / seconds[:-1]
    return falls


def _widen(of: tuple[str, str, FamilyFit, Machine], seed: int, tally: Tally) -> None:
    """Count the steps to more processors and to more memory bandwidth where the time of a kernel rises."""
    name, key, fit, machine = of
    for sizes in bases(key, fit, machine, LADDERS, seed):
        operator = kernels(key, machine.device, sizes)
        assert operator is not None, "tried before"
        more = np.floor(np.geomspace(machine.device.processors / 4.0, machine.device.processors * 4.0, WIDER))
        level = machine.device.device_memory
        wider = replace(level, bandwidth=machine.hbm_bandwidth * np.geomspace(0.25, 4.0, WIDER))
        faster = replace(machine.device, memory=(*machine.device.memory[:-1], wider))
        for what, changed in (
            ("processors", replace(machine, processors=more, device=replace(machine.device, processors=more))),
            ("bandwidth", replace(machine, device=faster)),
        ):
            rises = -_falls(operator, changed, fit)
            tally.note("steps to more hardware", len(rises))
            for fall in FALLS:
                place = f"{name} {key} by {what}"
                tally.note(
                    f"steps to more hardware that rise by over {fall:.0%}", int((rises > fall).sum()),
                    float(rises.max()), place,
                )  # fmt: skip


def check_scenarios(points: int, seed: int, tally: Tally) -> None:
    """Evaluate scenarios over random grids; count points that differ alone, leave their interval, or do not sum."""
    rng = np.random.default_rng(seed + 1)
    of_all = [(name, scenario) for name in SCENARIOS for scenario in costmodel.load(name).scenarios]
    for name, scenario in of_all:
        workload = costmodel.load(name, scenarios=[scenario])
        if workload.scenario(scenario).plan.phase not in ("training", "prefill", "decode"):
            continue
        number = max(points // (len(of_all) * 4), 2)
        vary: dict[str | tuple[str, ...], tuple[float, ...]] = {
            "hardware.memory.hbm.bandwidth": tuple(rng.uniform(5e11, 8e12, number).tolist()),
            "hardware.processors": tuple(np.floor(rng.uniform(60, 300, 2)).tolist()),
            "hardware.clock": tuple(rng.uniform(1.2e9, 2.4e9, 2).tolist()),
        }
        result = workload.evaluate(scenario, vary=vary)
        for index in np.ndindex(*(len(values) for values in vary.values())):
            _check_point(f"{name} {scenario} {index}", result.at(*index), tally)
        chosen = tuple(int(rng.integers(len(values))) for values in vary.values())
        changes = {str(path): values[at] for (path, values), at in zip(vary.items(), chosen, strict=True)}
        alone = workload.changed(changes).evaluate(scenario)
        for metric, value in result.metrics.items():
            own = alone.metrics[metric]
            if value is not None and own is not None:
                apart = abs(float(np.asarray(value)[chosen]) / float(own) - 1.0)
                tally.note("grid values compared", 1)
                tally.note("grid values unlike the point", int(apart > ROUNDING), apart, f"{name} {scenario} {metric}")


def _check_point(place: str, document: dict[str, object], tally: Tally) -> None:
    """Count what is wrong with one point's document."""
    tally.note("scenario points", 1)
    metrics, intervals, breakdown = document["metrics"], document["intervals"], document["breakdown"]
    assert isinstance(metrics, dict)
    assert isinstance(intervals, dict)
    assert isinstance(breakdown, list)
    for metric, value in metrics.items():
        ends = intervals.get(metric)
        if value is None or ends is None:
            continue
        outside = max(ends[0] / value - 1.0, value / ends[1] - 1.0) if value else 0.0
        tally.note("intervals", 1)
        tally.note("values outside their interval", int(outside > ROUNDING), outside, f"{place} {metric}")
    headline = next((name for name in ("step_time", "ttft", "tpot") if metrics.get(name)), None)
    if headline is None or not breakdown:
        return
    total = sum(line["time"] for line in breakdown) + (metrics.get("bubble_time") or 0.0)
    apart = abs(total / metrics[headline] - 1.0)
    tally.note("breakdowns", 1)
    tally.note("breakdowns that do not sum", int(apart > 1e-6), apart, place)


BAD = (
    "kernels whose time is no number", "kernels faster than the roofline", "grid values unlike the point",
    "values outside their interval", "breakdowns that do not sum",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts and print what was counted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_points", description=main.__doc__)
    parser.add_argument("--kernels", type=int, default=100_000, help="kernels, spread over all fits")
    parser.add_argument("--scenarios", type=int, default=400, help="points of scenarios")
    parser.add_argument("--seed", type=int, default=SEED, help="of what is drawn")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore", costmodel.errors.ImplausibleInput)
    tally = Tally()
    check_kernels(chosen.kernels, chosen.seed, tally)
    check_scenarios(chosen.scenarios, chosen.seed, tally)
    for kind, count in tally.counts.items():
        worst, place = tally.worst.get(kind, (0.0, ""))
        print(f"{count:9,} {kind}" + (f"; the worst by {worst:.3g}: {place}" if place else ""))
    return int(any(tally.counts[kind] for kind in BAD))


if __name__ == "__main__":
    sys.exit(main())
