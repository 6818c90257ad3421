"""Output of nccl-tests, text and JSON, as rows of a measurement table."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.measurements.importing.compressed import problem
from costmodel.measurements.importing.documents import NcclReport, NcclTimes, checked

Row = tuple[int, Mapping[str, str]]

# The test's name -> the operation of the measurement schema.
_OPERATIONS = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all", "all_to_all": "all_to_all", "sendrecv": "send_recv", "send_recv": "send_recv",
    "broadcast": "broadcast",
}  # fmt: skip
_TYPES = {
    "float": "fp32", "half": "fp16", "bfloat16": "bf16", "double": "fp64", "int8": "int8", "uint8": "int8",
    "f8e4m3": "fp8_e4m3",
}  # fmt: skip
_TEST = re.compile(r"\b(" + "|".join(sorted(_OPERATIONS, key=len, reverse=True)) + r")(?:_perf|\b)")
_RANK = re.compile(r"^#\s+Rank\s+\d+\s+(?:Group\s+\d+\s+)?Pid\s+\d+ on\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s+(.+?)\s*$")
_HEADER = re.compile(r"^#\s+size\s+count\s+type\s")
_RESULT = re.compile(r"^\s*\d+\s+\d+\s+[a-z]\w*\s")
_VERSION = re.compile(r"nccl-library=(\d+)")


def is_text(text: str) -> bool:
    """Tell whether a text has the header that nccl-tests prints over its results."""
    return any(_HEADER.match(line) for line in text.splitlines())


def is_report(document: Any) -> bool:
    """Tell whether a document is what nccl-tests writes with `-J`."""
    return isinstance(document, dict) and "nccl_version" in document and isinstance(document.get("results"), list)


def rows_of_text(text: str, path: Path, shown: str) -> list[Row]:
    """Return one row a line of results, the out-of-place time. Raises MeasurementError at a line that is wrong."""
    lines = text.splitlines()
    hosts = [(match[1], match[2]) for line in lines if (match := _RANK.match(line))]
    if len(hosts) < 2:
        raise problem(shown, "names fewer than two ranks", "keep the lines `#  Rank  0 …` of the output", line=1)
    started = next((line for line in lines if "Collective test starting" in line), "")
    named = _TEST.search(started) or _TEST.search(path.name) or next(filter(None, map(_TEST.search, lines)), None)
    version = next((match[1] for line in lines if (match := _VERSION.search(line))), "")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not _RESULT.match(line):
            continue
        cells = line.split()
        if len(cells) < 9:
            message = f"has {len(cells)} values, and a result has at least 9"
            raise problem(shown, message, "it may be cut off", line=number)
        size, seconds = _number(cells[0], shown, number, "size"), _number(cells[5], shown, number, "time")
        operation = _operation(named, cells[3], shown, number)
        if size > 0 and seconds > 0:
            rows.append((number, _row(operation, cells[2], size, seconds, hosts, version)))
    if not rows:
        raise problem(shown, "holds no result", "the run may have stopped before its first size", line=len(lines))
    return rows


def rows_of_report(document: Mapping[str, Any], shown: str) -> list[Row]:
    """Return one row a result of a JSON report. Raises MeasurementError where a value is missing."""
    report = checked(NcclReport, document, shown)
    hosts = [(device.hostname, device.device_info) for device in report.config.devices]
    if len(hosts) == 1:  # without MPI only the first device of the process is written
        hosts *= report.config.nthreads * report.config.ngpus
    if len(hosts) < 2:
        raise problem(shown, "config.devices names fewer than two ranks", "write the report of a group of ranks")
    arguments = " ".join(map(str, report.args))
    rows: list[Row] = []
    for index, result in enumerate(report.results):
        times = result.out_of_place or result.in_place or NcclTimes()
        microseconds = times.cpu_time if times.time is None else times.time
        if microseconds is None:
            raise problem(shown, f"results[{index}] states no time", "the file may be cut off")
        named = _TEST.search(result.experiment_name) or _TEST.search(arguments)
        operation = _operation(named, result.redop, shown, None)
        if result.size > 0 and microseconds > 0:
            version = str(report.nccl_version)
            rows.append((index + 1, _row(operation, result.type, result.size, microseconds, hosts, version)))
    if not rows:
        raise problem(shown, "holds no result", "the run may have stopped before its first size")
    return rows


def _row(
    operation: str, kind: str, size: float, microseconds: float, hosts: Sequence[tuple[str, str]], version: str
) -> dict[str, str]:
    local = max(Counter(host for host, _ in hosts).values())
    return {
        "device": hosts[0][1], "op": operation, "dtype_in": _TYPES.get(kind, kind), "bytes": f"{size:g}"
        if size > 2**53 else str(int(size)), "world_size": str(len(hosts)), "gpus_per_node": str(local),
        "time_us": f"{microseconds:.6g}", "framework": f"nccl {version}".strip(), "kernel": "nccl",
        "timing": "nccl_tests",
    }  # fmt: skip


def _operation(named: re.Match[str] | None, redop: str, shown: str, line: int | None) -> str:
    """Return the operation that the file names. A sum over ranks alone does not say which it is."""
    if named is not None:
        return _OPERATIONS[named[1]]
    said = "a reduction" if redop not in ("none", "") else "no reduction"
    hint = "name the file after the test, as in all_reduce_perf.txt"
    raise problem(shown, f"says that it is {said}, but not which test it was", hint, line=line)


def _number(cell: str, shown: str, line: int, name: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise problem(shown, f"{cell!r} is no {name}", "complete the line: the file may be cut off", line=line)
    return value
