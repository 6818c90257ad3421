"""Learns from the shipped devices, nodes and clusters what values their fields have: the bands of plausible ones.

python -m reports.fits.plausible --output hardware

A field's reach is how far outside the others the least or the largest of them lies, so that a band which is learnt
without any one of its values still holds it; no less than the median of all fields' reaches rounded up, since the next
device differs by as much. Fields of hardware that fewer than five files
state, or with fewer than three values, have no band but a cited one of `plausible.yaml` beside this program.
Devices that are a forecast, nodes of them, and fields that a file calls plausible are judged and not learnt from.

A framework's field reaches as far as the one that spreads most over the shipped frameworks: many state the value of
`default`.

The trend is that of the largest values: of each year in which a shipped device has a larger value of a field than all
before. Their logarithms grow by one slope a dimension (all rates of arithmetic, all bandwidths …), which least squares
over all fields of it give, each with a level of its own; what does not grow stays as it is, and so does a field that
has had no larger value for two generations. A generation is the mean time from one of them to the next. Years are those
of the devices (`announced`), of nodes those of their devices.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from costmodel.declared import Measure
from costmodel.errors import InputError
from costmodel.schema.assemble import Assembly
from costmodel.schema.device import ClusterFile, DeviceFile, NodeFile
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.plausible import BALANCE, BANDS, FABRIC, FORM, FRAMEWORK, distance_from_whole, values_of
from costmodel.schema.references import Library, folder_of
from costmodel.schema.strict import Strict, number_at
from costmodel.schema.whole_files import write_whole

KINDS: Mapping[str, type[Strict]] = {
    "device": DeviceFile, "node": NodeFile, "cluster": ClusterFile,
    "framework": FrameworkFile,
}  # fmt: skip
LEAST_FILES, LEAST_VALUES = 5, 3  # of fewer, a band would say what these few are, not what is plausible


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn the bands, print and write them."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.plausible", description=main.__doc__)
    parser.add_argument("--output", type=Path, help="folder `hardware` to write into; none: only print")
    chosen = parser.parse_args(arguments)
    document = learn()
    for path, band in document["fields"].items():
        low, high = band["low"], band["high"]
        growth = f"{band['files']} files, * {band['growth']:.3g} a year from {band['year']}" if "year" in band else ""
        sys.stdout.write(f"{path:28} {low:10.4g} {high:10.4g} x {band['reach']:.3g}, {growth or 'cited'}\n")
    if chosen.output is not None:
        write_whole(chosen.output / BANDS, [(json.dumps(document, indent=1) + "\n").encode()])


def learn() -> dict[str, Any]:
    """Return the band of every field with its growth, and the largest distance of FLOP a cycle from a whole number."""
    library = Library()
    values: dict[str, list[tuple[float, int]]] = defaultdict(list)
    dimensions: dict[str, str] = {BALANCE: "count", FABRIC: "count"}
    years: dict[str, int | None] = {}
    whole = 0.0
    for kind, model in KINDS.items():
        for file in _files(kind, library):
            year = years[f"{folder_of(kind)}/{file.name}"] = _year(file, years)
            if year is None:
                continue
            for path, name, value in values_of(file):
                if not any(f"{path}.".startswith(f"{meant}.") for meant in file.plausible):
                    values[name].append((value, year))
                    dimensions.setdefault(name, _dimension(model, path))
            if isinstance(file, DeviceFile):
                whole = max(whole, _distance(file))
    kept = {
        name: sorted(each) for name, each in values.items()
        if name.startswith(FRAMEWORK)
        or (len(each) >= LEAST_FILES and len({value for value, _ in each}) >= LEAST_VALUES)
    }  # fmt: skip
    reaches = {name: _own_reach(name, [value for value, _ in each]) for name, each in kept.items()}
    least = float(math.ceil(sorted(reaches.values())[len(reaches) // 2]))
    spreads = [
        each[-1][0] / each[0][0] for name, each in kept.items() if name.startswith(FRAMEWORK) and each[-1] > each[0]
    ]  # fmt: skip
    reaches |= {name: max(reaches[name], max(spreads)) for name in kept if name.startswith(FRAMEWORK)}
    records = {name: _records(each) for name, each in kept.items()}
    growth = {
        dimension: _growth([each for name, each in records.items() if dimensions[name] == dimension])
        for dimension in {dimensions[name] for name in kept}
    }
    newest = max(year for year in years.values() if year is not None)
    gaps = [later - sooner for each in records.values() for (_, sooner), (_, later) in pairwise(each)]
    generation = sum(gaps) / len(gaps)
    fields = {
        name: {
            "dimension": dimensions[name], "low": each[0][0], "high": each[-1][0],
            "reach": max(least, reaches[name]), "files": len(each), "year": records[name][-1][1],
            "growth": growth[dimensions[name]] if newest - records[name][-1][1] <= 2.0 * generation else 1.0,
        }
        for name, each in kept.items()
    } | yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))  # fmt: skip
    return {
        "schema": FORM, "fields": fields, "flop_per_cycle": whole,
        "newest": newest, "generation": generation,
    }  # fmt: skip


def _year(file: Any, years: Mapping[str, int | None]) -> int | None:
    """Return the year of a device, or of a node's or a cluster's devices, null of a forecast.

    years: of the files that it may name.
    """
    if isinstance(file, FrameworkFile):
        return max(year for year in years.values() if year is not None)
    if isinstance(file, DeviceFile) and file.forecast:
        return None
    if isinstance(file, DeviceFile):
        if file.announced is None:
            raise InputError.single(f"{file.name} has no year", hint="add `announced: 2024`", field="announced")
        return file.announced
    return years[file.device if isinstance(file, NodeFile) else file.node]


def _records(values: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return (value, year) of each year's largest value that is larger than all before, by year."""
    records: list[tuple[float, int]] = []
    for year in sorted({year for _, year in values}):
        largest = max(value for value, each in values if each == year)
        if not records or largest > records[-1][0]:
            records.append((largest, year))
    return records


def _growth(fields: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Return by how much the largest values of some fields grow in a year, 1 at least: exp of their common slope."""
    above = below = 0.0
    for records in fields:
        logs, years = [math.log(value) for value, _ in records], [float(year) for _, year in records]
        level, middle = sum(logs) / len(logs), sum(years) / len(years)
        above += sum((year - middle) * (log - level) for year, log in zip(years, logs, strict=True))
        below += sum((year - middle) ** 2 for year in years)
    return math.exp(above / below) if below else 1.0


def _files(kind: str, library: Library) -> Iterator[Any]:
    """Yield every shipped file of a kind."""
    for name in library.names(folder_of(kind)):
        assembly = Assembly(library)
        tree = library.read(library.find(name, folder_of(kind)), kind)
        part = assembly.part(KINDS[kind], tree)
        if assembly.problems:
            raise InputError(assembly.problems)
        yield part.file


def _dimension(model: type[Strict], path: str) -> str:
    number = number_at(model, path.split("."))
    return number.dimension if isinstance(number, Measure) else "count"


def _distance(file: DeviceFile) -> float:
    """Return the largest distance of a device's FLOP a cycle from a whole number; FP64 is cut by export rules."""
    clocks = {"max": file.clock.max, "reference": file.clock.tensor_reference}
    per_cycle = [
        float(unit.peak / (file.processors * clocks[unit.clock])) for name, unit in file.math.items() if name != "fp64"
    ]
    return max(map(distance_from_whole, per_cycle), default=0.0)


def _own_reach(name: str, values: Sequence[float]) -> float:
    """Return how far the least or the largest of sorted values lies outside the others: a factor.

    Few links state a latency, and none of those that are common elsewhere: theirs reaches as far as it spreads.
    """
    distinct = sorted(set(values))
    if name == "latency":
        return distinct[-1] / distinct[0]
    return max(distinct[-1] / distinct[-2], distinct[1] / distinct[0]) if len(distinct) > 1 else 1.0


if __name__ == "__main__":
    main()
