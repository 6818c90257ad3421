"""A search root with one chip, its sibling and a framework, and tables written as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_world import write

from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.tables import Table, read_tables

CHIP = """
schema: costmodel/device@1
name: chip
architecture: test
processors: 100
clock: {tensor_reference: 1 GHz, max: 1 GHz}
math:
  bf16: {peak: 1000 TFLOP/s}
  fp32: {peak: 50 TFLOP/s}
memory:
  - {name: hbm, capacity: 80 GB, bandwidth: 2 TB/s}
links:
  nvlink: {bandwidth: 200 GB/s, latency: 1 us}
  pcie: {bandwidth: 50 GB/s, latency: null}
aliases: [CHIP]
"""
FILES = {
    "hardware/devices/chip.yaml": CHIP,
    "hardware/devices/sibling.yaml": """
schema: costmodel/device@1
extends: devices/chip
name: sibling
aliases: [SIBLING]
power: {tdp: 350 W}
calibration: {inherit: chip}
""",
    "hardware/nodes/box.yaml": """
schema: costmodel/node@1
name: box
device: devices/chip
count: 8
intra: nvlink
nic: {per_device: 1, bandwidth: 25 GB/s, latency: 3 us}
""",
    "hardware/frameworks/fast.yaml": """
schema: costmodel/framework@1
extends: frameworks/default
name: fast
implementations: {gemm: library}
tuned_tiles: {chip: {bf16: {4: [64], 8: [32, 16]}}}
""",
    "hardware/calibrations/chip/library.yaml": """
schema: costmodel/calibration@1
name: chip/library
device: devices/chip
basis: fitted
families:
  gemm: {compute_efficiency: 0.5, spread: [{time: 1 ms, low: 0.9, median: 1, high: 1.2, rows: 10}], rows: 10}
""",
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Return a search root with the files above."""
    for name, text in FILES.items():
        write(tmp_path, name, text)
    return tmp_path


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Return the devices and nodes of such a root."""
    root = tmp_path_factory.mktemp("world")
    for name, text in FILES.items():
        write(root, name, text)
    return Catalogue([root])


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Table]:
    """Return a function that makes a table of rows, each a mapping of columns; all are timed at 1 ms on CHIP."""

    def make(*rows: dict[str, object]) -> Table:
        usual: dict[str, object] = {"row_id": 7, "device": "CHIP", "dtype_in": "bf16", "time_us": 1000}
        full = [usual | row for row in rows]
        columns = list(dict.fromkeys(name for row in full for name in row))
        lines = [columns, *([str(row.get(name, "")) for name in columns] for row in full)]
        return read_tables(write(tmp_path, "table.csv", "\n".join(",".join(line) for line in lines) + "\n"))

    return make
