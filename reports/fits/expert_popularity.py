"""How unevenly trained routers choose experts: `expert_spread` of frameworks/default.

python -m reports.fits.expert_popularity hardware/fit_plans/expert_popularity.csv

Published counts of two kinds: `distinct`, experts of a layer that have a token where `size` requests decode one each;
`share`, tokens that the most popular experts of a layer get, these being `size` of all. Popularity is lognormal: of
each model that `spread` which makes the squares of log(predicted / counted) least, and of all models its mean. Prints
them, and how far each model's counts are from what the mean of the others says, beside what alike experts would have.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.optimize import minimize_scalar

from costmodel.workload.popularity import LEARNED, RoutingLaw, expert_probabilities
from reports.page import read_rows

MOST = 5.0  # the largest spread that is tried
Row = Mapping[str, str]


def predicted(row: Row, spread: float) -> float:
    """Return a count of a row: n requests meet sum(1 - (1-p)^n) experts; a share is that of the largest chances."""
    experts, top_k, size = int(row["experts"]), int(row["top_k"]), float(row["size"])
    chances = np.sort(expert_probabilities(RoutingLaw(LEARNED, top_k), experts, spread))[::-1]
    if row["quantity"] == "distinct":
        return float(np.sum(1.0 - (1.0 - np.minimum(chances, 1.0)) ** size))
    cumulated = np.concatenate([[0.0], np.cumsum(chances)]) / top_k
    return float(np.interp(size * experts, np.arange(experts + 1), cumulated))


def errors(rows: Sequence[Row], spread: float) -> list[float]:
    """Return log(predicted / counted) of rows."""
    return [float(np.log(predicted(row, spread) / float(row["value"]))) for row in rows]


def fitted(rows: Sequence[Row]) -> float:
    """Return the spread of one model's rows, each source of them counting once."""
    sources = sorted({row["source"] for row in rows})
    groups = [[row for row in rows if row["source"] == name] for name in sources]

    def badness(spread: float) -> float:
        return fmean(fmean(each**2 for each in errors(group, spread)) for group in groups)

    return float(minimize_scalar(badness, bounds=(0.0, MOST), method="bounded").x)


def of_models(rows: Sequence[Row]) -> dict[str, float]:
    """Return the spread of each model."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    return {name: fitted([row for row in rows if row["model"] == name]) for name in names}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the spreads of models and their mean."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    rows = read_rows(Path(path))
    spreads = of_models(rows)
    sys.stdout.write(f"{'model':<22}{'spread':>8}{'others':>9}{'by them':>9}{'alike':>9}\n")
    for name, spread in spreads.items():
        own = [row for row in rows if row["model"] == name]
        others = fmean(each for other, each in spreads.items() if other != name)
        found = [fmean(abs(np.expm1(each)) for each in errors(own, at)) for at in (others, 0.0)]
        sys.stdout.write(f"{name:<22}{spread:8.2f}{others:9.2f}{found[0]:9.1%}{found[1]:9.1%}\n")
    sys.stdout.write(f"mean {fmean(spreads.values()):.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
