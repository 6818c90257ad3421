"""`costmodel calibrate`: fits of a device's kernels."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import path_option


@click.command("calibrate")
@click.argument("measurements", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MEASUREMENTS...")
@click.option("--device", required=True, metavar="NAME", help="The device, as hardware/devices names it.")
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="File to write, .yaml.")
@path_option
def command(measurements: tuple[Path, ...], device: str, output: Path, search_path: tuple[str, ...]) -> int:
    """Fit the kernels of a device to MEASUREMENTS and print the errors on rows that a fit has not seen.

    The residuals stand beside FILE, as .json. Put both under hardware/calibrations/DEVICE of a search path and name
    them in the device file's `calibration: {default: …}`, or in a framework's `implementations`.
    """
    from costmodel.calibration.fits import calibrate, report

    outcome = calibrate(measurements, device.removeprefix("devices/"), output, search_path)
    report(outcome, click.echo)
    return 0
