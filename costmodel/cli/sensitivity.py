"""`costmodel sensitivity`: how a metric follows every number of the hardware."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json, read_changes, set_option
from costmodel.errors import InputError


@click.command("sensitivity")
@click.argument("workload")
@click.option("--metric", required=True, metavar="NAME", help="Metric of the scenarios, such as step_time or tpot.")
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Only this scenario; repeatable.")
@click.option("--cluster", metavar="NAME", help="Stand in for every scenario's cluster.")
@set_option
@json_option
@path_option
def command(
    workload: str,
    metric: str,
    scenarios: tuple[str, ...],
    cluster: str | None,
    changes: tuple[str, ...],
    as_json: bool,
    search_path: tuple[str, ...],
) -> int:
    """Rank the bandwidths, peaks, latencies, clocks and capacities of WORKLOAD's hardware by what they do to a metric.

    An elasticity of -0.4 means: one per cent more of it, 0.4 % less of the metric.
    """
    from costmodel.api import load
    from costmodel.result import PHASES
    from costmodel.schema.metrics import unit_of
    from costmodel.schema.references import suggest
    from costmodel.study.sensitivity import SCHEMA, sensitivities

    loaded = load(
        workload, set=read_changes(changes), cluster=cluster, search_path=search_path, scenarios=scenarios or None
    )
    metrics = {name: PHASES[loaded.scenario(name).result_kind][1] for name in loaded.scenarios}
    having = [name for name, known in metrics.items() if metric in known]
    if not having:
        known = sorted({name for names in metrics.values() for name in names})
        raise InputError.single(f"no scenario has the metric {metric!r}", hint=suggest(metric, known), field="--metric")
    found = {name: sensitivities(loaded, name, metric) for name in having}
    if as_json:
        rows = {name: [row.document() for row in each] for name, each in found.items()}
        print_json({"schema": SCHEMA, **loaded.asked(), "metric": metric, "unit": unit_of(metric), "scenarios": rows})
    else:
        from costmodel.report.studies import show_sensitivities

        show_sensitivities(loaded.resolved, metric, found)
    return 0
