"""Traces of the PyTorch profiler (Kineto) as rows of a measurement table: one a kernel and shape, its median time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from costmodel.measurements.importing.compressed import problem
from costmodel.measurements.importing.documents import Arguments, DeviceProperties, Event, checked
from costmodel.records import ValueRecord

Row = tuple[int, Mapping[str, str]]
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
_OPERATOR, _KERNEL = "cpu_op", "kernel"
_DEVICE_WORK, _LAUNCHES = (_KERNEL, "gpu_memcpy", "gpu_memset"), ("cuda_runtime", "cuda_driver")
_KNOWN = (_OPERATOR, *_DEVICE_WORK, *_LAUNCHES)


def is_trace(document: Any) -> bool:
    """Tell whether a document has the events of a trace."""
    return isinstance(document, dict) and isinstance(document.get("traceEvents"), list)


def rows(document: Mapping[str, Any], shown: str) -> list[Row]:
    """Return the rows of a trace.

    An operator's time is that of the kernels that it launched, or its own where the trace has none (a CPU's). Raises
    MeasurementError where the trace has no shapes or no operator that the schema has.
    """
    events = [
        checked(Event, event, shown, f"traceEvents[{index}]") for index, event in enumerate(document["traceEvents"])
    ]
    timed = [
        Work(event, checked(Arguments, event.args, shown, f"traceEvents[{index}].args"))
        for index, event in enumerate(events)
        if event.ph == "X" and event.cat in _KNOWN and event.args is not None
    ]
    launched = _launched(timed)
    devices = _devices(document, shown)
    known: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for row, microseconds in _operators(timed, launched, devices):
        known.setdefault(tuple(row.items()), []).append(microseconds)
    for row, microseconds in _messages(timed, devices):
        known.setdefault(tuple(row.items()), []).append(microseconds)
    if not known:
        raise problem(shown, "has no product, attention or message with its shape", _HINT)
    return [
        (index, {**dict(row), "time_us": f"{statistics.median(times):.6g}", "repeats": str(len(times))})
        for index, (row, times) in enumerate(known.items(), start=1)
    ]


_HINT = "profile with `record_shapes=True`, and some steps that multiply matrices"


class Work(ValueRecord):
    """An event and its arguments."""

    event: Event
    args: Arguments


def _launched(timed: Sequence[Work]) -> dict[int, list[Work]]:
    """Return the device's work by the external number of the operator that launched it."""
    by_correlation = {
        each.args.correlation: each.args.external for each in timed
        if each.event.cat in _LAUNCHES and each.args.correlation is not None
    }  # fmt: skip
    work: dict[int, list[Work]] = {}
    for each in timed:
        if each.event.cat in _DEVICE_WORK:
            number = each.args.external
            if number is None and each.args.correlation is not None:
                number = by_correlation.get(each.args.correlation)
            if number is not None:
                work.setdefault(number, []).append(each)
    return work


def _devices(document: Mapping[str, Any], shown: str) -> list[str]:
    properties = document.get("deviceProperties")
    listed = properties if isinstance(properties, list) else []
    return [
        checked(DeviceProperties, each, shown, f"deviceProperties[{index}]").name for index, each in enumerate(listed)
    ]


def _operators(
    timed: Sequence[Work], launched: Mapping[int, Sequence[Work]], devices: Sequence[str]
) -> Iterator[tuple[Sizes, float]]:
    on_device = bool(launched)
    for each in timed:
        sizes_of = _OPERATORS.get(each.event.name)
        if each.event.cat != _OPERATOR or sizes_of is None:
            continue
        row = _described(sizes_of, each.args)
        if row is None:
            continue
        work = () if each.args.external is None else launched.get(each.args.external, ())
        if on_device and not work:
            continue
        microseconds = sum(kernel.event.dur for kernel in work) if on_device else each.event.dur
        if microseconds > 0:
            longest = max((kernel.event for kernel in work), key=lambda event: event.dur, default=each.event)
            yield {
                "device": _device_of(work, devices), **row, "framework": "torch", "kernel": longest.name,
                "timing": "kineto_kernel" if on_device else "kineto_cpu_op",
            }, microseconds  # fmt: skip


def _described(sizes_of: Sizing, args: Arguments) -> Sizes | None:
    """Return the columns of an operator. None where the trace has no shapes of it or it is none of the schema."""
    if args.dims is None or args.types is None:
        return None
    tensors = [size for size in args.dims if isinstance(size, list) and size and all(isinstance(x, int) for x in size)]
    known = [_TYPES[kind] for kind in args.types if isinstance(kind, str) and kind in _TYPES]
    sizes = sizes_of(tensors, args.concrete or [])
    if sizes is None or not known or "0" in (value for name, value in sizes.items() if name != "causal"):
        return None
    return {"op": sizes.pop("op"), "dtype_in": known[0], **sizes}


def _device_of(work: Sequence[Work], devices: Sequence[str]) -> str:
    """Return the name of the device that some work ran on. Blank where the trace does not say."""
    number = (work[0].args.device or 0) if work else 0
    return devices[number] if isinstance(number, int) and 0 <= number < len(devices) else ""


def _messages(timed: Sequence[Work], devices: Sequence[str]) -> Iterator[tuple[Sizes, float]]:
    """Yield the collectives that NCCL's kernels carry their arguments of."""
    for each in timed:
        args, ranks = each.args, each.args.ranks or 0
        operation, kind = _COLLECTIVES.get(args.collective or ""), _TYPES.get(args.dtype or "")
        if each.event.cat != _KERNEL or operation is None or kind is None:
            continue
        largest = max(args.sent, args.received)
        if ranks < 2 or largest <= 0 or not each.event.dur:
            continue
        local = min(ranks, len(devices)) or ranks
        yield {
            "device": _device_of([each], devices), "op": operation, "dtype_in": kind,
            "bytes": str(largest * _BYTES[kind]), "world_size": str(ranks), "gpus_per_node": str(local),
            "framework": "torch", "kernel": each.event.name, "timing": "kineto_kernel",
        }, each.event.dur  # fmt: skip


def _gemm(left: list[int], right: list[int]) -> Sizes | None:
    if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
        return None
    return {"op": "gemm", "m": str(left[0]), "n": str(right[1]), "k": str(left[1])}


def _product(first: int) -> Sizing:
    """Return the columns of a product of two matrices. first: position of the left one among the tensors."""
    return lambda tensors, _: _gemm(*tensors[first : first + 2]) if len(tensors) >= first + 2 else None


def _bmm(tensors: list[list[int]], _: Sequence[Any]) -> Sizes | None:
    if len(tensors) < 2 or any(len(size) != 3 for size in tensors[:2]):
        return None
    sizes = _gemm(tensors[0][1:], tensors[1][1:])
    return None if sizes is None else sizes | {"op": "bmm", "batch": str(tensors[0][0])}


def _attention(causal_at: int, first: int = 0, op: str = "") -> Sizing:
    """Return the columns of attention over [batch, heads, tokens, width].

    causal_at: position of `is_causal` among the arguments.
    first: of the queries among the tensors.
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
    "aten::mm": _product(0),
    "aten::addmm": _product(1),
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
