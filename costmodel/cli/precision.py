"""`costmodel precision`: the named sets of number formats and their sources."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import json_option, path_option, print_json


@click.group("precision")
def command() -> None:
    """List the sets of number formats that a scenario's `precision` may name, or show one with its sources."""


@command.command("list")
@json_option
@path_option
def list_command(*, as_json: bool, search_path: tuple[str, ...]) -> int:
    """List all sets of number formats on the search path."""
    from costmodel.schema.files import list_names, load_document

    listed = list_names("precisions", search_path)
    if as_json:
        print_json(listed)
        return 0
    from costmodel.report.hardware import show_precisions

    show_precisions([load_document("precisions", name, search_path) for name in listed])
    return 0


@command.command("show")
@click.argument("name", shell_complete=names("precisions"))
@json_option
@path_option
def show_command(*, name: str, as_json: bool, search_path: tuple[str, ...]) -> int:
    """Show a set of number formats with the source of every value."""
    from costmodel.errors import InputError, suggest
    from costmodel.schema.files import list_names, load_document

    listed = list_names("precisions", search_path)
    chosen = name.removeprefix("precisions/")
    if chosen not in listed:
        raise InputError.single(f"unknown set of number formats `{name}`", hint=suggest(chosen, listed))
    document = load_document("precisions", chosen, search_path)
    if as_json:
        print_json(document)
        return 0
    from costmodel.report.hardware import show_document

    show_document(document)
    return 0
