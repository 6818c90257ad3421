"""Timelines read back from trace files, and a predicted one next to a measured one, class by class of operators."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from costmodel.errors import InputError, Location
from costmodel.measurements.importing.compressed import parse_json, read_bytes
from costmodel.measurements.importing.kineto import is_trace
from costmodel.quantities import Array
from costmodel.reading import open_regular
from costmodel.records import Record
from costmodel.schema.loader import MAX_SWEEP_BYTES, read_text
from costmodel.schema.references import display_path

SCHEMA = "costmodel/trace-comparison@1"
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
ACTIONS = "gpu_user_annotation"
MICRO = 1e-6
_HEAD = 1 << 16  # bytes of a file that tell what it is
# Words of kernels' names, the first that fits decides: DeepEP, NCCL, FlashAttention and FlashMLA, DeepGEMM, cuBLAS.
_WORDS = (
    ("dispatch", ("dispatch",)),
    ("combine", ("combine",)),
    ("collective", ("nccl", "all_reduce", "allreduce", "all_gather", "reduce_scatter", "sendrecv")),
    ("attention", ("flash", "fmha", "mla", "attention", "attn")),
    ("grouped_gemm", ("grouped", "moe_gemm", "fused_moe")),
    ("gemm", ("gemm", "nvjet", "cutlass", "cublas", "matmul", "splitk")),
    ("copy", ("memcpy", "memset")),
)


class Slice(NamedTuple):
    """A piece of work of a trace [s]. classes: seconds by class of operator, where the trace states them."""

    process: str
    thread: str
    category: str
    name: str
    start: float
    seconds: float
    kind: str
    classes: Mapping[str, float]


def is_trace_file(path: Path) -> bool:
    """Tell whether a file is a trace: packed, as no result is, or with events among its first words."""
    if path.suffix == ".gz":
        return True
    try:
        with open_regular(path) as file:
            return b'"traceEvents"' in file.read(_HEAD)
    except OSError:  # told by who reads it as a result
        return False


def read_slices(path: Path) -> list[Slice]:
    """Return the work of devices, and actions above it, of a trace. Raises InputError where it is none or has none."""
    document = parse_json(read_bytes(path, str(path)).decode("utf-8", errors="replace"), str(path))
    if not is_trace(document):
        hint = "write one with `costmodel simulate … --engine event --trace FILE`, or with the PyTorch profiler"
        raise InputError.single("is no trace", hint=hint, location=Location(str(path)))
    slices = list(_slices(document["traceEvents"], path))
    if not slices:
        raise InputError.single("shows no work of a device", hint="profile a GPU", location=Location(str(path)))
    return slices


def _slices(events: Sequence[Any], path: Path) -> Iterator[Slice]:
    named = {
        (event["name"], str(event.get("pid")), str(event.get("tid")) if event["name"] == "thread_name" else ""): event
        for event in events
        if isinstance(event, dict)
        and event.get("ph") == "M"
        and str(event.get("name")) in ("process_name", "thread_name")
    }

    def name(kind: str, process: str, thread: str) -> str:
        args = named.get((kind, process, thread), {}).get("args")
        return str(args.get("name", "")) if isinstance(args, dict) else ""

    for number, event in enumerate(events):
        if (
            not isinstance(event, dict)
            or event.get("ph") != "X"
            or str(event.get("cat")) not in (*DEVICE_WORK, ACTIONS)
        ):
            continue
        start, seconds = (_time(event.get(key, 0), f"traceEvents[{number}].{key}", path) for key in ("ts", "dur"))
        process, thread = str(event.get("pid")), str(event.get("tid"))
        args = event.get("args")
        arguments = args if isinstance(args, dict) else {}
        classes = arguments.get("classes")
        yield Slice(
            name("process_name", process, "") or f"process {process}",
            name("thread_name", process, thread) or f"stream {thread}",
            str(event["cat"]),
            str(event.get("name", "")),
            start,
            seconds,
            str(arguments.get("kind", "")),
            {
                str(key): _time(value, f"traceEvents[{number}].args.classes", path)
                for key, value in (classes.items() if isinstance(classes, dict) else ())
            },
        )


def _time(value: Any, field: str, path: Path) -> float:
    """Return a time of a trace, which is stated in microseconds [s]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        hint = "export the trace again"
        raise InputError.single(f"{value!r} is no time", field=field, hint=hint, location=Location(str(path)))
    return MICRO * float(value)


def class_of(name: str, category: str) -> str:
    """Return the class of a measured kernel, by words of its name. `elementwise` for those without any of them."""
    if category in ("gpu_memcpy", "gpu_memset"):
        return "copy"
    plain = name.casefold()
    return next((kind for kind, words in _WORDS if any(word in plain for word in words)), "elementwise")


def compare_traces(predicted: Sequence[Slice], measured: Sequence[Slice]) -> list[dict[str, Any]]:
    """Return the seconds of each class of operators on a device, the mean over a trace's devices, as JSON holds them.

    ratio: predicted over measured, null without that.
    """
    ours, theirs = _by_class(predicted), _by_class(measured)
    names = sorted({*ours, *theirs}, key=lambda name: -max(ours.get(name, 0.0), theirs.get(name, 0.0)))
    pairs = ((name, ours.get(name, 0.0), theirs.get(name, 0.0)) for name in names)
    return [
        {"name": name, "predicted": own, "measured": other, "ratio": own / other if other else None}
        for name, own, other in pairs
    ]


def _by_class(slices: Sequence[Slice]) -> dict[str, float]:
    work = [each for each in slices if each.category in DEVICE_WORK]
    devices = len({each.process for each in work})
    seconds_by_class: dict[str, float] = defaultdict(float)
    for each in work:
        classes = each.classes or {class_of(each.name, each.category): each.seconds}
        for name, seconds in classes.items():
            seconds_by_class[name] += seconds / devices
    return dict(seconds_by_class)


# ---- Tables of served requests, as `simulate --engine event --trace FILE.csv` writes them, read back -----------------

LATEST = 1e10  # [s]: a time beyond it is a mistake
NEEDED = ("start_time", "ttft", "tpot", "latency", "scheduled", "last_token")
FIRST_COLUMN = b"request_id,"  # what such a table begins with


class ServedRequests(Record):
    """Requests in order of arrival, NaN where one was rejected or has no such time [s].

    arrival, scheduled, end: moments.
    ttft, tpot, latency: as its client sees them.
    """

    arrival: Array
    ttft: Array
    tpot: Array
    latency: Array
    scheduled: Array
    end: Array


def is_request_table(path: Path) -> bool:
    """Tell whether a file is a table of served requests."""
    if path.suffix != ".csv" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(FIRST_COLUMN)) == FIRST_COLUMN


def read_requests(path: Path) -> ServedRequests:
    """Return the requests of a table. Raises InputError at the row that is wrong."""
    shown = display_path(path)
    columns: dict[str, list[float]] = {name: [] for name in NEEDED}
    reader = csv.DictReader(io.StringIO(read_text(path, shown, MAX_SWEEP_BYTES), newline=""))
    missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError.single(
            f"has no column {missing[0]}", location=Location(shown, 1),
            hint="write it with `simulate --engine event --trace FILE.csv`",
        )  # fmt: skip
    for row in reader:
        for name in NEEDED:
            columns[name].append(_number(row[name], shown, reader.line_num, name))
    if all(map(math.isnan, columns["start_time"])):
        raise InputError.single(
            "has no requests that came at a time", location=Location(shown), hint="write one request a row"
        )
    return ServedRequests(*(np.array(columns[name]) for name in ("start_time", *NEEDED[1:])))


def _number(text: str | None, shown: str, line: int, name: str) -> float:
    if text == "":
        return float("nan")
    try:
        number = float(text or "missing")
    except ValueError:
        number = math.nan
    if not abs(number) <= LATEST:
        raise InputError.single(
            f"{name} {str(text)[:40]!r} is no number", location=Location(shown, line), hint="write seconds, or nothing"
        )  # fmt: skip
    return number
