"""Whether `sustained_slowdown` is better as several numbers: by kind of kernel or by device, without each publication.

python -m reports.fits.slowdown_split

Fits factors on the time of kinds of kernels to the published training runs of the fit plan, all together and without
each publication, and prints how far the runs of the publication left out are off. One evaluation a run: the step is
linear in its kernels' times.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from costmodel.analytic.evaluation import evaluate
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.schema.case import Case
from costmodel.schema.references import Library
from costmodel.study.end_to_end import read_terms
from costmodel.study.predictions import UTILISATIONS, Prediction, predict
from costmodel.study.reproduce import load_cases
from costmodel.study.weights import weights_of
from costmodel.workload.operators import AttentionKernel, Elementwise, Operator

TERM = "framework.sustained_slowdown"
COMPOSED = "vtrain_single"  # begins the ids of steps that their source composed of measured parts
MOST = 24  # runs of a publication
SOFT, PULL = 0.1, 0.02  # errors beyond count less; what figures do not determine stays where it is
ROUNDS = 50
PRODUCT, NARROW, ATTENTION, ELEMENTWISE = KINDS = ("products", "FP8 products", "attention", "element-wise")


class Runs(Record):
    """Published runs. gaps: log of predicted over published time; shares: of the step, by `KINDS`; devices: of each."""

    publications: tuple[str, ...]
    devices: tuple[str, ...]
    gaps: Array
    shares: Array


def kind_of(operator: Operator) -> str | None:
    """Return the kind of a kernel, null for messages."""
    if isinstance(operator, Elementwise):
        return ELEMENTWISE
    if isinstance(operator, AttentionKernel):
        return ATTENTION
    dtype = getattr(operator, "dtype", None)
    return None if dtype is None else NARROW if str(dtype).startswith("fp8") else PRODUCT


def shares_of(prediction: Prediction) -> list[float]:
    """Return the share of a step's time that goes with each kind of kernel, with its part of the bubble.

    share = t_kind * (1 + bubble / (step - bubble)) / step
    """
    assert prediction.workload is not None
    assert prediction.point is not None
    scenario = prediction.scenario
    evaluation = evaluate(scenario, prediction.workload.calibration(scenario))
    kinds = {timed.operator.name: kind_of(timed.operator) for timed in evaluation.operators()}
    times = dict.fromkeys(KINDS, 0.0)
    for line in prediction.point.breakdown:
        kind = kinds.get(line.name.removesuffix(" gradient"), kinds.get(line.name))
        if kind is not None:
            times[kind] += line.time
    step, bubble = (prediction.point.metrics[name] or 0.0 for name in ("step_time", "bubble_time"))
    return [times[kind] / (step - bubble) for kind in KINDS]


def runs_of(cases: Sequence[Case], library: Library) -> Runs:
    """Return the runs that have a time, a rate or a utilisation, at most `MOST` of a publication."""
    by_publication: dict[str, list[Case]] = {}
    for case in cases:
        by_publication.setdefault(case.publication, []).append(case)
    rows: list[tuple[str, str, float, list[float]]] = []
    for publication, found in by_publication.items():
        places = {round(each) for each in np.linspace(0, len(found) - 1, min(MOST, len(found))).tolist()}
        for case in (found[place] for place in sorted(places)):
            row = _row(of_one_number(case), library)
            if row is not None:
                rows.append((publication, *row))
    publications, devices, gaps, shares = zip(*rows, strict=True)
    return Runs(publications, devices, np.array(gaps), np.array(shares))


def of_one_number(case: Case) -> Case:
    """Return a case whose framework has `sustained_slowdown` for all kernels."""
    path = f"scenarios.{case.scenario_name}.framework.attention_slowdown"
    return replace(case, overrides={**case.overrides, path: None})


def _row(case: Case, library: Library) -> tuple[str, float, list[float]] | None:
    """Return device, gap and shares of a run; null where it predicts nothing to compare."""
    try:
        prediction = predict(case, library.roots, library)
        if prediction.point is None or prediction.infeasible:
            return None
        for expected in case.expect:
            sign = 1.0 if expected.metric == "step_time" else -1.0
            known = (*UTILISATIONS, "step_time", "tokens_per_second_per_device")
            if expected.check == "value" and isinstance(expected.value, float) and expected.metric in known:
                value = prediction.value(expected.metric, case.conventions).value
                if value:
                    gap = sign * math.log(value / expected.value)
                    return prediction.scenario.cluster.device.name, gap, shares_of(prediction)
    except CostModelError:  # `reproduce` says so
        return None
    return None


def splits(runs: Runs) -> Mapping[str, Array]:
    """Return the columns of each way to split the number: a share of the step for each factor."""
    is_a100 = np.array([device.startswith("a100") for device in runs.devices])
    total = runs.shares.sum(axis=1)
    apart = {
        f"{name} apart": np.stack([total - runs.shares[:, at], runs.shares[:, at]], axis=1)
        for at, name in enumerate(KINDS)
        if at
    }
    both = [runs.shares * where[:, None] for where in (~is_a100, is_a100)]
    return {
        "one number": total[:, None],
        **apart,
        "each kind": runs.shares,
        "A100 apart": np.stack([total * ~is_a100, total * is_a100], axis=1),
        "each kind on A100 and others": np.concatenate(both, axis=1),
    }


def fit(columns: Array, gaps: Array, weights: Array) -> Array:
    """Return the logs of the factors of least robust squares of gap + columns . log, held near zero."""
    logs: Array = np.zeros(columns.shape[1])
    for _ in range(ROUNDS):
        weighed = columns * (weights / np.sqrt(1.0 + ((gaps + columns @ logs) / SOFT) ** 2))[:, None]
        logs = np.asarray(
            -np.linalg.solve(weighed.T @ columns + PULL * np.eye(len(logs)), weighed.T @ gaps), dtype=float
        )
    return logs


def left_out(runs: Runs, columns: Array) -> dict[str, float]:
    """Return the mean absolute error of each publication's runs with the factors fitted without it."""
    names = np.array(runs.publications)
    errors = {}
    for name in dict.fromkeys(runs.publications):
        rest, own = names != name, names == name
        weights = weights_of([str(each) for each in names[rest]], runs.gaps[rest].tolist())
        logs = fit(columns[rest], runs.gaps[rest], weights)
        errors[name] = float(np.mean(np.abs(np.exp(runs.gaps[own] + columns[own] @ logs) - 1.0)))
    return errors


def lines(runs: Runs, stated: float) -> Iterator[str]:
    """Yield a line for each split: its factors, and errors without each publication."""
    for name, columns in splits(runs).items():
        factors = stated * np.exp(fit(columns, runs.gaps, weights_of(runs.publications, runs.gaps.tolist())))
        errors = left_out(runs, columns)
        shown = ", ".join(f"{each} {100 * error:.1f}" for each, error in errors.items())
        yield (
            f"{name}: {', '.join(f'{factor:.3f}' for factor in factors)}; left out "
            f"{100 * np.mean(list(errors.values())):.2f} % ({shown})"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print errors of publications left out, with one slowdown of all kernels and with several."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.slowdown_split", description=main.__doc__)
    parser.parse_args(arguments)
    library = Library()
    term = next(term for term in read_terms(library) if term.path == TERM)
    cases = [
        case
        for case in load_cases([])[0]
        if case.publication in term.publications and case.case_class == "training" and case.skip is None
        and not case.id.startswith(COMPOSED)
    ]  # fmt: skip
    stated = library_value(cases[0], library)
    for line in lines(runs_of(cases, library), stated):
        sys.stdout.write(line + "\n")


def library_value(case: Case, library: Library) -> float:
    """Return the slowdown that a run's framework states."""
    return float(predict(case, library.roots, library).scenario.framework.sustained_slowdown)


if __name__ == "__main__":
    main()
