"""How far off published runs of inference are, by device, engine and kind of model: the table that a plan shows.

python -m reports.validation.receipts --output workloads/receipts.csv
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from costmodel.errors import InputError
from costmodel.schema.case import Case, resolve_case
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.reproduce import load_cases
from reports.page import read_rows

PAGES = ("serving", "inference")
COLUMNS = ("device", "framework", "kind", "metric", "state", "runs", "median", "mean")
METRICS = {
    "ttft": "ttft", "tpot": "tpot", "latency": "rate", "tokens_per_second": "rate",
    "tokens_per_second_per_device": "rate", "tokens_per_second_per_user": "rate",
}  # fmt: skip
_RELEASE = re.compile(r"-[0-9]+\.[0-9.]+$")  # of a framework's name
BLIND = ("unseen", "refitted")


def receipts(folder: Path) -> str:
    """Return the table, made of the errors of the pages in a folder. Errors are without what rests on their source."""
    of: dict[tuple[str, ...], list[float]] = {}
    cases, _ = load_cases((), classes=PAGES)
    kinds = {case.id: kind for case in cases for kind in _kinds(case)}
    for page in PAGES:
        for row in read_rows(folder / f"{page}.csv"):
            metric, kind = METRICS.get(row["metric"]), kinds.get(row["id"])
            if metric is None or kind is None or not row["error_left_out"]:
                continue
            state = "blind" if row["state"] in BLIND else "seen"
            of.setdefault((*kind, metric, state), []).append(abs(float(row["error_left_out"])))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key, errors in sorted(of.items()):
        writer.writerow([*key, len(errors), f"{np.median(errors):.4f}", f"{np.mean(errors):.4f}"])
    return table.getvalue()


def _kinds(case: Case) -> Iterator[tuple[str, str, str]]:
    """Yield the device, the engine without its release, and the kind of model of a case that has a scenario."""
    if case.scenario is None or case.skip is not None:
        return
    try:
        scenarios = resolve_case(case, (), Library(())).scenarios.values()
    except InputError:
        return
    for scenario in scenarios:
        kind = "experts" if scenario.architecture.has_experts else "dense"
        yield scenario.cluster.device.name, _RELEASE.sub("", scenario.framework.name), kind


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--pages", type=click.Path(path_type=Path, file_okay=False), default=Path(__file__).parent)
def main(output: Path, pages: Path) -> None:
    """Write the table."""
    write_whole(output, [receipts(pages).encode()])


if __name__ == "__main__":
    main()
