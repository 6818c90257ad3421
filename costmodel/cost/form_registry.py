"""The physical forms by name: their parameters, where a search for them starts, and how far they may go.

The limits are wide on purpose: they keep a search on numbers that mean something, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from costmodel.cost.attention import DecodeForm, LatentForm, PrefillForm
from costmodel.cost.calibration import Form
from costmodel.cost.collective import CollectiveForm
from costmodel.cost.elementwise import ElementwiseForm
from costmodel.cost.expert_all_to_all import LowLatencyForm, NormalForm
from costmodel.cost.gemm import GemmForm
from costmodel.cost.mixed_attention import VarlenForm
from costmodel.cost.scaled_roofline import ScaledRooflineForm
from costmodel.cost.two_tile_gemm import TwoTileForm
from costmodel.cost.xqa import XqaForm


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a search for a parameter starts, and between what it stays."""

    start: float
    low: float
    high: float


_LAUNCH = Bounds(3e-6, 0.3e-6, 300e-6)
_SHARE = Bounds(0.85, 0.05, 1.3)  # of a peak; above one where the clock exceeds the reference
_BANDWIDTH = Bounds(0.85, 0.05, 1.0)  # share of the memory bandwidth: what is faster comes from L2
_TILE = {  # of one tile of matrix products
    "load": Bounds(50.0, 8.0, 2000.0),
    "cache": Bounds(40.0, 5.0, 1000.0),
    "fill": Bounds(1000.0, 1.0, 3e4),
    "turn": Bounds(200.0, 1.0, 3e3),
    "edge": Bounds(0.5, 1e-3, 10.0),
}
_AGAIN = {"refetch": Bounds(0.7, 0.01, 3.0), "reach": Bounds(2.0, 0.3, 10.0)}
_WARM = {
    "cached": Bounds(1.5, 0.5, 10.0),
    "copies": Bounds(5.0, 0.5, 20.0),
    "resident": Bounds(0.5, 0.05, 2.0),
}
_READING = {  # of kernels that read a cache for a few queries
    "compute": Bounds(0.5, 0.02, 1.3),
    "memory": _BANDWIDTH,
    "load": Bounds(30.0, 2.0, 500.0),
    "cache": Bounds(60.0, 5.0, 1000.0),
    "resident": Bounds(0.6, 0.01, 3.0),
    "fill": Bounds(2000.0, 1.0, 1e5),
    "reach": Bounds(5.0, 0.01, 200.0),
    "combine": Bounds(1e-6, 1e-9, 1e-4),
    "merge": Bounds(1e-7, 1e-10, 1e-5),
}
_DECODING = {
    "launch": _LAUNCH,
    "gather": Bounds(1e-6, 1e-9, 1e-4),
    "regroup": Bounds(1e-6, 1e-9, 1e-4),
    "pad": Bounds(1e-6, 1e-9, 1e-4),
    **_READING,
    "crowd": Bounds(0.1, 1e-3, 2.0),
    "sharpness": Bounds(3.0, 1.2, 12.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class FormKind:
    """A form: what makes one from its parameters and choices, and the bounds of its parameters.

    lengths: of the residual's bumps along each axis before they are scaled [octaves]; terms: parameters that a recipe
    adds by the name of what they describe.
    """

    make: Callable[..., Form]
    bounds: Mapping[str, Bounds]
    axes: tuple[str, ...]
    lengths: tuple[float, ...]
    terms: Mapping[str, Mapping[str, Bounds]] = field(default_factory=dict)

    def parameters(self, terms: Sequence[str]) -> dict[str, Bounds]:
        """Return the bounds of the parameters that are fitted with these terms."""
        found = dict(self.bounds)
        for term in terms:
            found |= self.terms[term]
        return found

    def made(self, form: Form) -> bool:
        """Tell whether a form is of this kind."""
        return type(form) is (TwoTileForm if self.make is TwoTileForm.of else self.make)

    @property
    def names(self) -> frozenset[str]:
        """Return the names of all parameters."""
        return frozenset(self.parameters(tuple(self.terms)))

    def build(self, values: Mapping[str, float], choices: Mapping[str, Any]) -> Form:
        """Return the form with these parameters; choices: what is stated, not fitted, such as candidate tiles."""
        return self.make(**values, **choices)


def freeze(value: Any) -> Any:
    """Return a choice of a file as a form takes it: lists of numbers as tuples."""
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value


_LINK = Bounds(0.7, 0.01, 1.0)  # share of a link's bandwidth
_STEPS = Bounds(0.5, 1e-3, 30.0)  # over the latency of a link
_PIECE = Bounds(1e-7, 1e-10, 1e-5)  # [s] that something small costs
_EXCHANGE = {
    "launch": Bounds(1e-5, 1e-6, 3e-4),
    "hop": _STEPS,
    "peer": _PIECE,
    "token": Bounds(1e-6, 1e-9, 1e-4),
    "rate": Bounds(2e10, 1e8, 1e13),
    "share": _LINK,
    "nic": _LINK,
    "sharpness": Bounds(3.0, 1.0, 12.0),
}
_EXCHANGED = (2.0, 2.0, 2.0, 3.0, 2.0)  # lengths along tokens, bytes of a copy, choices, experts, ranks
FORMS = {
    "gemm": FormKind(
        GemmForm,
        {
            "launch": _LAUNCH,
            "compute": _SHARE,
            "memory": _SHARE,
            **_TILE,
            "sharpness": Bounds(3.0, 1.5, 12.0),
        },
        GemmForm.AXES,
        (2.0, 3.0, 3.0, 3.0),
        {
            "split": {"split": Bounds(8.0, 0.4, 160.0), "combine": Bounds(1e-6, 1e-9, 2e-5)},
            "sag": {"sag": Bounds(0.1, 1e-3, 0.9)},
            "ramp": {"dirty": Bounds(0.3, 1e-3, 2.0), "ramp": Bounds(2e7, 1e6, 2e8)},
            "promotion": {"exposed": Bounds(0.2, 0.01, 0.5)},
            "sync": {"sync": Bounds(80.0, 1.0, 3e3)},
            "overhang": {"overhang": Bounds(0.35, 0.01, 2.0), "shared": Bounds(3.0, 0.5, 30.0)},
            "again": _AGAIN,
            "warm": _WARM,
            "scan": {"scan": Bounds(1e-7, 1e-10, 1e-5)},
        },
    ),
    "switched": FormKind(
        TwoTileForm.of,
        {
            "launch": _LAUNCH,
            "memory": _SHARE,
            "sharpness": Bounds(3.0, 1.5, 12.0),
            "few_compute": _SHARE,
            **{f"few_{name}": bounds for name, bounds in _TILE.items()},
            "compute": _SHARE,
            **_TILE,
        },
        TwoTileForm.AXES,
        (2.0, 3.0, 3.0, 3.0, 1.0, 2.0),
        {
            "sag": {"sag": Bounds(0.1, 1e-3, 0.9)},
            "again": _AGAIN,
        },
    ),
    "plain": FormKind(
        ScaledRooflineForm,
        {"launch": _LAUNCH, "compute": _SHARE, "memory": _SHARE},
        ScaledRooflineForm.AXES,
        (3.0, 3.0),
    ),
    "prefill": FormKind(
        PrefillForm,
        {
            "launch": _LAUNCH,
            "compute": _SHARE,
            "alone": Bounds(0.6, 0.02, 2.0),
            "memory": _BANDWIDTH,
            "fill": Bounds(1000.0, 1.0, 3e4),
            "reach": Bounds(3.0, 0.01, 200.0),
            "tail": Bounds(0.5, 0.01, 10.0),
            "balance": Bounds(3.0, 1.0, 12.0),
            "sharpness": Bounds(2.0, 1.0, 12.0),
            "scatter": Bounds(0.5, 1e-3, 20.0),
            "combine": Bounds(3e-6, 1e-9, 1e-4),
        },
        PrefillForm.AXES,
        (2.0, 4.0, 2.0, 4.0, 3.0, 2.0),
    ),
    "decode": FormKind(DecodeForm, _DECODING, DecodeForm.AXES, (2.0, 2.0, 2.0, 2.0, 2.0)),
    "latent": FormKind(LatentForm, _DECODING, LatentForm.AXES, (2.0, 2.0, 2.0, 2.0)),
    "xqa": FormKind(
        XqaForm,
        {
            "launch": _LAUNCH,
            **_READING,
            "sharpness": Bounds(3.0, 1.2, 12.0),
            "single_launch": _LAUNCH,
            "single_compute": Bounds(0.02, 1e-4, 1.3),
            "single_load": Bounds(30.0, 2.0, 500.0),
            "single_fill": Bounds(2000.0, 1.0, 1e5),
            "single_reach": Bounds(5.0, 0.01, 200.0),
            "single_combine": Bounds(1e-6, 1e-9, 1e-4),
            "single_merge": Bounds(1e-7, 1e-10, 1e-5),
        },
        XqaForm.AXES,
        (2.0, 2.0, 1.0, 2.0),
        {
            "parted": {"single_parted": Bounds(15.0, 2.0, 500.0)},
            "each": {"each": Bounds(0.3, 1e-4, 20.0)},
            "plain": {"plain_launch": _LAUNCH, "plain_fill": Bounds(2000.0, 1.0, 1e5)},
        },
    ),
    "varlen": FormKind(
        VarlenForm,
        {
            "launch": _LAUNCH,
            "compute": _SHARE,
            "alone": Bounds(0.6, 0.02, 2.0),
            "memory": _BANDWIDTH,
            "fill": Bounds(1000.0, 1.0, 3e4),
            "idle": Bounds(500.0, 1.0, 1e4),
            "tail": Bounds(0.5, 0.01, 10.0),
            "resident": Bounds(1.0, 0.1, 10.0),
            "balance": Bounds(3.0, 1.0, 12.0),
            "sharpness": Bounds(2.0, 1.0, 12.0),
        },
        VarlenForm.AXES,
        (2.0, 2.0, 2.0, 2.0, 2.0, 4.0),
    ),
    "stream": FormKind(
        ElementwiseForm,
        {
            "launch": _LAUNCH,
            "memory": _SHARE,
            "cached": Bounds(1.2, 0.5, 10.0),
            "resident": Bounds(0.5, 0.01, 1.0),
            "load": Bounds(10.0, 0.5, 1000.0),
            "fill": Bounds(100.0, 0.5, 1e5),
        },
        ElementwiseForm.AXES,
        (2.0, 2.0),
    ),
    "collective": FormKind(
        CollectiveForm,
        {
            "launch": _LAUNCH,
            "hop": _STEPS,
            "share": Bounds(0.2, 1e-3, 1.0),
            "start": Bounds(1e-5, 1e-8, 1e-3),
            "stride": _STEPS,
            "bulk": _LINK,
            "switch": Bounds(1e6, 1e3, 3e8),
            "sharpness": Bounds(6.0, 2.0, 12.0),
        },
        CollectiveForm.AXES,
        (2.0, 1.0),
        {
            "reduced": {"reduced": Bounds(0.65, 0.5, 1.0), "settle": Bounds(1e-5, 1e-8, 1e-3)},
            "peers": {"once": _LINK, "twice": _LINK},
        },
    ),
    "low_latency": FormKind(LowLatencyForm, _EXCHANGE | {"slot": _PIECE}, LowLatencyForm.AXES, _EXCHANGED),
    "normal": FormKind(
        NormalForm,
        _EXCHANGE | {"relay": Bounds(1.0, 1e-2, 20.0), "crowd": Bounds(0.1, 1e-3, 2.0)},
        NormalForm.AXES,
        _EXCHANGED,
    ),
}
