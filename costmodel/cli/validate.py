"""`costmodel validate`: every problem of files."""

from __future__ import annotations

import click

from costmodel.cli.options import path_option
from costmodel.errors import InputError


@click.command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@path_option
def command(files: tuple[str, ...], search_path: tuple[str, ...]) -> int:
    """Report every problem of FILES and of the files they name, as file:line:column: field: problem; fix."""
    from costmodel.schema.files import validate

    problems = dict.fromkeys(str(problem) for file in files for problem in validate(file, search_path))
    for problem in problems:  # one that several files name is told once
        click.echo(problem)
    if not problems:
        click.echo(f"{len(files)} file{'s' if len(files) > 1 else ''} without problems")
    return InputError.exit_code if problems else 0
