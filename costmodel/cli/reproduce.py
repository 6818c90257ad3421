"""`costmodel reproduce`: published figures beside predictions."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json
from costmodel.errors import InputError


@click.command("reproduce")
@click.argument("cases", nargs=-1, metavar="[FILE|ID]...")
@json_option
@path_option
def command(cases: tuple[str, ...], as_json: bool, search_path: tuple[str, ...]) -> int:
    """Hold predictions against published figures: those of FILEs, of case IDs, or all that ship."""
    from costmodel.study.reproduce import load_cases, reproduce, summarise

    chosen, unread = load_cases(cases, search_path)
    comparisons, problems = reproduce(chosen, search_path)
    if as_json:
        print_json([one.document() for one in comparisons])
    else:
        from costmodel.report.comparisons import show_comparisons

        show_comparisons(comparisons, summarise(comparisons))
    for problem in (*unread, *problems):
        click.echo(problem, err=True)
    return InputError.exit_code if unread or problems else 0
