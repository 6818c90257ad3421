"""The terminal view of a profiling run."""

from __future__ import annotations

from pathlib import Path

from costmodel.profiling.failures import passes
from costmodel.profiling.running import ProfileRun
from costmodel.report.page import show

_SHOWN = 3  # failed kernels that are listed


def show_run(run: ProfileRun, output: Path) -> None:
    """Print how much was measured, what failed, and the command that uses the table."""
    more = f"; {run.left:,} more kernels could be measured" if run.left else ""
    show(f"{run.new:,} new rows of {run.device}, {run.rows:,} in {output}{more}")
    if run.new:
        show(f"{100 * run.timing:.0f} % of the time was spent on timed series", "dim")
    for row, reason in list(run.failed.items())[:_SHOWN]:
        show(f"{row}: {reason}", "dim")
    if run.failed:
        listed = output.with_suffix(".failed.jsonl").name
        later = sum(map(passes, run.failed.values()))
        show(
            f"{len(run.failed):,} kernels could not run on this machine: the next run tries {later:,} of them again, "
            f"which lacked memory or a capture; delete {listed} to try all", "dim",
        )  # fmt: skip
    if run.uncaptured:
        row, reason = next(iter(run.uncaptured.items()))
        show(f"{len(run.uncaptured):,} rows have no time in a graph, such as {row}: {reason}", "dim")
    folder = output.with_suffix("")
    path = "" if run.device_file is None else f" --path {folder}"
    calibration = f"{folder}/hardware/calibrations/{run.device}/torch.yaml"
    show(f"costmodel calibrate {output} --device {run.device} --output {calibration}{path}")
