"""`costmodel reproduce`: published figures beside predictions."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json
from costmodel.errors import InputError


@click.command("reproduce")
@click.argument("cases", nargs=-1, metavar="[FILE|ID]...")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only cases of this class. Repeatable.")
@click.option("--leave-out", is_flag=True, help="Fit frameworks' terms without the publication that is compared.")
@json_option
@path_option
def command(
    cases: tuple[str, ...], classes: tuple[str, ...], leave_out: bool, as_json: bool, search_path: tuple[str, ...]
) -> int:
    """Hold predictions against published figures: those of FILEs, of case IDs, or all that ship."""
    from costmodel.study.reproduce import load_cases, reproduce, summarise, summarise_publications

    chosen, unread = load_cases(cases, search_path, classes)
    if leave_out:
        from costmodel.study.end_to_end import left_out

        without = left_out(chosen, search_path)
        comparisons, problems = reproduce(chosen, search_path, without.changes, without.widening)
    else:
        comparisons, problems = reproduce(chosen, search_path)
    if as_json:
        print_json([one.document() for one in comparisons])
    else:
        from costmodel.report.comparisons import show_comparisons

        show_comparisons(comparisons, summarise(comparisons), summarise_publications(comparisons))
    for problem in (*unread, *problems):
        click.echo(problem, err=True)
    return InputError.exit_code if unread or problems else 0
