"""`costmodel explain`: one operator in full."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import asked, json_option, path_option, print_json, read_changes, set_option


@click.command("explain")
@click.argument("workload", shell_complete=names("workloads", files=True))
@click.option("--op", "operator", metavar="NAME", help="An operator or a line of the list; without it all are listed.")
@click.option("--scenario", metavar="NAME", help="The scenario (default: the first).")
@click.option(
    "--cluster",
    metavar="NAME",
    shell_complete=names("clusters", "nodes", qualified=True),
    help="Stand in for the scenario's cluster.",
)
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
    from dataclasses import asdict

    from costmodel.api import load
    from costmodel.report import explain

    chosen = None if scenario is None else [scenario]
    loaded = load(workload, set=read_changes(changes), cluster=cluster, search_path=search_path, scenarios=chosen)
    for note in loaded.resolved.notes:
        click.echo(f"note: {note}", err=True)
    name = loaded.scenarios[0]
    head = {"workload": loaded.name, "scenario": name}
    if operator is None:
        lines, routing = explain.lines(loaded, name), explain.routing(loaded, name)
        if as_json:
            listed = {"operators": [asdict(line) for line in lines]}
            print_json({**head, **({} if routing is None else {"routing": routing}), **listed})
        else:
            from costmodel.report.operators import show_lines

            again = asked(workload, cluster, changes, search_path)
            show_lines(lines, f"{again} --scenario {name}" if scenario else again, routing)
        return 0
    found = explain.explain(loaded, name, operator)
    if as_json:
        print_json({**head, "operators": [each.document() for each in found]})
    else:
        from costmodel.report.operators import show_explanations

        show_explanations(found)
    return 0
