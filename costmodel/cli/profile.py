"""`costmodel profile`: measures the kernels of this machine."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import output_option, path_option


@click.command("profile")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", help="Device to measure.")
@click.option(
    "--suite", "suites", multiple=True, metavar="NAME", help="Suite to time. Repeatable. Default: all suites."
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True,
    help="Start no new kernel after this many minutes.",
)  # fmt: skip
@output_option("FILE", "Table to write (.csv); missing folders are created.")
@path_option
def command(device: str, suites: tuple[str, ...], minutes: float, output: Path, search_path: tuple[str, ...]) -> int:
    """Time kernels on this machine with PyTorch, most informative first, and write a table for `calibrate`.

    Suites: copies, gemm, grouped_gemm, attention, mla, moe, elementwise, optimizer, launch; under torchrun collectives.
    Run the same command again to continue after an interruption. If no device file describes this machine, one is
    written to a folder named after the table; pass that folder as --path.
    """
    from costmodel.calibration.unmeasured_width import device_names, half_widths
    from costmodel.cli.progress import progress
    from costmodel.profiling.running import SECONDS, ProfileRequest, run
    from costmodel.report.profiling import show_run

    folders = (*search_path, str(output.with_suffix("")))
    request = ProfileRequest(device, suites, minutes * SECONDS, output)
    with progress("measuring") as on_progress:
        result = run(request, device_names(search_path), lambda rows: half_widths(rows, folders), on_progress)
    if result.writes:
        show_run(result, output)
    return 0
