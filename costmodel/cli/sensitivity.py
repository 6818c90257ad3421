"""`costmodel sensitivity`: the effect of each hardware parameter on a metric."""

from __future__ import annotations

import click

from costmodel.cli.completion import metrics, names
from costmodel.cli.options import Asked, json_option, print_json, workload_options
from costmodel.errors import InputError


@click.command("sensitivity")
@click.argument("workload", shell_complete=names("workloads", "models", files=True))
@click.option(
    "--metric",
    metavar="NAME",
    shell_complete=metrics,
    help="Metric to examine, such as step_time or tpot. Default: that of the first scenario's answer.",
)
@workload_options()
@json_option
def command(*, asked: Asked, metric: str | None, as_json: bool) -> int:
    """Rank the bandwidths, peaks, latencies, clocks and capacities of the hardware by their effect on a metric.

    Each is evaluated with 10 % more and 10 % less of it (whole numbers stay whole). Those come first of which a better
    part changes the metric most. An elasticity of -0.4 means: 1 % more of the parameter reduces the metric by 0.4 %.
    """
    from costmodel.analytic.model_start import PHASES as MODEL_PHASES
    from costmodel.analytic.model_start import default_phases
    from costmodel.errors import suggest
    from costmodel.result import PHASES
    from costmodel.schema.metrics import unit_of
    from costmodel.schema.model_names import is_model
    from costmodel.study.sensitivity import SCHEMA, sensitivities

    starts = default_phases(asked.workload, asked.search_path) if is_model(asked.workload, asked.search_path) else ()
    defaults = [phase for phase in starts if metric is None or metric in PHASES[phase][1]]
    others = [phase for phase in MODEL_PHASES if metric in PHASES[phase][1]]
    loaded = asked.load(phases=tuple(defaults or others[:1]))
    metric = metric or PHASES[loaded.scenario(next(iter(loaded.scenarios))).result_kind][0]
    metrics = {name: PHASES[loaded.scenario(name).result_kind][1] for name in loaded.scenarios}
    with_metric = [name for name, available in metrics.items() if metric in available]
    if not with_metric:
        available = sorted({name for names in metrics.values() for name in names})
        hint = suggest(metric, available)
        raise InputError.single(f"no scenario has the metric {metric!r}", hint=hint, field="--metric")
    by_scenario = {name: sensitivities(loaded, name, metric) for name in with_metric}
    if as_json:
        rows = {name: [row.document() for row in rows] for name, rows in by_scenario.items()}
        print_json({"schema": SCHEMA, **loaded.asked(), "metric": metric, "unit": unit_of(metric), "scenarios": rows})
    else:
        from costmodel.report.sensitivity import show_sensitivities

        show_sensitivities(loaded.resolved, metric, by_scenario)
    return 0
