"""`costmodel profile`: measures the kernels of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["bf16", "fp8", "fp4", "fp16", "fp32"]),
    help="Number format to time. Repeatable. Default: bf16, fp8, fp4 as the GPU has them, fp32 and bf16 on a CPU.",
)
@click.option(
    "--for", "workloads", multiple=True, metavar="WORKLOAD",
    help="Time first what makes the intervals of this workload wide. Repeatable.",
)  # fmt: skip
@click.option("--sustained", is_flag=True, help="First run loads of seconds: the clock held under the power limit.")
@click.option(
    "--archive", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Also pack table, report and device file into one .zip to take to another machine.",
)  # fmt: skip
@output_option("FILE", "Table to write (.csv); missing folders are created.")
@path_option
def command(**options: Any) -> int:
    """Time kernels on this machine with PyTorch, most informative first, and write a table for `calibrate`.

    Suites: copies, gemm, grouped_gemm, attention, mla, moe, elementwise, optimizer, launch. Under torchrun collectives.
    `--suite designed`: five kernels of each family alone, which move what other devices lend the most. Run the same
    command again to continue after an interruption. Kernels that cannot run here are listed at the end and left out of
    later runs. If no device file describes this machine, one is written to a folder named after the table. Pass that
    folder as --path.
    """
    from costmodel.api import load
    from costmodel.calibration.unmeasured_width import device_names, half_widths
    from costmodel.cli.progress import progress
    from costmodel.profiling.archive import write_archive
    from costmodel.profiling.running import SECONDS, ProfileRequest, run
    from costmodel.report.profiling import show_run
    from costmodel.study.time_sensitivity import half_widths_by_family

    output, search_path, archive = options["output"], options["search_path"], options["archive"]
    folders = (*search_path, str(output.with_suffix("")))
    request = ProfileRequest(
        options["device"], options["suites"], options["minutes"] * SECONDS, output,
        dtypes=options["dtypes"], sustained=options["sustained"],
    )  # fmt: skip
    families = half_widths_by_family([load(name, search_path=search_path) for name in options["workloads"]])
    with progress("measuring") as on_progress:
        result = run(request, device_names(search_path), lambda rows: half_widths(rows, folders, families), on_progress)
    if result.writes:
        if archive is not None:
            write_archive(archive, output)
        show_run(result, output)
    return 0
