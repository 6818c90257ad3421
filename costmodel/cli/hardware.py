"""`costmodel hardware`: devices, nodes, clusters, frameworks and their sources."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
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

    found = {kind: list_names(kind, search_path) for kind in KINDS}
    if as_json:
        print_json(found)
        return 0
    from costmodel.calibration.fit_files import basis_of
    from costmodel.report.hardware import show_hardware
    from costmodel.schema.files import load_document

    documents = {kind: [load_document(kind, name, search_path) for name in found[kind]] for kind in KINDS}
    show_hardware(documents, {name: basis_of(name, search_path) for name in found["devices"]})
    return 0


@command.command("show")
@click.argument("name", shell_complete=names(*KINDS))
@json_option
@path_option
def show_command(name: str, as_json: bool, search_path: tuple[str, ...]) -> int:
    """Show a device, node, cluster or framework: every value with its source; of a cluster also what it costs."""
    from costmodel.errors import InputError
    from costmodel.schema.files import list_names, load_cluster, load_document
    from costmodel.schema.references import suggest

    kinds = [kind for kind in KINDS if name.removeprefix(f"{kind}/") in list_names(kind, search_path)]
    if not kinds:
        known = [found for kind in KINDS for found in list_names(kind, search_path)]
        raise InputError.single(f"no device, node, cluster or framework `{name}`", hint=suggest(name, known))
    document, counted = load_document(kinds[0], name, search_path), {}
    if kinds[0] == "clusters":
        from costmodel.analytic.capital import facts

        counted = facts(load_cluster(name, search_path))
    if as_json:
        print_json(document | counted)
        return 0
    from costmodel.report.catalogue import show_document
    from costmodel.report.hardware import show_cost

    show_document(document)
    if counted:
        show_cost(counted)
    return 0
