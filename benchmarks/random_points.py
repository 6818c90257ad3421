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
from costmodel.cost.machine import Machine
from costmodel.cost.operator_time import operator_time
from costmodel.cost.physical_bound import least_time
from costmodel.hardware import Device
from costmodel.quantities import Array
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator

WIDTHS = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625, "fp32": 4.0}
RUNGS = 40  # of a ladder: sizes from the least to the largest, a third of an octave apart or so
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


def kernels(key: str, device: Device, sizes: dict[str, Array]) -> Operator | None:
    """Return kernels of a `family/variant` with given sizes; none where no kernel of the device has that name."""
    family, _, variant = key.partition("/")
    unit = next((name for name in WIDTHS if variant.startswith(name)), "bf16")
    if unit not in device.math:
        return None
    width, ones = WIDTHS[unit], np.ones_like(sizes["m"])
    if family.startswith(("gemm", "bmm", "grouped_gemm")):
        groups = ones if family.startswith("gemm") else sizes["groups"]
        return Gemm(
            key, m=sizes["m"], n=sizes["n"], k=sizes["k"], dtype=unit, a_bytes=width, b_bytes=width, out_bytes=2.0,
            groups=groups, block_scaled="block" in variant,
        )  # fmt: skip
    if family in ("attention_prefill", "mla_prefill", "attention_decode", "mla_decode"):
        decodes, latent = family.endswith("decode"), family.startswith("mla")
        shared = ones if latent and decodes else sizes["groups"]
        new = ones if decodes else sizes["m"]
        keys = new + sizes["keys"]
        dims = 1088.0 if latent and decodes else 320.0 if latent else 256.0
        token, heads = (576.0 if latent and decodes else dims) * width, shared * 8.0
        return AttentionKernel(
            key, sequences=sizes["sequences"], heads=heads, q_len=new,
            qk_pairs=new * (keys - new) + new * (new + 1) / 2, macs_per_pair=dims, dtype=unit,
            traffic=sizes["sequences"] * (shared * keys * token + heads * new * dims * 2.0), family=family,
            kv_heads=shared, kv_len=keys, kv_token_bytes=token,
        )  # fmt: skip
    if family == "elementwise":
        return Elementwise(key, sizes["m"] * sizes["n"] * 4.0, kind=variant, rows=sizes["m"])
    return None


SPANS = {
    "m": (1.0, 131072.0), "n": (64.0, 65536.0), "k": (64.0, 65536.0), "groups": (1.0, 64.0), "keys": (1.0, 131072.0),
    "sequences": (1.0, 512.0),
}  # fmt: skip


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


def check_kernels(points: int, tally: Tally) -> None:
    """Draw kernels of every fit; count rates above the roofline, and falls along ladders of each size."""
    every = [
        each for each in fits_of_all(FitStore(Library())) if kernels(each[1], each[3].device, _typical()) is not None
    ]
    rng = np.random.default_rng(0)
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
        _climb(name, key, fit, machine, tally)


def _typical() -> dict[str, Array]:
    """Return one size of each, in the middle of its span, on a logarithmic scale."""
    return {size: np.array([np.floor(np.sqrt(low * high))]) for size, (low, high) in SPANS.items()}


def _climb(name: str, key: str, fit: FamilyFit, machine: Machine, tally: Tally) -> None:
    """Count the steps along ladders of each size where the time falls."""
    base = kernels(key, machine.device, _typical())
    for size, (low, high) in SPANS.items():
        rungs = np.unique(np.floor(np.geomspace(low, high, RUNGS)))
        sizes = {other: np.full(len(rungs), value[0]) for other, value in _typical().items()} | {size: rungs}
        operator = kernels(key, machine.device, sizes)
        assert operator is not None, "tried above"
        if _same(operator, base):
            continue
        seconds = np.broadcast_to(np.asarray(operator_time(operator, machine, None, fit).seconds), (len(rungs),))
        falls = 1.0 - seconds[1:] / seconds[:-1]
        tally.note("steps along a size", len(falls))
        for fall in FALLS:
            place = f"{name} {key} along {size}"
            tally.note(f"steps that fall by over {fall:.0%}", int((falls > fall).sum()), float(falls.max()), place)


def _same(operator: Operator, base: Operator | None) -> bool:
    """Tell whether a size means nothing to a kernel: its work and bytes stay."""
    spans = [np.unique(np.asarray(getattr(operator, name))) for name in ("flop", "traffic") if hasattr(operator, name)]
    return base is not None and all(len(values) == 1 for values in spans)


def check_scenarios(points: int, tally: Tally) -> None:
    """Evaluate scenarios over random grids; count points that differ alone, leave their interval, or do not sum."""
    rng = np.random.default_rng(1)
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
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore", costmodel.errors.ImplausibleInput)
    tally = Tally()
    check_kernels(chosen.kernels, tally)
    check_scenarios(chosen.scenarios, tally)
    for kind, count in tally.counts.items():
        worst, place = tally.worst.get(kind, (0.0, ""))
        print(f"{count:9,} {kind}" + (f"; the worst by {worst:.3g}: {place}" if place else ""))
    return int(any(tally.counts[kind] for kind in BAD))


if __name__ == "__main__":
    sys.exit(main())
