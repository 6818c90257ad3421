"""What a run of the harness left, for people."""

from __future__ import annotations

from pathlib import Path

from costmodel.profiling.running import ProfileRun
from costmodel.report.page import show

_SHOWN = 3  # failed kernels that are told


def show_run(found: ProfileRun, output: Path) -> None:
    """Print how much was measured, what failed, and what to do with the table."""
    more = f", {found.left:,} more would follow" if found.left else ""
    show(f"{found.new:,} new rows of {found.device}, {found.rows:,} in {output}{more}")
    for row, reason in list(found.failed.items())[:_SHOWN]:
        show(f"{row}: {reason}", "dim")
    if len(found.failed) > _SHOWN:
        show(f"{len(found.failed):,} kernels cannot run here; {output.with_suffix('.json').name} names them", "dim")
    path = "" if found.device_file is None else f" --path {output.with_suffix('')}"
    folder = f"{output.with_suffix('')}/hardware/calibrations/{found.device}"
    show(f"costmodel calibrate {output} --device {found.device} --output {folder}/torch.yaml{path}")
