"""How measured times of whole published runs scatter about predicted ones: `hardware/calibrations/composition.yaml`.

python -m reports.fits.composition --output hardware

Every publication is compared with predictions whose terms were fitted without it (`reports.fits.frameworks` first).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from costmodel import units
from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.intervals import TIMES, TRIED, deviations, shares_of_conditions
from costmodel.calibration.fit_files import CALIBRATIONS
from costmodel.errors import CostModelError
from costmodel.records import replace
from costmodel.schema.case import Case
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.end_to_end import left_out
from costmodel.study.published.predictions import predict, proportional_metric
from costmodel.study.published.provenance import IN_SAMPLE, Dependence, dependences, state_of
from costmodel.study.published.reproduce import group_of, load_cases
from reports.fits.run_scatter import (
    RunError,
    Scales,
    coverage,
    marked,
    scales_of,
    tried,
    with_classes,
)

CLASSES = ("training", "inference", "serving")
FILE, REFITS = "calibrations/composition.yaml", "fit_plans/composition.json"
FAMILY = "composition_"
MOST = 60  # cases of a publication


def rows_of(cases: Sequence[Case], library: Library) -> Iterator[RunError]:
    """Yield a row for each value of a whole run that no fit of whole runs rests on; nothing for what fails.

    Of a publication's cases `MOST` are taken, evenly: publications weigh the same, however many figures they have.
    """
    used = chosen(cases)
    without = left_out(used, [str(root) for root in library.roots[:-1]])
    for case in used:
        changed = replace(case, overrides={**case.overrides, **without.changes.get(case.id, {})})
        try:
            yield from _rows(changed, library, without.refitted.fields)
        except CostModelError:  # `reproduce` says so
            continue


def chosen(cases: Sequence[Case], classes: Sequence[str] = CLASSES, most: int = MOST) -> list[Case]:
    """Return the whole runs that were read at their source, at most so many of each class and publication, evenly."""
    by_publication: dict[tuple[str | None, str], list[Case]] = {}
    for case in cases:
        if case.skip is None and case.scenario is not None and case.case_class in classes and case.source.verified:
            by_publication.setdefault((case.case_class, case.publication), []).append(case)
    return [
        of[at]
        for of in by_publication.values()
        for at in sorted({round(each) for each in np.linspace(0, len(of) - 1, min(most, len(of))).tolist()})
    ]


def _rows(case: Case, library: Library, refitted: frozenset[str]) -> Iterator[RunError]:
    prediction = predict(case, library.roots, library)
    if prediction.workload is None or prediction.infeasible or not case.expect:
        return
    scenario = prediction.scenario
    evaluation = evaluate(scenario, prediction.workload.calibration(scenario))
    kernels = deviations(evaluation.metrics(None), evaluation.families(), evaluation.metrics)
    met = shares_of_conditions(scenario, evaluation.operators())
    shares = {name: float(share) for name, share in met.items()}
    found = dependences(case, prediction, library)
    for expected in case.expect:
        metric = proportional_metric(expected.metric)
        value = prediction.value(expected.metric, case.conventions).value
        if expected.check != "value" or not isinstance(expected.value, float) or not value or metric not in kernels:
            continue
        by_fit = [one for one in found if not one.is_choice]
        if not is_evidence(case, expected.metric, by_fit, refitted):
            continue
        centre, down, up = kernels[metric]
        late = math.log(expected.value / value) - centre
        if metric not in TIMES:
            late, down, up = -late, up, down
        first = {"first_token": float(metric == "ttft" and scenario.plan.phase == "serving")}
        yield RunError(
            str(case.case_class), case.publication, group_of(case, expected.metric), late, down, up, shares | first,
            scenario.cluster.device.architecture, not is_evidence(case, expected.metric, found, refitted),
        )  # fmt: skip


def is_evidence(case: Case, metric: str, found: Sequence[Dependence], refitted: frozenset[str]) -> bool:
    """Tell whether a figure says how whole runs scatter beside their kernels.

    One whose kernels were fitted to rows of its own repository does, if less than others; one that a whole-run term
    rests on does not.
    """
    state = state_of(case, metric, found, refitted)
    return state.name != IN_SAMPLE or all(place.startswith(CALIBRATIONS) for place in state.because)


def without_each(rows: Sequence[RunError]) -> dict[str, Scales]:
    """Return the scales that leave out one publication, by its name."""
    names = sorted({row.publication for row in rows})
    found = {name: scales_of([row for row in rows if row.publication != name]) for name in names}
    return {name: with_classes(scales, rows) for name, scales in found.items()}


def render(rows: Sequence[RunError], scales: Scales) -> str:
    """Return the text of the calibration file."""
    lines = [
        "schema: costmodel/calibration@1",
        "name: composition",
        "device: null",
        "basis: fitted",
        "families:                                        # measured over predicted times of whole runs",
    ]
    for name, width in scales.classes.items():
        of = [row for row in rows if row.case_class == name]
        lines += _family(name, width, of, "")
    for name, width in scales.conditions.items():
        of = [row for row in rows if row.shares.get(name, 0.0) > 0.0]
        lines += _family(name, width, of, ", at a share of one; what is added in quadrature")
    lines += _family("kernels", scales.kernels, rows, ": the share of their kernels' intervals that runs show")
    for name in tried(row for row in rows if not row.is_seen):
        of = [row for row in rows if row.case_class == "training" and row.architecture == name]
        lines += _family(TRIED.removeprefix(FAMILY) + name, 0.0, of, ", whose training steps were compared")
    publications = sorted({row.publication for row in rows})
    lines += [
        "sources:",
        "  - fields: [families]",
        '    cite: "the published cases of the catalogue: workloads/published"',
        "    kind: derived",
        f"    rests_on: [{', '.join(publications)}]",
        "    note: >-",
        "      What a run of a publication that was never seen adds to the interval of its kernels. Made by",
        "      `python -m reports.fits.composition --output hardware`.",
    ]
    return "\n".join(lines) + "\n"


def _family(name: str, width: float, rows: Sequence[RunError], more: str) -> Iterator[str]:
    low, high = (float(f"{math.exp(side * width):.4g}") for side in (-1.0, 1.0))
    publications = len({row.publication for row in rows})
    yield f"  {FAMILY}{name}:"
    yield (
        f"    spread: [{{time: {units.render(1.0, 'time')}, low: {low:g}, median: 1, high: {high:g}, "
        f"rows: {len(rows)}}}]"
    )
    yield f"    rows: {len(rows)}"
    yield f'    note: "{len(rows)} figures of {publications} publications{more}"'


def document(found: Mapping[str, Scales]) -> dict[str, Any]:
    """Return scales by publication as JSON, each half-width in logs, under the names of their families."""
    return {
        name: {
            f"{FAMILY}{key}": float(f"{width:.4g}")
            for key, width in {**one.classes, **one.conditions, "kernels": one.kernels}.items()
        }
        for name, one in found.items()
    }  # fmt: skip


def held(rows: Sequence[RunError], found: Mapping[str, Scales]) -> Iterator[str]:
    """Yield how many figures the intervals hold that leave out each publication, by class and by publication."""
    for name in CLASSES:
        of = [row for row in rows if row.case_class == name]
        names = sorted({row.publication for row in of})
        shares = {each: coverage([row for row in of if row.publication == each], found[each]) for each in names}
        if shares:
            yield f"{name}: {sum(shares.values()) / len(shares):.0%} of publications' figures"
            yield from (f"  {each}: {share:.0%}" for each, share in shares.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare all published cases; write the calibration file, and beside the fit plan what leaves out each one."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.composition", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder `hardware` to write into")
    chosen = parser.parse_args(arguments)
    rows = list(rows_of(load_cases([])[0], Library()))
    _write(chosen.output, rows, scales_of(rows), without_each(rows))


def _write(folder: Path, rows: Sequence[RunError], scales: Scales, without: Mapping[str, Scales]) -> None:
    text = render(marked(rows), scales)
    unseen = marked([row for row in rows if not row.is_seen])
    write_whole(folder / FILE, [text.encode("utf-8")])
    write_whole(folder / REFITS, [(json.dumps(document(without), indent=1) + "\n").encode()])
    sys.stdout.write(text + "\n".join(held(unseen, without)) + "\n")


if __name__ == "__main__":
    main()
