"""`costmodel validate`: every problem of input files."""

from __future__ import annotations

import click

from costmodel.cli.options import path_option
from costmodel.errors import InputError


@click.command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@path_option
def command(files: tuple[str, ...], search_path: tuple[str, ...]) -> int:
    """Check FILES, or shipped workloads by name, and the files they refer to.

    Studies, what-ifs and fit plans are planned too, without evaluating anything. Prints one line per problem:
    file:line:column: field: problem; fix.
    """
    from costmodel.study.checking import check_file

    problems = dict.fromkeys(str(problem) for file in files for problem in check_file(file, search_path))
    for problem in problems:
        click.echo(problem)
    if not problems:
        click.echo(f"{len(files)} file{'s' if len(files) > 1 else ''} checked, no problems found")
    return InputError.exit_code if problems else 0
