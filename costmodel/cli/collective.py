"""`costmodel collective`: one collective or expert exchange by itself."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import json_option, path_option, print_json, read_changes, set_option

ENGINES = ("analytic", "flow")
MODEL = "deepseek-v3"


@click.command("collective")
@click.argument("kind", metavar="KIND[:OPTION,…]")
@click.option(
    "--cluster",
    required=True,
    metavar="NAME",
    shell_complete=names("clusters", "nodes", qualified=True),
    help="clusters/NAME or nodes/NAME.",
)
@click.option(
    "--ranks", required=True, type=int, metavar="N", help="Devices that take part: of one node, or whole nodes."
)
@click.option("--size", required=True, metavar="S", help="Whole buffer, as nccl-tests counts it: 64MiB.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default="analytic", show_default=True, help="Closed form or flows."
)
@click.option(
    "--model",
    default=MODEL,
    show_default=True,
    metavar="NAME",
    shell_complete=names("models", files=True),
    help="The model whose experts dispatch and combine reach.",
)
@set_option
@json_option
@path_option
def command(
    kind: str,
    cluster: str,
    ranks: int,
    size: str,
    engine: str,
    model: str,
    changes: tuple[str, ...],
    as_json: bool,
    search_path: tuple[str, ...],
) -> int:
    """Predict a collective of KIND: all_reduce, all_gather, reduce_scatter, broadcast, all_to_all, send_recv, dispatch
    or combine.

    Options after a colon: an algorithm (ring, hierarchical, halving_doubling, tree, in_switch, multicast, direct),
    chunks=N, stride=N (nodes apart), groups=N (at the same time), seed=N (of ECMP); for dispatch and combine the
    payload (bf16, fp8, logfmt8, logfmt10), low_latency, in_network. There S is a rank's tokens in 16 bits.
    """
    from costmodel.study.messages import answered, read_message

    asked = read_message(kind, ranks, size, model, search_path)
    told, found = answered(asked, cluster, engine, read_changes(changes), search_path)
    if as_json:
        print_json(told.document())
        return 0
    from costmodel.report.network import show_answer

    show_answer(told, found)
    return 0
