"""`costmodel hardware`: devices, nodes, clusters, frameworks and their sources."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import json_option, path_option, print_json

KINDS = ("devices", "nodes", "clusters", "frameworks")


@click.group("hardware")
def command() -> None:
    """List devices, nodes, clusters and frameworks, or show one with its sources."""


@command.command("list")
@json_option
@path_option
def list_command(*, as_json: bool, search_path: tuple[str, ...]) -> int:
    """List all devices, nodes, clusters and frameworks on the search path."""
    from costmodel.schema.files import list_names

    listed = {kind: list_names(kind, search_path) for kind in KINDS}
    if as_json:
        print_json(listed)
        return 0
    from costmodel.calibration.fit_files import basis_of
    from costmodel.report.hardware import show_hardware
    from costmodel.schema.files import load_document

    documents = {kind: [load_document(kind, name, search_path) for name in listed[kind]] for kind in KINDS}
    show_hardware(documents, {name: basis_of(name, search_path) for name in listed["devices"]})
    return 0


@command.command("show")
@click.argument("name", shell_complete=names(*KINDS))
@json_option
@path_option
def show_command(*, name: str, as_json: bool, search_path: tuple[str, ...]) -> int:
    """Show a device, node, cluster or framework, by name or file, with the source of every value. For a cluster, also
    its cost.
    """
    from costmodel.errors import InputError, available, did_you_mean
    from costmodel.schema.files import list_names, load_cluster, load_document
    from costmodel.schema.hardware_names import called, nearest
    from costmodel.schema.references import Library, kind_of_file

    listed = {kind: list_names(kind, search_path) for kind in KINDS}
    kind = next((kind for kind in KINDS if name.removeprefix(f"{kind}/") in listed[kind]), kind_of_file(name))
    meant = called(name, Library(search_path)) if kind is None else None
    if meant is not None:
        kind, name = "nodes", meant[0]
    if kind not in KINDS:
        names = [name for kind in KINDS for name in listed[kind]]
        hint = did_you_mean(name, names) or nearest(name, Library(search_path)) or available(names)
        raise InputError.single(f"unknown device, node, cluster or framework `{name}`", hint=hint)
    document, cost = load_document(kind, name, search_path), {}
    if kind == "clusters":
        from costmodel.analytic.capital import facts

        cost = facts(load_cluster(name, search_path))
    if as_json:
        print_json(document | cost)
        return 0
    from costmodel.report.hardware import show_cost, show_document

    show_document(document)
    if cost:
        show_cost(cost)
    return 0
