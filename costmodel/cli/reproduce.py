"""`costmodel reproduce`: published results and their predictions."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json
from costmodel.errors import InputError


@click.command("reproduce")
@click.argument("cases", nargs=-1, metavar="[FILE|ID]...")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this class of cases. Repeatable.")
@click.option(
    "--leave-out", "--cross-validate", "leave_out", is_flag=True,
    help="Before each comparison, refit framework parameters without that publication.",
)  # fmt: skip
@json_option
@path_option
def command(
    *, cases: tuple[str, ...], classes: tuple[str, ...], leave_out: bool, as_json: bool, search_path: tuple[str, ...]
) -> int:
    """Compare predictions with published results: all shipped cases, or those in FILE or with ID."""
    from costmodel.study.reproduce import load_cases, reproduce, summarise, summarise_publications

    chosen, unread = load_cases(cases, search_path, classes)
    changes = widening = None
    if leave_out:
        from costmodel.study.end_to_end import left_out

        refitted = left_out(chosen, search_path)
        changes, widening = refitted.changes, refitted.widening
    comparisons, problems = reproduce(chosen, search_path, changes, widening)
    if as_json:
        print_json([comparison.document() for comparison in comparisons])
    else:
        from costmodel.report.reproduce import show_comparisons

        show_comparisons(comparisons, summarise(comparisons), summarise_publications(comparisons))
    for problem in (*unread, *problems):
        click.echo(problem, err=True)
    return InputError.exit_code if unread or problems else 0
