"""Plans against a table of published runs.

python -m benchmarks.published_plans inferencex.csv [--questions 30] [--seed 0]

A question is a device, a model, lengths and the time of a token of a run on the front of those measured: no other is
both as fast and as cheap. Of one pool without drafts, whose acceptance the table does not state. The planner rates all
layouts of the engines and number formats that were published there, each in the release whose runs were the best, at
numbers of users up to the most that were, as it does for a plan.
Printed: whether the configuration that was measured best is among its first three or within a tenth of its first, of
all layouts and of those that were measured, and how far the rate that it promises of its first is from the best one.
A rate at a given time of a token is further off than one at a given number of users, of which both are functions.
"""

from __future__ import annotations

import csv
import math
import random
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import median

import click
import numpy as np

from costmodel.analytic.evaluation import evaluate
from costmodel.planning.request import PlanRequest
from costmodel.planning.sizing import layouts_of
from costmodel.planning.structures import HEAD, SCENARIO, Structure, structures
from costmodel.quantities import Array
from costmodel.study.layouts import divisors
from costmodel.workload.validity import feasible_layout
from reports.serving import framework

NODES = {"h100": "dgx-h100", "h200": "hgx-h200", "b200": "hgx-b200", "b300": "hgx-b300", "mi300x": "mi300x-x8",
         "mi325x": "mi325x-x8"}  # fmt: skip
MODELS = {"dsr1": "deepseek-r1", "gptoss": "gpt-oss-120b"}
FORMATS = {("dsr1", "fp4"): "nvfp4"}  # else the checkpoint's own
NEAR, FIRST, BAR = 0.9, 3, 0.12  # of the first's rate, places, and error of the first's rate
STEP = 1.04  # between numbers of users
Row = dict[str, str]
Choice = tuple[str, str | None, int, int, int]  # engine, number format, ranks of tensors, of data, of experts
Rates = dict[Choice, tuple[Array, Array]]  # times of a token [s] and rates [1/s] of a device, of numbers of users


def choice(row: Row) -> Choice:
    """Return the configuration of a row, attention data parallel over the ranks of its engine where it says so."""
    ranks, apart = int(row["decode_tp"]), row["decode_dpa"] == "1"
    degrees = (1, ranks) if apart else (ranks, 1)
    return (framework(row), FORMATS.get((row["model"], row["precision"])), *degrees, int(row["decode_ep"]))


def tpot(row: Row) -> float:
    """Return the median time of a token [s]."""
    return 1e-3 * float(row["tpot_median_ms"])


def rate(row: Row) -> float:
    """Return the output tokens a second and device: those of both kinds, of which answers are their share."""
    lengths = float(row["isl_mean"]), float(row["osl_mean"])
    return float(row["total_tok_s_gpu"]) * lengths[1] / sum(lengths)


def front(rows: list[Row]) -> list[Row]:
    """Return the rows than which none has as short tokens and a higher rate."""
    return [one for one in rows if not any(tpot(each) <= tpot(one) and rate(each) > rate(one) for each in rows)]


def releases(rows: list[Row], limit: float) -> set[tuple[str, str | None]]:
    """Return the engines and formats of rows, each engine in the release of its best run within a time of a token."""
    best: dict[tuple[str, str | None], Row] = {}
    for row in sorted(rows, key=lambda one: (tpot(one) > limit, -rate(one))):
        best.setdefault((row["framework"], choice(row)[1]), row)
    return {choice(row)[:2] for row in best.values()}


def rated(structure: Structure, users: Array) -> Rates:
    """Return the time of a token, infinite where it does not fit, and the rate of each layout at all users."""
    layouts = layouts_of(structure, divisors(int(np.max(structure.scenario.cluster.node.count))))
    space = layouts.select(np.flatnonzero(layouts.columns["parallel.pp"] == 1.0)).columns
    size = len(space["parallel.pp"])
    columns = {name: np.repeat(own, len(users)) for name, own in space.items()}
    columns["concurrency"] = np.ceil(np.tile(users, size) / columns["parallel.dp"])
    scenario, _ = structure.workload.varied(SCENARIO, {tuple(HEAD + name for name in columns): tuple(columns.values())})
    evaluation = evaluate(scenario, structure.workload.calibration(scenario))
    assert evaluation.ledger is not None
    metrics = evaluation.metrics(None)
    fits = feasible_layout(scenario) & (evaluation.ledger.total <= scenario.cluster.device.device_memory.capacity)
    times = np.where(fits, np.asarray(metrics["tpot"]), np.inf).reshape(size, -1)
    rates = np.broadcast_to(np.asarray(metrics["tokens_per_second_per_device"]), times.size).reshape(size, -1)
    known: Rates = {}
    for at in range(size):
        tp, dp, ep = (int(space[f"parallel.{name}"][at]) for name in ("tp", "dp", "ep"))
        known[structure.framework, structure.precision, tp, dp, ep] = times[at], rates[at]
    return known


@cache
def answered(
    cluster: str, model: str, lengths: tuple[int, int], engine: str, precision: str | None, most: int
) -> Rates:
    """Return what the planner says of all layouts of an engine in a number format, of up to so many users."""
    of_engine = ((f"{HEAD}framework", engine),)
    request = PlanRequest(model=model, clusters=(cluster,), users=1, isl=lengths[0], osl=lengths[1], changes=of_engine)
    users = np.unique(np.rint(STEP ** np.arange(math.log(most, STEP) + 0.5)))
    known: Rates = {}
    for structure in structures(request, cluster, []):
        if structure.precision == precision and not structure.choices:
            known |= rated(structure, users)
    return known


def shown(one: Choice) -> str:
    """Return a configuration in words."""
    engine, precision, tp, dp, ep = one
    return f"{engine} {precision or 'own format'} TP {tp} DP {dp} EP {ep}"


@click.command()
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--questions", default=30, show_default=True, help="How many are drawn, all where there are fewer.")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
def main(table: Path, questions: int, seed: int) -> None:
    """Print a line for each question, then the sums."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    with table.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["disagg"] == "0" and row["mtp"] == "none" and not row["flag"]:
                groups[row["gpu"], row["model"], row["isl"], row["osl"]].append(row)
    asked = [(key, row) for key, rows in groups.items() for row in front(rows)]
    drawn = sorted(random.Random(seed).sample(asked, min(questions, len(asked))), key=lambda one: one[0])
    found, among, errors, own_errors = 0, 0, [], []
    for key, row in drawn:
        lengths, group = (round(float(row["isl_mean"])), round(float(row["osl_mean"]))), groups[key]
        place = f"nodes/{NODES[row['gpu']]}", MODELS[row["model"]], lengths
        most = max(int(each["concurrency"]) for each in group)
        known: Rates = {}
        for engine, precision in releases(group, tpot(row)):
            known |= answered(*place, engine, precision, most)
        best = {one: float(np.max(np.where(times <= tpot(row), rates, 0.0))) for one, (times, rates) in known.items()}
        order = sorted(best, key=lambda one: -best[one])
        first, own = order[0], best.get(choice(row), 0.0)
        rank = 1 + sum(value > own for value in best.values())
        near = own > 0.0 and (rank <= FIRST or own >= NEAR * best[first])
        found += near
        ran = {choice(each) for each in group}
        among += 0.0 < own >= NEAR * max(value for one, value in best.items() if one in ran)
        errors.append(best[first] / rate(row) - 1.0)
        own_errors.append(own / rate(row) - 1.0)
        missed = "" if near else " MISSED"
        click.echo(
            f"{' '.join(key)} {1e3 * tpot(row):6.2f} ms: {shown(choice(row))} measured {rate(row):.0f}, promised "
            f"{own:.0f}, place {rank}{missed}; first {shown(first)} {best[first]:.0f} ({errors[-1]:+.0%})"
        )
    within, middle = sum(abs(error) <= BAR for error in errors), median(map(abs, errors))
    click.echo(
        f"among the first {FIRST}, or within {1.0 - NEAR:.0%} of the first: {found} of {len(drawn)}\n"
        f"within {1.0 - NEAR:.0%} of the first of the configurations that were measured there: {among}\n"
        f"rate of the first within {BAR:.0%} of the one measured best: {within}, median error {middle:.0%}; of that "
        f"configuration itself {median(map(abs, own_errors)):.0%}"
    )


if __name__ == "__main__":
    main()
