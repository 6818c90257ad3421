"""Low-rank adapters: those that a training step trains, and those that the requests of a server ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

import numpy as np

from costmodel.declared import Exponent, NumberOrZero, StoredType, Whole
from costmodel.quantities import Array, Count, Quantity, anywhere, maximum
from costmodel.records import Record

AdapterCount: TypeAlias = Annotated[int, Whole(0, single=True, high=10_000)]


class Adapters(Record):
    """Low-rank adapters (LoRA) of a frozen model: y = x W + s (x A) B, where A and B alone are trained.

    [Hu et al., LoRA, arXiv 2106.09685; with weights in `nf4`: Dettmers et al., QLoRA, arXiv 2305.14314]
    """

    rank: Annotated[NumberOrZero, "columns of A and rows of B; 0: nothing is trained"]
    targets: Annotated[
        tuple[str, ...],
        "linear layers that have one: `q`, `k`, `v` or one for all as `qkv`, `o`, `gate`, `up` or one for both as "
        "`gate_up`, `down`, of experts too; others by their name in a breakdown, with `_` for spaces; empty: all but "
        "the head and routers",
    ] = ()
    base_precision: Annotated[
        StoredType | None,
        "format of the frozen linear weights, which a kernel expands before each product where it is narrower than the "
        "product's; null: `precision.weights`",
    ] = None

    @property
    def are_any(self) -> bool:
        """Tell whether there are adapters: their rank is not zero."""
        return anywhere(self.rank > 0)


class ServedAdapters(Record):
    """Adapters (LoRA) of the requests of a server: y = x W + (x A_i) B_i, i of the request.

    Those used last are in device memory. One that is not is copied from the host while its request waits; others go on.
    No more requests run at a time than have their adapters there.
    [Chen et al., Punica, arXiv 2310.18547; vLLM, vllm/lora/ops/triton_ops, lora_shrink and lora_expand]
    """

    count: Annotated[AdapterCount, "adapters that requests ask for; 0: none"]
    rank: Annotated[NumberOrZero, "columns of A and rows of B, of each; 0: none"]
    targets: Annotated[
        tuple[str, ...],
        "linear layers that have one: `q`, `k`, `v` or one for all as `qkv`, `o`, `gate`, `up` or one for both as "
        "`gate_up`, `down`, but those of routed experts; empty: all but these, the head and routers",
    ] = ()
    exponent: Annotated[Exponent, "of Zipf's law of how often each is asked for; 0: all as often"] = 0.0
    resident: Annotated[
        Annotated[int, Whole(1, single=True, high=10_000)] | None,
        "adapters in device memory, those used last; others are copied from the host; null: all",
    ] = None

    @property
    def held(self) -> int:
        """Return how many adapters are in device memory."""
        return self.count if self.resident is None else min(self.resident, self.count)

    @property
    def _shares(self) -> Array:
        """Return how often each is asked for."""
        share = np.arange(1.0, self.count + 1.0) ** -float(self.exponent)
        shares: Array = share / share.sum()
        return shares

    @property
    def missed(self) -> float:
        """Return the share of requests whose adapter is not in device memory.

        missed = sum over i of p_i e^(-p_i t),    t: held = sum over i of 1 - e^(-p_i t)
        [Che, Tung and Wang, IEEE JSAC 20(7), 2002: of those used last; t in requests]
        """
        if self.held >= self.count:
            return 0.0
        time = self._until_held(lambda time: np.exp(-self._shares * time))
        return float((self._shares * np.exp(-self._shares * time)).sum())

    @property
    def seats(self) -> float | None:
        """Return how many requests run at a time, null where all adapters are in device memory.

        held = distinct(seats),    rounded down
        """
        if not self.are_any or self.held >= self.count:
            return None
        return max(float(np.floor(self._until_held(self._absent))), 1.0)

    def _absent(self, requests: Quantity) -> Array:
        """Return each one's chance that none of so many requests asks for it, (1 - p_i)^requests, below 1 if rare."""
        chance: Array = np.exp(requests * np.log1p(-np.minimum(self._shares, 1.0 - 2.0**-52)))
        return chance

    def _until_held(self, absent: Callable[[float], Array]) -> float:
        """Return the number at which as many adapters are expected as are held. absent: each one's chance to miss."""
        from scipy.optimize import brentq  # loads where some adapters are not in memory

        def beyond(number: float) -> float:
            return float((1.0 - absent(number)).sum()) - self.held

        high = 1.0
        while beyond(high) < 0.0:
            high *= 2.0
        return float(brentq(beyond, 0.0, high))

    @property
    def are_any(self) -> bool:
        """Tell whether there are adapters: neither their number nor their rank is zero."""
        return self.count > 0 and anywhere(self.rank > 0)

    def distinct(self, requests: Count) -> Count:
        """Return how many different adapters so many requests ask for, at least one.

        distinct = sum over i of 1 - (1 - p_i)^requests,    p_i ~ i^-exponent
        """
        absent = self._absent(np.asarray(requests)[..., None])
        expected = maximum((1.0 - absent).sum(axis=-1), 1.0)
        return float(expected) if np.ndim(expected) == 0 else expected


LoraOfRequests: TypeAlias = Annotated[
    ServedAdapters | None, "low-rank adapters (LoRA) that requests ask for; null: none"
]
