"""`costmodel schema`: the JSON Schema of a kind of file."""

from __future__ import annotations

import click

from costmodel.cli.completion import words
from costmodel.cli.init import EXAMPLES, unknown
from costmodel.cli.options import print_json


@click.command("schema")
@click.argument("kind", shell_complete=words(list(EXAMPLES)))
def command(kind: str) -> int:
    """Print the JSON Schema of a KIND of file: device, node, cluster, framework, model, workload, case ..."""
    from costmodel.schema.export import json_schema
    from costmodel.schema.files import FILES

    if kind not in FILES:
        raise unknown(kind, FILES)
    print_json(json_schema(kind))
    return 0
