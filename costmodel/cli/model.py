"""`costmodel model`: models and what can be counted of them."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import json_option, path_option, print_json


@click.group("model")
def command() -> None:
    """List models, or show one with what can be counted of it."""


@command.command("list")
@json_option
@path_option
def list_command(as_json: bool, search_path: tuple[str, ...]) -> int:
    """List the models on the search path."""
    from costmodel.schema.files import list_names

    names = list_names("models", search_path)
    if as_json:
        print_json(names)
    else:
        click.echo("\n".join(names))
    return 0


@command.command("show")
@click.argument("name", shell_complete=names("models", files=True))
@json_option
@path_option
def show_command(name: str, as_json: bool, search_path: tuple[str, ...]) -> int:
    """Show a model: parameters, KV cache, FLOP a token, layers, sources."""
    from costmodel.api import architecture_facts
    from costmodel.report.catalogue import show_model
    from costmodel.schema.files import load_document, load_model

    facts = architecture_facts(load_model(name, search_path))
    document = load_document("models", name, search_path)
    if as_json:
        print_json({**facts, "file": document})
    else:
        show_model(facts, document)
    return 0
