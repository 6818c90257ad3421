"""`costmodel collective`: a single collective or expert exchange."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import common_options, print_json, read_changes
from costmodel.errors import InputError

ENGINES = ("analytic", "flow")
MODEL = "deepseek-v3"


@click.command("collective")
@click.argument("kind", metavar="KIND[:OPTION,…]")
@click.option(
    "--cluster", "clusters", required=True, multiple=True, metavar="NAME",
    shell_complete=names("clusters", "nodes", qualified=True), help="clusters/NAME, nodes/NAME, or as 8xH100.",
)  # fmt: skip
@click.option(
    "--ranks", required=True, type=int, metavar="N",
    help="Number of participating devices: within one node, or a whole number of nodes.",
)  # fmt: skip
@click.option("--size", required=True, metavar="S", help="Total buffer size as in nccl-tests, e.g. 64MiB.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default="analytic", show_default=True,
    help="analytic: closed form; flow: flow-level network simulation.",
)  # fmt: skip
@click.option(
    "--model", default=MODEL, show_default=True, metavar="NAME", shell_complete=names("models", files=True),
    help="Model whose experts are used for dispatch and combine.",
)  # fmt: skip
@common_options
def command(
    *, kind: str, clusters: tuple[str, ...], ranks: int, size: str, engine: str, model: str, changes: tuple[str, ...],
    as_json: bool, search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Predict a collective of KIND: all_reduce, all_gather, reduce_scatter, broadcast, all_to_all, send_recv, dispatch
    or combine.

    Options follow a colon: an algorithm (ring, hierarchical, halving_doubling, tree, in_switch, multicast, direct),
    chunks=N, stride=N (distance between nodes), groups=N (concurrent groups), seed=N (for ECMP hashing), framework=NAME
    (such as vllm, which has an all-reduce of its own). For dispatch and combine also a payload format (bf16, fp8,
    logfmt8, logfmt10), low_latency, in_network. For dispatch and combine, S is the size of one rank's tokens in 16-bit
    format.
    """
    from costmodel.report.equations import Chain, traced
    from costmodel.study.messages import answered, read_message

    cluster, *others = clusters
    if others:
        raise InputError.single("is given twice", hint="ask for one cluster at a time", field="--cluster")
    request = read_message(kind, ranks, size, model, search_path)
    with traced() as calls:
        answer, on_cluster = answered(request, cluster, engine, read_changes(changes), search_path)
    blocks = next(iter(Chain(calls).derivations("time", answer.time, "time")), ())
    if as_json:
        print_json({**answer.document(), "blocks": [block.document() for block in blocks]})
        return 0
    from costmodel.report.hardware import show_collective

    show_collective(answer, on_cluster, blocks)
    return 0
