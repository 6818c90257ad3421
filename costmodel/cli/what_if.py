"""`costmodel what-if`: what the levers of a publication are worth to a workload."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json, read_changes, scenario_option, set_option
from costmodel.errors import InputError


@click.command("what-if")
@click.argument("workload", required=False)
@scenario_option
@click.option("--lever", "names", multiple=True, metavar="NAME", help="Only this lever. Repeatable, in order.")
@click.option(
    "--levers", "source", default="insights_deepseek_v3", metavar="FILE|NAME", show_default=True,
    help="The levers: a file of your own, or a name under workloads/levers.",
)  # fmt: skip
@click.option("--cumulative", "together", is_flag=True, help="Each on top of those before it, not alone.")
@set_option
@json_option
@path_option
def command(
    *, workload: str | None, scenarios: tuple[str, ...], names: tuple[str, ...], source: str, together: bool,
    changes: tuple[str, ...], as_json: bool, search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Predict what each lever saves of a workload's step, time to first token or time per token.

    Levers are the mechanisms and recommendations of "Insights into DeepSeek-V3" unless `--levers` names others. Without
    WORKLOAD they are listed, each with its path, its switches or the reason why it has none.
    """
    from costmodel.report.levers import show_effects, show_levers
    from costmodel.schema.lever import load_levers
    from costmodel.study.levers import SCHEMA, alone, cumulative, switches

    file = load_levers(source, search_path)
    chosen = [switch.name for switch, _, _ in switches(file, names)]
    if workload is None:
        if scenarios or changes or together:
            raise InputError.single("a list of levers has no scenario", hint="name a WORKLOAD")
        if as_json:
            print_json({"schema": SCHEMA, "title": file.title, "levers": [one.model_dump() for one in file.levers]})
        else:
            show_levers(file)
        return 0
    from costmodel.api import load

    loaded = load(workload, set=read_changes(changes), search_path=search_path, scenarios=scenarios or None)
    found = list((cumulative if together else alone)(loaded, file, chosen))
    if as_json:
        rows = [one.document() for one in found]
        print_json({"schema": SCHEMA, **loaded.asked(), "levers": source, "cumulative": together, "effects": rows})
    else:
        show_effects(found, is_cumulative=together)
    return 0
