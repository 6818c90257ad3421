"""`costmodel init`: example files to start from."""

from __future__ import annotations

from collections.abc import Iterable

import click

from costmodel.cli.completion import words
from costmodel.cli.options import path_option
from costmodel.errors import InputError

# Kind of file -> the shipped file that shows it: complete, commented and valid.
EXAMPLES = {
    "device": ("devices", "h100-sxm"), "node": ("nodes", "dgx-h100"), "cluster": ("clusters", "h800-2048-mpft"),
    "framework": ("frameworks", "default"), "precision": ("precisions", "bf16"),
    "calibration": ("calibrations", "roofline"), "model": ("models", "llama-3-8b"),
    "workload": ("workloads", "deepseek_v3"), "case": ("published", "deepseek_profile"),
    "what_if": ("what_ifs", "deepseek_v3_gap"), "study": ("studies", "deepseek_v3_decode"),
    "fit_plan": ("fit_plans", "public"), "topology": ("topologies", "mpft"), "validation": ("validations", "public"),
    "anchor": ("anchors", "selene-2022"), "site_scatter": ("calibrations", "site_scatter"),
    "effects": ("calibrations", "effects"), "relatives": ("calibrations", "relatives"),
    "kernel_anchors": ("calibrations", "kernel_anchors"), "lever": ("levers", "insights_deepseek_v3"),
}  # fmt: skip

_TABLES = "measurement tables are CSV files: docs/measurements.md lists their columns, `costmodel profile` writes one"


def unknown_kind(kind: str, kinds: Iterable[str]) -> InputError:
    """Return the error for a kind of file that does not exist. kinds: the available ones."""
    from costmodel.errors import suggest

    hint = _TABLES if kind.startswith("measurement") else suggest(kind, list(kinds))
    return InputError.single(f"unknown kind of file `{kind}`", hint=hint)


@click.command("init")
@click.argument("kind", shell_complete=words(list(EXAMPLES)))
@click.option(
    "--from", "source", type=click.Path(), metavar="PATH",
    help="For a model: a Hugging Face config.json, or its folder.",
)  # fmt: skip
@click.option("--as", "chosen", metavar="FAMILY", help="With --from: the family whose keys the config.json has.")
@click.option("--model", metavar="NAME", help="For a workload: the model that it runs.")
@click.option(
    "--cluster",
    "clusters",
    multiple=True,
    metavar="NAME",
    help="With --model: clusters/NAME, nodes/NAME, or as 8xH100. Repeatable.",
)
@click.option("--phase", "phases", multiple=True, metavar="PHASE", help="With --model: a phase to run. Repeatable.")
@path_option
def command(
    *, kind: str, source: str | None, chosen: str | None, model: str | None, clusters: tuple[str, ...],
    phases: tuple[str, ...], search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Print a complete, valid example of KIND to start from. `costmodel schema KIND` lists all keys."""
    from costmodel.schema.references import Library

    if kind not in EXAMPLES:
        raise unknown_kind(kind, EXAMPLES)
    if model is not None or clusters or phases:
        return _init_workload(kind, model, clusters, phases, search_path)
    if source is None:
        folder, name = EXAMPLES[kind]
        click.echo(f"# yaml-language-server: $schema=./{kind}.schema.json")
        click.echo(f"# To start from: the shipped {folder}/{name}. All keys, for editors as well: "
                   f"`costmodel schema {kind} > {kind}.schema.json`.")  # fmt: skip
        click.echo(Library().find(name, folder).read_text(encoding="utf-8"), nl=False)
        return 0
    if kind != "model":
        raise InputError.single(
            f"--from imports a model, not a {kind}", hint="write `costmodel init model --from PATH`"
        )
    from costmodel.schema.files import imported_yaml

    text, notes = imported_yaml(source, chosen)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(text, nl=False)
    return 0


def _init_workload(
    kind: str, model: str | None, clusters: tuple[str, ...], phases: tuple[str, ...], search_path: tuple[str, ...]
) -> int:
    """Print the smallest workload of a model on clusters."""
    if kind != "workload" or model is None or not clusters:
        raise InputError.single(
            "--model, --cluster and --phase make a workload",
            hint="write `costmodel init workload --model NAME --cluster nodes/dgx-h100`",
        )
    from costmodel.analytic.model_start import start_workload

    start = start_workload(model, clusters, phases, search_path)
    for line in start.lines:
        click.echo(f"note: {line}", err=True)
    click.echo(start.text, nl=False)
    return 0
