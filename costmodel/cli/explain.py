"""`costmodel explain`: one operator, metric, wait or part of memory in full."""

from __future__ import annotations

import click

from costmodel.cli.completion import names, operators
from costmodel.cli.options import Asked, json_option, print_json, workload_options
from costmodel.errors import InfeasibleError
from costmodel.records import asdict


@click.command("explain")
@click.argument("workload", shell_complete=names("workloads", files=True))
@click.option(
    "--op",
    "operator",
    metavar="NAME",
    shell_complete=operators,
    help="An operator or a line of the list, a metric, a part of memory or a term; without it all are listed.",
)
@workload_options()
@json_option
def command(*, asked: Asked, operator: str | None, as_json: bool) -> int:
    """Show equation, file, numbers, bound and basis of an operator, a wait, a metric or a part of memory of WORKLOAD.

    Equations are those of the code: each is printed with the file and line of the function that computes it.

    WORKLOAD may be a model, with --cluster. Of several scenarios the first is explained, unless --scenario names one. A
    scenario that does not fit in memory is explained as if it did. It says so, and exits with 3.
    """
    from costmodel.report import explain
    from costmodel.result import stored_line
    from costmodel.workload.operators import base_name

    loaded, name = asked.load_one()
    refused = explain.refused(loaded, name)
    code = 0 if refused is None else InfeasibleError.exit_code
    said = {"reason": refused, "note": explain.engine_note(loaded, name)}
    head = {"workload": loaded.name, "scenario": name, **{key: text for key, text in said.items() if text is not None}}
    again = f"{asked.arguments} --scenario {name}" if asked.scenarios else asked.arguments
    if operator is None:
        lines, routing = explain.lines(loaded, name), explain.routing(loaded, name)
        names = explain.names_of(loaded, name)
        if as_json:
            listed = {"operators": [asdict(line) for line in lines], **names}
            print_json({**head, **({} if routing is None else {"routing": routing}), **listed})
        else:
            from costmodel.report.operators import show_lines, show_refused

            show_refused(**said)
            show_lines(lines, again, names, routing, name)
        return code
    shown = explain.explain(loaded, name, stored_line(operator))
    if as_json:
        print_json({**head, "operators": [each.document() for each in shown]})
    else:
        from costmodel.report.operators import show_explanations, show_refused

        show_refused(**said)
        line = next((line for line in explain.lines(loaded, name) if line.name == base_name(shown[0].name)), None)
        show_explanations(shown, line, again, name)
    return code
