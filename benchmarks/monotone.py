"""Prints how many kernels and messages get faster as their work grows: `python -m benchmarks.monotone [DEVICE...]`.

Steps are those of `LADDERS`, on every device, for every choice of kernels that a framework file makes. Falls are told
apart by their reasons: rows that were measured at both ends, and the rules by which a library takes another kernel,
protocol or split from some size on, as its source states them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from costmodel.calibration.fit_files import default_framework, framework_of
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.calibration.row_times import Choice, times_of, variant_of
from costmodel.cost.attention import UNEVEN
from costmodel.cost.calibration import Calibration, MeanFit, one_call
from costmodel.measurements.raw_tables import RawTable
from costmodel.measurements.row_group import Catalogue, OperatorRows
from costmodel.measurements.row_mapping import map_all
from costmodel.measurements.tables import table_of
from costmodel.quantities import Array
from costmodel.records import fields, is_record, replace
from costmodel.schema.files import list_names
from costmodel.schema.references import Library
from costmodel.workload.operators import Operator
from costmodel.workload.scenario import Framework

PER_OCTAVE = (1.0, 1.125, 1.25, 1.5)
LIMITS = (0.05, 0.01)
SHOWN = 30  # of the deepest falls
MEASURED, RULE = "measured", "rule"
RULES = ("splits", "m_t", "runs_xqa", "large_share")  # terms that a library's rule decides by size


@dataclass(frozen=True, slots=True)
class Ladder:
    """Sizes of one operation. climbs: columns that grow together, over `most`; fixed: each combination is a series."""

    op: str
    climbs: tuple[str, ...]
    most: int
    fixed: Mapping[str, Sequence[str]]
    least: int = 1

    def series(self) -> Iterator[dict[str, str]]:
        """Yield the fixed columns of each series; a cell of `a,b` states several columns, named alike."""
        for values in product(*self.fixed.values()):
            cells: dict[str, str] = {"op": self.op}
            for names, value in zip(self.fixed, values, strict=True):
                cells |= zip(names.split(","), value.split(","), strict=True)
            yield cells

    def sizes(self) -> list[int]:
        """Return whole sizes from `least` to `most`, a few an octave."""
        octaves = range(int(np.log2(self.least)), int(np.log2(self.most)) + 1)
        found = (2**octave * step for octave in octaves for step in PER_OCTAVE)
        return sorted({int(size) for size in found if size == int(size) and self.least <= size <= self.most})


_HEADS = "q_heads,kv_heads,head_dim,v_head_dim"
_GROUPED = ("32,8,128,128", "8,1,128,128", "64,8,64,64")
_LATENT = ("128,1,576,512", "16,1,576,512")
_CACHES = ("bf16,bf16", "bf16,fp8_e4m3", "fp8_e4m3,fp8_e4m3")
_NARROW = ("bf16", "fp16", "fp8_e4m3", "fp8_e4m3_blk128", "nvfp4", "int8")
_EXPERTS = ("bf16", "fp8_e4m3", "fp8_e4m3_blk128", "nvfp4", "w4a16", "w4a16_mxfp4")
_WORLDS = ("2,2", "4,4", "8,8", "16,8", "64,8")
_RECURRENT = "q_heads,k_heads,head_dim,v_head_dim,d_conv,conv_channels"
LADDERS = (
    Ladder("gemm", ("m",), 65536, {"dtype_in": _NARROW, "n,k": ("4096,4096", "28672,4096")}),
    Ladder("bmm", ("m",), 8192, {"dtype_in": _NARROW, "batch,n,k": ("16,512,128", "128,128,512")}),
    Ladder("moe_layer", ("num_tokens",), 65536, {
        "dtype_in": _EXPERTS, "hidden,inter,num_experts,topk,tp_size": ("4096,1536,128,8,1", "4096,14336,8,2,4"),
        "ep_size": ("1", "8"), "distribution": ("balanced",),
    }),
    Ladder("attention_prefill", ("q_len", "kv_len"), 131072, {
        "dtype_in,kv_dtype": _CACHES, _HEADS: _GROUPED, "batch": ("1",), "causal": ("1",),
    }, least=2),
    Ladder("attention_backward", ("q_len", "kv_len"), 131072, {
        "dtype_in": ("bf16",), _HEADS: _GROUPED, "batch": ("1",), "causal": ("1",),
    }, least=2),
    Ladder("mla_prefill", ("q_len", "kv_len"), 131072, {
        "dtype_in,kv_dtype": _CACHES, _HEADS: ("128,128,192,128", "16,16,192,128"), "batch": ("1",),
        "causal": ("1",),
    }, least=2),
    *(
        Ladder(op, (climbs,), most, {"dtype_in,kv_dtype": _CACHES, _HEADS: heads, other: sizes, "q_len": ("1",)})
        for op, heads in (("attention_decode", _GROUPED), ("mla_decode", _LATENT))
        for climbs, most, other, sizes in (
            ("kv_len", 262144, "batch", ("1", "32")), ("batch", 1024, "kv_len", ("4096",)),
        )
    ),
    Ladder("sparse_mla_decode", ("batch",), 1024, {
        "dtype_in,kv_dtype": _CACHES, _HEADS: _LATENT, "sparse_topk": ("2048",), "q_len": ("1",),
        "kv_len": ("4096", "65536"),
    }),
    Ladder("sparse_mla_prefill", ("q_len", "kv_len"), 131072, {
        "dtype_in,kv_dtype": _CACHES, _HEADS: _LATENT, "sparse_topk": ("2048",), "batch": ("1",),
    }, least=4096),
    Ladder("mqa_logits", ("q_len", "kv_len"), 131072, {
        "dtype_in": ("fp8_e4m3",), "dtype_out": ("fp32",), "q_heads,head_dim": ("64,128", "32,128"), "batch": ("1",),
    }, least=2),
    *(
        Ladder(f"linear_attention_{phase}", (climbs,), most, {
            "dtype_in": ("bf16",), "sub_op": ("gdn_scan", "gdn_conv", "kda_scan", "mamba2_scan"),
            _RECURRENT: ("32,16,128,128,4,8192",), other: ("1", "8"),
        })
        for phase, climbs, most, other in (("prefill", "q_len", 131072, "batch"), ("decode", "batch", 1024, "q_len"))
    ),
    Ladder("elementwise", ("m",), 65536, {
        "dtype_in": ("bf16",), "n": ("4096", "7168"),
        "sub_op": ("silu_and_mul", "fused_add_rmsnorm", "rope", "embedding", "softmax", "kv_cache_write", "add"),
    }),
    Ladder("quantize", ("m",), 65536, {"dtype_in,dtype_out": ("bf16,fp8_e4m3",), "n": ("4096", "7168")}),
    Ladder("hyper_connection", ("num_tokens",), 65536, {
        "dtype_in": ("bf16",), "sub_op": ("pre", "post"), "hidden,hc_mult": ("4096,4",),
    }),
    *(
        Ladder(op, ("bytes",), 2**32, {"dtype_in": ("bf16",), "world_size,gpus_per_node": _WORLDS}, least=256)
        for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
    ),
    *(
        Ladder(op, ("num_tokens",), most, {
            "sub_op": (mode,), "dtype_in": ("bf16", "fp8_e4m3"), "hidden,num_experts,topk": ("7168,256,8",),
            "world_size,gpus_per_node": _WORLDS[2:],
        })
        for op in ("moe_dispatch", "moe_combine") for mode, most in (("normal", 32768), ("low_latency", 1024))
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Climb:
    """Predicted times of one series under one choice of kernels [s]. least: lower ends of their intervals."""

    part: OperatorRows
    calibration: Calibration
    kernels: str
    key: str
    series: Mapping[str, str]
    sizes: Sequence[int]
    seconds: Array
    least: Array

    @property
    def changes(self) -> Array:
        """Return the relative change of time at each step."""
        return self.seconds[1:] / self.seconds[:-1] - 1.0

    def reason(self, step: int) -> str:
        """Return why a time may fall at a step: `measured` at both ends, or another `rule`; blank for neither."""
        (basis, rules), (basis_after, rules_after) = self._state(step), self._state(step + 1)
        if basis == basis_after == MEASURED:
            return MEASURED
        return RULE if rules != rules_after else ""

    def _state(self, place: int) -> tuple[str, dict[str, float]]:
        """Return on what a time rests, and what a library's rules take for its size."""
        named = next(each for each in self.part.operators if each.family == self.part.family)
        operator = _at(named, place, len(self.sizes))
        fit = self.calibration.fit(operator)
        led = fit.parts[0] if isinstance(fit, MeanFit) else fit
        form: Any = led.form
        if form is None or getattr(form, "split_kv_rule", "") == UNEVEN:
            return fit.basis_at(operator), {}
        terms = form.terms(one_call(operator), self.part.machine(default_framework()))
        states = {name: float(terms[name]) for name in RULES if name in terms}
        if "large_share" in states and float(terms["small_time"]) <= float(terms["large_time"]):
            states.pop("large_share")  # the switch to the other protocol makes nothing faster
        if "serial_time" in terms:
            states["serial"] = float(terms["serial_time"] > 0.0)
        return fit.basis_at(operator), {name: round(value, 2) for name, value in states.items()}

    def told(self, step: int) -> str:
        """Return what a step is, for people."""
        cells = " ".join(f"{name}={value}" for name, value in self.series.items() if name != "op")
        return (
            f"{100 * self.changes[step]:6.1f} %  {self.part.device.name} [{self.kernels or 'default'}] "
            f"{self.key}: {cells}, {self.sizes[step]} -> {self.sizes[step + 1]}"
        )


def _at(operator: Operator, place: int, count: int) -> Operator:
    """Return an operator of `count` sizes at one of them."""

    def cut(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return float(np.broadcast_to(value, count)[place])
        return tuple(map(each, value)) if isinstance(value, tuple) else value

    def each(value: Any) -> Any:
        if not is_record(value):
            return value
        return replace(value, **{name: cut(getattr(value, name)) for name in fields(value)})

    return cast(Operator, each(operator))


def climbs(device: str, catalogue: Catalogue, ladders: Sequence[Ladder] = LADDERS) -> Iterator[Climb]:
    """Yield every series of a device."""
    frameworks = [framework_of(name, Library()) for name in list_names("frameworks")]
    for ladder in ladders:
        for cells in ladder.series():
            part = _mapped(device, cells, ladder, catalogue)
            if part is None:
                continue
            key = "/".join(filter(None, (part.family, variant_of(part))))
            for kernels, framework in _choices(part, frameworks).items():
                choice = Choice(load_calibration(part.device, framework), "")
                seconds, least, _ = times_of(part, choice, default_framework())
                yield Climb(part, choice.calibration, kernels, key, cells, ladder.sizes(), seconds, least)


def _mapped(device: str, cells: Mapping[str, str], ladder: Ladder, catalogue: Catalogue) -> OperatorRows | None:
    """Return a series as operators; None where the device cannot run it."""
    sizes = [str(size) for size in ladder.sizes()]
    columns = {name: [value] * len(sizes) for name, value in {**cells, "device": device, "time_us": "-1"}.items()}
    sheet = RawTable(Path(ladder.op), columns | dict.fromkeys(ladder.climbs, sizes), list(range(len(sizes))))
    mapped, _ = map_all(table_of(sheet), catalogue)
    return mapped[0] if len(mapped) == 1 and len(mapped[0].rows) == len(sizes) else None


def _choices(part: OperatorRows, frameworks: Sequence[Framework]) -> dict[str, Framework]:
    """Return one framework of those that name the same kernels for the operators of a series, by these names."""
    found: dict[str, Framework] = {}
    for framework in frameworks:
        named = (
            framework.implementations.get(key, framework.implementations.get(key.partition("/")[0], ()))
            for key in dict.fromkeys(f"{each.family}/{each.variant}" for each in part.operators)
        )
        found.setdefault(" ".join(",".join(names) for names in named).strip(), framework)
    return found


def main() -> None:
    """Measure and print."""
    catalogue = Catalogue()
    steps = zeros = series = 0
    falls: dict[float, Counter[str]] = {limit: Counter() for limit in LIMITS}
    deepest: dict[tuple[str, str], tuple[float, str]] = {}
    for device in sys.argv[1:] or list_names("devices"):
        for climb in climbs(device, catalogue):
            series, steps, zeros = series + 1, steps + len(climb.changes), zeros + int((climb.least <= 0.0).sum())
            for step in map(int, np.flatnonzero(climb.changes < -min(LIMITS))):
                change, reason = float(climb.changes[step]), climb.reason(step)
                for limit in LIMITS:
                    falls[limit][reason] += change < -limit
                known = deepest.get((device, climb.key), (0.0, ""))
                if not reason:
                    deepest[device, climb.key] = min(known, (change, climb.told(step)))
    print(f"{steps} steps of {series} series; {zeros} intervals start at zero")
    for limit, count in falls.items():
        told = ", ".join(f"{number} {reason or 'without a reason'}" for reason, number in count.most_common())
        print(f"fall by more than {100 * limit:g} %: {count.total()} ({100 * count.total() / steps:.2f} %): {told}")
    print("\ndeepest falls without a reason, by device and family")
    print("\n".join(text for _, text in sorted(deepest.values())[:SHOWN]))


if __name__ == "__main__":
    main()
