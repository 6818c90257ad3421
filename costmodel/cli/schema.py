"""`costmodel schema`: the JSON Schema for a kind of file."""

from __future__ import annotations

import click

from costmodel.cli.completion import words
from costmodel.cli.init import EXAMPLES, unknown_kind
from costmodel.cli.options import print_json


@click.command("schema")
@click.argument("kind", shell_complete=words(list(EXAMPLES)))
def command(kind: str) -> int:
    """Print the JSON Schema for KIND: device, node, cluster, framework, model, workload, case, …"""
    from costmodel.schema.export import json_schema
    from costmodel.schema.files import FILES

    if kind not in FILES:
        raise unknown_kind(kind, FILES)
    print_json(json_schema(kind))
    return 0
