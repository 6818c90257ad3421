"""`costmodel profile`: measures the kernels of this machine."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import path_option


@click.command("profile")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", help="What to measure.")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Kernels to time; repeatable. Default: all.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True,
    help="Time after which no kernel begins.",
)  # fmt: skip
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Table to write, .csv; makes its folders.",
)
@path_option
def command(device: str, suites: tuple[str, ...], minutes: float, output: Path, search_path: tuple[str, ...]) -> int:
    """Time kernels of this machine with torch, the most informative first, into a table that `calibrate` reads.

    Suites: copies, gemm, grouped_gemm, attention, mla, moe, elementwise, optimizer, launch; under torchrun collectives.
    The same command goes on where an earlier run, or a kill, has left the table. A device that no file describes gets
    one below a folder of the table's name, to name as --path.
    """
    from costmodel.calibration.unmeasured_width import device_names, half_widths
    from costmodel.cli.progress import progress
    from costmodel.profiling.running import SECONDS, ProfileRequest, run
    from costmodel.report.profiling import show_run

    own = (*search_path, str(output.with_suffix("")))
    asked = ProfileRequest(device, suites, minutes * SECONDS, output)
    with progress("measuring") as tell:
        found = run(asked, device_names(search_path), lambda rows: half_widths(rows, own), tell)
    if found.writes:
        show_run(found, output)
    return 0
