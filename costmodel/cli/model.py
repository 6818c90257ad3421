"""`costmodel model`: models and their parameters, KV cache and FLOPs."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import json_option, path_option, print_json
from costmodel.errors import InputError


@click.group("model")
def command() -> None:
    """List models, or show the parameters, KV cache and FLOPs of one."""


@command.command("list")
@click.option("--support", is_flag=True, help="List instead the families of config.json that are read, with the count.")
@json_option
@path_option
def list_command(*, support: bool, as_json: bool, search_path: tuple[str, ...]) -> int:
    """List the models on the search path with their sizes (with --json, names only)."""
    from costmodel.schema.files import list_names, read_models

    if support:
        return _list_support(as_json=as_json)
    if as_json:
        print_json(list_names("models", search_path))
        return 0
    from costmodel.report.models import show_models

    models, problems = read_models(search_path)
    show_models(models)
    for problem in problems:
        click.echo(problem, err=True)
    return InputError.exit_code if problems else 0


def _list_support(*, as_json: bool) -> int:
    from costmodel.schema.model_support import support

    document = support()
    if as_json:
        print_json(document)
        return 0
    from costmodel.report.models import show_support

    show_support(document)
    return 0


@command.command("show")
@click.argument("name", shell_complete=names("models", files=True))
@click.option("--as", "chosen", metavar="FAMILY", help="Read a config.json as one of this family.")
@json_option
@path_option
def show_command(*, name: str, chosen: str | None, as_json: bool, search_path: tuple[str, ...]) -> int:
    """Show a model: parameters, KV cache, FLOPs per token, layers, sources.

    NAME is a model on the search path, a model file, a Hugging Face config.json, or the folder that contains one.
    """
    from costmodel.schema.files import read_model
    from costmodel.workload.counting import architecture_facts

    model = read_model(name, search_path, chosen)
    facts = architecture_facts(model.architecture)
    if as_json:
        print_json({**facts, "file": model.document, **({"notes": list(model.notes)} if model.notes else {})})
        return 0
    from costmodel.report.models import show_model

    show_model(facts, model)
    return 0
