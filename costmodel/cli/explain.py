"""`costmodel explain`: one operator in full."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json, read_changes, set_option


@click.command("explain")
@click.argument("workload")
@click.option("--op", "operator", metavar="NAME", help="The operator; without it all are listed.")
@click.option("--scenario", metavar="NAME", help="The scenario (default: the first).")
@click.option("--cluster", metavar="NAME", help="Stand in for the scenario's cluster.")
@set_option
@json_option
@path_option
def command(
    workload: str,
    operator: str | None,
    scenario: str | None,
    cluster: str | None,
    changes: tuple[str, ...],
    as_json: bool,
    search_path: tuple[str, ...],
) -> int:
    """Show formula, inputs, numbers, bound and basis of one operator of WORKLOAD, or list its operators."""
    from costmodel.api import load
    from costmodel.report import explain

    loaded = load(workload, set=read_changes(changes), cluster=cluster, search_path=search_path)
    name = scenario or loaded.scenarios[0]
    if operator is not None:
        explanation = explain.explain(loaded, name, operator)
        if as_json:
            print_json(explanation.document())
        else:
            explain.show_explanation(explanation)
    elif as_json:
        found = explain.operators(loaded, name)
        print_json(
            [{"name": each.operator.name, "time": float(each.time.seconds), "bound": each.time.bound} for each in found]
        )
    else:
        explain.show_operators(loaded, name)
    return 0
