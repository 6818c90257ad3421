"""`costmodel calibrate`: fits the kernel times of a device."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import json_option, output_option, path_option, print_json


@click.command("calibrate")
@click.argument("measurements", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MEASUREMENTS...")
@click.option("--device", required=True, metavar="NAME", help="Device name, as in hardware/devices.")
@output_option("FILE", "Calibration file to write (.yaml); missing folders are created.")
@json_option
@path_option
def command(
    *, measurements: tuple[Path, ...], device: str, output: Path, as_json: bool, search_path: tuple[str, ...]
) -> int:
    """Fit the kernel times of a device to MEASUREMENTS and print the errors on held-out rows.

    Each operator family and number format with enough rows gets its own fit. Residuals are written next to FILE as
    .json. Put both files in hardware/calibrations/DEVICE on your search path and name them in the device file's
    `calibration: {default: …}`, or in a framework's `implementations`.
    """
    from costmodel.fitting.calibrate import calibrate

    run = calibrate(measurements, device.removeprefix("devices/"), output, search_path)
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
