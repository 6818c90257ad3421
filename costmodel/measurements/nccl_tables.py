"""NCCL tables of aiconfigurator, read as measurement tables: sizes in elements, times in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from costmodel.measurements.raw_tables import RawTable
from costmodel.workload.dtypes import ELEMENT_BYTES

_COLUMNS = ("device", "op_name", "nccl_dtype", "num_gpus", "message_size", "latency", "system", "file")
_OPERATIONS = {"alltoall": "all_to_all"}
_FORMATS = {"half": "fp16", "int8": "int8", "float": "fp32"}
_NODE = "8"  # GPUs of the nodes that these tables come from
_MICROSECONDS = 1e3  # of a millisecond


def is_nccl(sheet: RawTable) -> bool:
    """Tell whether a sheet has the columns of such a table."""
    return set(_COLUMNS) <= set(sheet.columns)


def translated(sheet: RawTable) -> RawTable:
    """Return the sheet with the columns of the measurement schema. Raises MeasurementError where a cell has no meaning.

    The version of NCCL is the folder of the file that a row comes from. A row without a device is of that which the
    others of its system name.
    """
    formats = [_known(sheet, "nccl_dtype", row, name, _FORMATS) for row, name in enumerate(sheet.column("nccl_dtype"))]
    versions = [PurePosixPath(path).parent.name for path in sheet.column("file")]
    columns: dict[str, Sequence[str]] = {
        "device": _devices(sheet),
        "op": [_OPERATIONS.get(name, name) for name in sheet.column("op_name")],
        "dtype_in": formats,
        "bytes": [
            f"{size * ELEMENT_BYTES[kind]:.0f}"
            for size, kind in zip(_numbers(sheet, "message_size"), formats, strict=True)
        ],
        "world_size": sheet.column("num_gpus"),
        "gpus_per_node": [_NODE] * len(sheet),
        "time_us": [f"{value * _MICROSECONDS:.6g}" for value in _numbers(sheet, "latency")],
        "framework": [f"nccl {version}" for version in versions],
        "kernel": ["nccl-tests out-of-place"] * len(sheet),
        "timing": ["nccl_tests"] * len(sheet),
    }
    return RawTable(sheet.path, columns, sheet.lines)


def _devices(sheet: RawTable) -> list[str]:
    systems, devices = sheet.column("system"), sheet.column("device")
    named = {system: device for system, device in zip(systems, devices, strict=True) if device}
    return [
        device or _known(sheet, "system", row, system, named)
        for row, (system, device) in enumerate(zip(systems, devices, strict=True))
    ]


def _known(sheet: RawTable, column: str, row: int, name: str, known: dict[str, str]) -> str:
    if name not in known:
        raise sheet.error(f"{name!r} is unknown", row=row, field=column, hint=f"known: {', '.join(sorted(known))}")
    return known[name]


def _numbers(sheet: RawTable, column: str) -> list[float]:
    numbers = []
    for row, cell in enumerate(sheet.column(column)):
        try:
            numbers.append(float(cell))
        except ValueError:
            raise sheet.error(f"{cell!r} is not a number", row=row, field=column) from None
    return numbers
