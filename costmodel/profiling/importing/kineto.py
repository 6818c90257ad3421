"""Traces of the PyTorch profiler (Kineto) as rows of a measurement table: one a kernel and shape, its median time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from costmodel.errors import Location, MeasurementError, Problem

Row = tuple[int, Mapping[str, str]]
Event: TypeAlias = "Mapping[str, Any]"
Sizes: TypeAlias = "dict[str, str]"
Sizing: TypeAlias = "Callable[[list[list[int]], Sequence[Any]], Sizes | None]"
"""Gives an operator's columns from the sizes of its tensors and its other arguments; none where they do not fit."""

_TYPES = {
    "float": "fp32", "c10::BFloat16": "bf16", "c10::Half": "fp16", "c10::Float8_e4m3fn": "fp8_e4m3", "double": "fp64",
    "Float": "fp32", "BFloat16": "bf16", "Half": "fp16",
}  # fmt: skip
_BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2, "fp8_e4m3": 1}
_COLLECTIVES = {
    "allreduce": "all_reduce", "allreduce_coalesced": "all_reduce", "_allgather_base": "all_gather",
    "allgather": "all_gather", "_reduce_scatter_base": "reduce_scatter", "reduce_scatter": "reduce_scatter",
    "all_to_all": "all_to_all", "all_to_allv": "all_to_all", "alltoall": "all_to_all", "alltoall_base": "all_to_all",
}  # fmt: skip
_DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


def is_trace(document: Any) -> bool:
    """Tell whether a document has the events of a trace."""
    return isinstance(document, dict) and isinstance(document.get("traceEvents"), list)


def rows(document: Mapping[str, Any], shown: str) -> list[Row]:
    """Return the rows of a trace.

    An operator's time is that of the kernels that it launched, or its own where the trace has none (a CPU's). Raises
    MeasurementError where the trace has no shapes or no operator that the schema has.
    """
    events = [_checked(event, place, shown) for place, event in enumerate(document["traceEvents"])]
    timed = [event for event in events if event.get("ph") == "X" and isinstance(event.get("args"), dict)]
    launched = _launched(timed)
    devices = _devices(document)
    known: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for row, microseconds in _operators(timed, launched, devices):
        known.setdefault(tuple(row.items()), []).append(microseconds)
    for row, microseconds in _messages(timed, devices):
        known.setdefault(tuple(row.items()), []).append(microseconds)
    if not known:
        raise _problem(shown, "has no product, attention or message with its shape", _HINT)
    return [
        (place, {**dict(row), "time_us": f"{statistics.median(times):.6g}", "repeats": str(len(times))})
        for place, (row, times) in enumerate(known.items(), start=1)
    ]


_HINT = "profile with `record_shapes=True`, and some steps that multiply matrices"


def _checked(event: Any, place: int, shown: str) -> Event:
    if not isinstance(event, dict):
        raise _problem(shown, f"traceEvents[{place}] is no event", "export the trace again")
    duration = event.get("dur", 0)
    if not isinstance(duration, int | float) or isinstance(duration, bool) or not 0 <= duration < math.inf:
        raise _problem(shown, f"traceEvents[{place}].dur: {duration!r} is no duration", "export the trace again")
    return event


def _launched(events: Sequence[Event]) -> dict[int, list[Event]]:
    """Return the device's work by the external number of the operator that launched it."""
    by_correlation = {
        event["args"]["correlation"]: event["args"].get("External id")
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event["args"]
    }
    work: dict[int, list[Event]] = {}
    for event in events:
        if event.get("cat") in _DEVICE_WORK:
            args = event["args"]
            number = args.get("External id", by_correlation.get(args.get("correlation")))
            if isinstance(number, int):
                work.setdefault(number, []).append(event)
    return work


def _devices(document: Mapping[str, Any]) -> list[str]:
    """Return the names of the devices that the trace describes."""
    properties = document.get("deviceProperties")
    listed = properties if isinstance(properties, list) else []
    return [str(each.get("name", "")) for each in listed if isinstance(each, dict)]


def _operators(
    events: Sequence[Event], launched: Mapping[int, Sequence[Event]], devices: Sequence[str]
) -> Iterator[tuple[Sizes, float]]:
    on_device = bool(launched)
    for event in events:
        sizes_of = _OPERATORS.get(str(event.get("name")))
        if event.get("cat") != "cpu_op" or sizes_of is None:
            continue
        args = event["args"]
        row = _described(sizes_of, args)
        if row is None:
            continue
        work = launched.get(args.get("External id", -1), ())
        if on_device and not work:
            continue
        microseconds = sum(float(each["dur"]) for each in work) if on_device else float(event["dur"])
        if microseconds > 0:
            kernel = max(work, key=lambda each: float(each["dur"]))["name"] if work else event["name"]
            yield {
                "device": _device_of(work, devices), **row, "framework": "torch", "kernel": str(kernel),
                "timing": "kineto_kernel" if on_device else "kineto_cpu_op",
            }, microseconds  # fmt: skip


def _described(sizes_of: Sizing, args: Event) -> Sizes | None:
    """Return the columns of an operator; None where the trace has no shapes of it or it is none of the schema."""
    dims, types = args.get("Input Dims"), args.get("Input type")
    if not (isinstance(dims, list) and isinstance(types, list)):
        return None
    tensors = [size for size in dims if isinstance(size, list) and size and all(isinstance(x, int) for x in size)]
    known = [_TYPES[kind] for kind in types if kind in _TYPES]
    concrete = args.get("Concrete Inputs")
    found = sizes_of(tensors, concrete if isinstance(concrete, list) else [])
    if found is None or not known or "0" in (value for name, value in found.items() if name != "causal"):
        return None
    return {"op": found.pop("op"), "dtype_in": known[0], **found}


def _device_of(work: Sequence[Event], devices: Sequence[str]) -> str:
    """Return the name of the device that some work ran on; blank where the trace does not say."""
    number = work[0]["args"].get("device", 0) if work else 0
    return devices[number] if isinstance(number, int) and 0 <= number < len(devices) else ""


def _messages(events: Sequence[Event], devices: Sequence[str]) -> Iterator[tuple[Sizes, float]]:
    """Yield the collectives that NCCL's kernels carry their arguments of."""
    for event in events:
        args = event["args"]
        operation = _COLLECTIVES.get(str(args.get("Collective name")))
        kind, ranks = _TYPES.get(str(args.get("dtype"))), args.get("Group size")
        if event.get("cat") != "kernel" or operation is None or kind is None or not isinstance(ranks, int):
            continue
        counts = [args.get(name, 0) for name in ("In msg nelems", "Out msg nelems")]
        if not all(isinstance(count, int) for count in counts) or ranks < 2 or not max(counts) or not event["dur"]:
            continue
        local = min(ranks, len(devices)) or ranks
        yield {
            "device": _device_of([event], devices), "op": operation, "dtype_in": kind,
            "bytes": str(max(counts) * _BYTES[kind]), "world_size": str(ranks), "gpus_per_node": str(local),
            "framework": "torch", "kernel": str(event["name"]), "timing": "kineto_kernel",
        }, float(event["dur"])  # fmt: skip


def _gemm(left: list[int], right: list[int]) -> Sizes | None:
    if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
        return None
    return {"op": "gemm", "m": str(left[0]), "n": str(right[1]), "k": str(left[1])}


def _mm(tensors: list[list[int]], _: Sequence[Any]) -> Sizes | None:
    return _gemm(tensors[0], tensors[1]) if len(tensors) >= 2 else None


def _addmm(tensors: list[list[int]], _: Sequence[Any]) -> Sizes | None:
    return _gemm(tensors[1], tensors[2]) if len(tensors) >= 3 else None


def _bmm(tensors: list[list[int]], _: Sequence[Any]) -> Sizes | None:
    if len(tensors) < 2 or any(len(size) != 3 for size in tensors[:2]):
        return None
    found = _gemm(tensors[0][1:], tensors[1][1:])
    return None if found is None else found | {"op": "bmm", "batch": str(tensors[0][0])}


def _attention(causal_at: int, first: int = 0, op: str = "") -> Sizing:
    """Return the columns of attention over [batch, heads, tokens, width].

    causal_at: place of `is_causal` among the arguments; first: of the queries among the tensors.
    """

    def sizes(tensors: list[list[int]], concrete: Sequence[Any]) -> Sizes | None:
        cores = tensors[first : first + 3]
        if len(cores) < 3 or any(len(size) != 4 for size in cores):
            return None
        (batch, heads, new, width), (_, shared, keys, _), (*_, value) = cores
        causal = len(concrete) > causal_at and str(concrete[causal_at]) == "True"
        return {
            "op": op or ("attention_decode" if new == 1 else "attention_prefill"), "batch": str(batch),
            "q_heads": str(heads), "kv_heads": str(shared), "head_dim": str(width), "v_head_dim": str(value),
            "q_len": str(new), "kv_len": str(keys), "causal": str(int(causal or new == 1)),
        }  # fmt: skip

    return sizes


def _rows_of(kind: str) -> Sizing:
    def sizes(tensors: list[list[int]], _: Sequence[Any]) -> Sizes | None:
        if not tensors:
            return None
        *outer, width = tensors[0]
        return {"op": "elementwise", "sub_op": kind, "m": str(math.prod(outer)), "n": str(width)}

    return sizes


_CORE = "aten::_scaled_dot_product"
_OPERATORS: dict[str, Sizing] = {
    "aten::mm": _mm,
    "aten::addmm": _addmm,
    "aten::bmm": _bmm,
    f"{_CORE}_flash_attention": _attention(4),
    f"{_CORE}_flash_attention_for_cpu": _attention(4),
    f"{_CORE}_efficient_attention": _attention(6),
    f"{_CORE}_cudnn_attention": _attention(6),
    f"{_CORE}_flash_attention_backward": _attention(11, 1, "attention_backward"),
    f"{_CORE}_flash_attention_for_cpu_backward": _attention(7, 1, "attention_backward"),
    "aten::native_layer_norm": _rows_of("layernorm"),
    "aten::_softmax": _rows_of("softmax"),
    "aten::gelu": _rows_of("gelu"),
}


def _problem(shown: str, message: str, hint: str) -> MeasurementError:
    return MeasurementError([Problem(Location(shown), "", message, hint)])
