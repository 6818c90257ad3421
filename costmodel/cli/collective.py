"""`costmodel collective`: one collective or expert exchange by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from costmodel.cli.completion import names
from costmodel.cli.options import json_option, path_option, print_json, read_changes, set_option

if TYPE_CHECKING:
    from costmodel.analytic.messages import Asked

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
    from costmodel.analytic.messages import answer
    from costmodel.calibration.load import load_calibration
    from costmodel.calibration.roofline import default_framework
    from costmodel.schema.files import load_cluster

    asked = _asked(kind, ranks, size, model, search_path)
    found = load_cluster(cluster, search_path, devices=float(max(ranks, 1)), changes=read_changes(changes))
    framework = default_framework(search_path)
    calibration = load_calibration(found.device, framework, search_path)
    told = answer(asked, found, calibration, framework, engine)
    if as_json:
        print_json(told.document())
        return 0
    from costmodel.report.network import show_answer

    show_answer(told, found)
    return 0


def _asked(kind: str, ranks: int, size: str, model: str, search_path: tuple[str, ...]) -> Asked:
    """Return what the arguments ask for."""
    from costmodel.analytic.messages import EXCHANGES, Asked, routing_of
    from costmodel.errors import InputError
    from costmodel.network.payload import PAYLOADS, payload_bytes
    from costmodel.schema.files import load_model
    from costmodel.units import parse

    name, _, rest = kind.partition(":")
    said: dict[str, Any] = {}
    for option in filter(None, rest.split(",")):
        key, equals, value = option.partition("=")
        if equals and key in ("chunks", "stride", "groups", "seed"):
            if not value.isdecimal() or (key in ("stride", "groups") and int(value) < 1):
                raise InputError.single(f"{option!r} is no whole number", hint=f"write {key}=8")
            said[key] = int(value)
        elif option in PAYLOADS and name in EXCHANGES:
            said["element"] = float(payload_bytes(option))
        elif option == "low_latency" and name in EXCHANGES:
            said["mode"] = option
        elif option == "in_network" and name in EXCHANGES:
            said["in_network"] = True
        elif not equals and name not in EXCHANGES and "algorithm" not in said:
            said["algorithm"] = option
        else:
            raise InputError.single(f"{name} has no option {option!r}", hint="see `costmodel collective --help`")
    wide = float(payload_bytes("bf16"))
    buffer = parse(size, "size")
    if name in EXCHANGES:
        said["routing"] = routing_of(load_model(model, search_path))
        buffer *= said.get("element", wide) / wide
    if buffer < 0:
        raise InputError.single(f"{size!r} is negative", hint="write --size 64MiB")
    return Asked(name, ranks, buffer, **said)
