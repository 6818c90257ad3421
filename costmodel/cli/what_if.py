"""`costmodel what-if`: what changes of hardware and software are worth."""

from __future__ import annotations

import click

from costmodel.cli import completion
from costmodel.cli.options import Asked, json_option, print_json, workload_options
from costmodel.errors import InputError


@click.command("what-if")
@click.argument("workload", required=False, shell_complete=completion.names("workloads", "models", files=True))
@click.option(
    "--levers", "source", default="insights_deepseek_v3", metavar="FILE|NAME", show_default=True,
    help="The changes: a name under workloads/levers or workloads/what_ifs, or a file of your own.",
)  # fmt: skip
@click.option("--lever", "names", multiple=True, metavar="NAME", help="Only this lever. Repeatable.")
@workload_options()
@json_option
def command(*, asked: Asked, source: str, names: tuple[str, ...], as_json: bool) -> int:
    """Show what each change of a list would save: alone, after those above it, and at most.

    The ceiling is bounded without the model: by the largest factor that the change has, and by the time of the lines
    that it can touch. Without WORKLOAD the levers are listed, each with its switches, its path or the reason why it has
    none: those of "Insights into DeepSeek-V3" unless `--levers` names others.
    """
    from costmodel.cli.progress import progress
    from costmodel.report.what_if import show_levers, show_worths
    from costmodel.study.levers import hypothetical, levers_of, switches, worths_of
    from costmodel.study.what_if import SCHEMA

    file = levers_of(source, asked.search_path)
    switches(file, names)  # raises on an unknown name
    if not asked.workload:
        if asked.scenarios or asked.changes or asked.clusters or asked.phases:
            raise InputError.single("a list of levers has no scenario", hint="name a WORKLOAD")
        if as_json:
            print_json({"schema": SCHEMA, "title": file.title, "levers": [one.model_dump() for one in file.levers]})
        else:
            show_levers(file)
        return 0
    loaded = asked.load()
    by_scenario = {}
    with hypothetical(loaded, source), progress("what-if", len(loaded.scenarios)) as on_progress:
        for done, name in enumerate(loaded.scenarios):
            by_scenario[name] = worths_of(loaded, name, file, names, lambda share, done=done: on_progress(done + share))  # type: ignore[misc]
    if as_json:
        rows = {name: [row.document() for row in rows] for name, rows in by_scenario.items()}
        print_json({"schema": SCHEMA, **loaded.asked(), "levers": source, "scenarios": rows})
    else:
        show_worths(by_scenario)
    return 0
