"""`costmodel calibrate`: fits the kernel times of a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from costmodel.cli.options import json_option, output_option, path_option, print_json
from costmodel.errors import InputError


@click.command("calibrate")
@click.argument("measurements", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MEASUREMENTS...")
@click.option("--device", metavar="NAME", help="Device name, as in hardware/devices; required without --run.")
@click.option(
    "--framework",
    metavar="NAME",
    help="Fit times as under this framework: inside a graph where its engine replays graphs. Default: one by one.",
)
@click.option("--run", "of_runs", is_flag=True, help="MEASUREMENTS are of whole runs; write an anchor file of them.")
@output_option("FILE", "Calibration file to write (.yaml); missing folders are created.")
@json_option
@path_option
def command(*, measurements: tuple[Path, ...], device: str | None, of_runs: bool, **options: Any) -> int:
    """Fit the kernel times of a device to MEASUREMENTS and print the errors on held-out rows.

    Each operator family and number format with enough rows gets its own fit. Residuals are written next to FILE as
    .json. Put both files in hardware/calibrations/DEVICE on your search path and name them in the device file's
    `calibration: {default: …}`, or in a framework's `implementations`.

    With --run, MEASUREMENTS are workloads whose scenarios state a measured value (`anchor: {metric: step_time, value:
    12.3 s}`), a workload and benchmarks of its server (`vllm bench serve --save-result`, SGLang's bench_serving,
    genai-perf, AIPerf, /metrics as text), or files of training cases. FILE then moves and narrows predictions of
    scenarios that name it as their `anchor`.
    """
    output, search_path, as_json = options["output"], options["search_path"], options["as_json"]
    if of_runs:
        return _anchor(measurements, output, search_path, as_json=as_json)
    if device is None:
        raise InputError.single("is missing", hint="name the device that was measured", field="--device")
    from costmodel.fitting.calibrate import calibrate

    run = calibrate(measurements, device.removeprefix("devices/"), output, search_path, options["framework"])
    if as_json:
        print_json(run.document())
        return 0
    from costmodel.report.page import show
    from costmodel.report.scores import show_exclusions, show_fits, show_use

    show_fits(run)
    show()
    show_exclusions(run.left_out)
    show()
    show_use(run, output)
    return 0


def _anchor(runs: tuple[Path, ...], output: Path, search_path: tuple[str, ...], *, as_json: bool) -> int:
    from costmodel.study.anchoring import anchor_site

    site = anchor_site(runs, output, search_path)
    if as_json:
        print_json(site.document())
    else:
        from costmodel.report.scores import show_site

        show_site(site, output)
    return 0
