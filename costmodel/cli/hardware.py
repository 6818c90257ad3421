"""`costmodel hardware`: devices, nodes, clusters, frameworks and their sources."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json

KINDS = ("devices", "nodes", "clusters", "frameworks")


@click.group("hardware")
def command() -> None:
    """List devices, nodes and clusters, or show one with its sources."""


@command.command("list")
@json_option
@path_option
def list_command(as_json: bool, search_path: tuple[str, ...]) -> int:
    """List what is on the search path."""
    from costmodel.schema.files import list_names

    names = {kind: list_names(kind, search_path) for kind in KINDS}
    if as_json:
        print_json(names)
    else:
        for kind, found in names.items():
            click.echo(f"{kind}: {', '.join(found)}")
    return 0


@command.command("show")
@click.argument("name")
@json_option
@path_option
def show_command(name: str, as_json: bool, search_path: tuple[str, ...]) -> int:
    """Show a device, node, cluster or framework: every value with its source."""
    from costmodel.errors import InputError
    from costmodel.report.catalogue import show_document
    from costmodel.schema.files import list_names, load_document
    from costmodel.schema.references import near

    kinds = [kind for kind in KINDS if name.removeprefix(f"{kind}/") in list_names(kind, search_path)]
    if not kinds:
        known = [found for kind in KINDS for found in list_names(kind, search_path)]
        raise InputError.single(f"no device, node, cluster or framework `{name}`", hint=near(name, known))
    document = load_document(kinds[0], name, search_path)
    if as_json:
        print_json(document)
    else:
        show_document(document)
    return 0
