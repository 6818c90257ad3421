"""`costmodel reproduce`: published figures beside predictions."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json

BAD_INPUT = 2


@click.command("reproduce")
@click.argument("cases", nargs=-1, metavar="[FILE|ID]...")
@json_option
@path_option
def command(cases: tuple[str, ...], as_json: bool, search_path: tuple[str, ...]) -> int:
    """Hold predictions against published figures: those of FILEs, of case IDs, or all that ship."""
    from costmodel.study.reproduce import load_cases, reproduce, summarise

    comparisons, errors = reproduce(load_cases(cases, search_path), search_path)
    if as_json:
        print_json([one.document() for one in comparisons])
    else:
        from costmodel.report.comparisons import show_comparisons

        show_comparisons(comparisons, summarise(comparisons))
    for error in errors:
        click.echo(error, err=True)
    return BAD_INPUT if errors else 0
