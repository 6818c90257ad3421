"""How measured times of whole published runs scatter about predicted ones: `hardware/calibrations/composition.yaml`.

python -m costmodel.study.composition --output hardware/calibrations/composition.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from costmodel import units
from costmodel.analytic.intervals import RATES, TIMES
from costmodel.quantities import Array
from costmodel.schema.whole_files import write_whole
from costmodel.study.reproduce import Comparison, load_cases, reproduce

CLASSES = ("training", "inference", "serving")
POINTS = (0.1, 0.5, 0.9)  # of the weight of all rows


def ratio(one: Comparison) -> float | None:
    """Return measured over predicted time of a scored figure; null where it is no time and no rate."""
    if one.error is None or not one.predicted or not one.published:
        return None
    if one.metric in TIMES:
        return one.published / one.predicted
    return one.predicted / one.published if one.metric in RATES else None


def points(values: Array, weights: Array) -> tuple[float, float, float]:
    """Return the 10 %, 50 % and 90 % points of weighted values, to three digits."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) - weights[order] / 2
    low, median, high = (float(f"{np.interp(point * weights.sum(), reached, values[order]):.3g}") for point in POINTS)
    return low, median, high


def render(comparisons: Iterable[Comparison]) -> str:
    """Return the text of the calibration file; publications of a class weigh the same."""
    scored = [(one, found) for one in comparisons if (found := ratio(one)) is not None]
    lines = [
        "schema: costmodel/calibration@1",
        "name: composition",
        "device: null",
        "basis: fitted",
        "families:                                        # measured over predicted times of whole runs",
    ]
    for name in CLASSES:
        rows = [(one, found) for one, found in scored if one.case_class == name]
        if not rows:
            continue
        counts = Counter(one.publication for one, _ in rows)
        weights = np.array([1.0 / counts[one.publication] for one, _ in rows])
        low, median, high = points(np.array([found for _, found in rows]), weights)
        time = units.render(1.0, "time")
        lines += [
            f"  composition_{name}:",
            f"    spread: [{{time: {time}, low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(rows)}}}]",
            f"    rows: {len(rows)}",
            f'    note: "{len(rows)} figures of {len(counts)} publications, each publication with the same weight."',
        ]
    lines += [
        "sources:",
        "  - fields: [families]",
        '    cite: "the published cases of the catalogue: workloads/published"',
        "    kind: derived",
        "    note: >-",
        "      10, 50 and 90 % points. Made by `python -m costmodel.study.composition --output",
        "      hardware/calibrations/composition.yaml`.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare all published cases; write the calibration file."""
    parser = argparse.ArgumentParser(prog="python -m costmodel.study.composition", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="calibration file to write")
    chosen = parser.parse_args(arguments)
    comparisons, _ = reproduce(load_cases([])[0])
    text = render(comparisons)
    write_whole(chosen.output, [text.encode("utf-8")])
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
