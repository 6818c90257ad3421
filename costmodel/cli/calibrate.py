"""`costmodel calibrate`: fits of a device's kernels."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import json_option, path_option, print_json


@click.command("calibrate")
@click.argument("measurements", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MEASUREMENTS...")
@click.option("--device", required=True, metavar="NAME", help="The device, as hardware/devices names it.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="File to write, .yaml; makes its folders.",
)
@json_option
@path_option
def command(
    measurements: tuple[Path, ...], device: str, output: Path, as_json: bool, search_path: tuple[str, ...]
) -> int:
    """Fit the kernels of a device to MEASUREMENTS and print the errors on rows that a fit has not seen.

    Every operator family and number format with enough rows gets a fit of its own. The residuals stand beside FILE, as
    .json. Put both under hardware/calibrations/DEVICE of a search path and name them in the device file's
    `calibration: {default: …}`, or in a framework's `implementations`.
    """
    from costmodel.fitting.calibrate import calibrate

    found = calibrate(measurements, device.removeprefix("devices/"), output, search_path)
    if as_json:
        print_json(found.document())
    else:
        from costmodel.report.page import show
        from costmodel.report.scores import show_fits, show_omissions, show_use

        show_fits(found)
        show()
        show_omissions(found.left_out)
        show()
        show_use(found, output)
    return 0
