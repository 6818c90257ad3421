"""The time of attention whose queries each select their keys: one CTA a query, over all slots of its selection."""

from __future__ import annotations

from typing import ClassVar

from costmodel.cost.attention import PrefillForm
from costmodel.cost.machine import Machine
from costmodel.cost.parameter import DeclaredRecord, constant, fitted, like
from costmodel.cost.residual import Features
from costmodel.cost.terms import Terms, p_norm
from costmodel.cost.time import Time, busy_kernel
from costmodel.equations import equation
from costmodel.quantities import Count, Quantity, ceil, log2, maximum, where
from costmodel.workload.operators import AttentionKernel

OVERLAP_P = 4.0  # chosen: CTAs and bytes overlap, and the longer one counts


class SelectedForm(DeclaredRecord, kw_only=True):
    """Kernels that gather the selected keys of a query for all its heads.

    A selection has as many slots as keys may be chosen. Those that are empty take as long as the others. Heads fill
    whole tiles.

    deepseek-ai/FlashMLA, csrc/sm90/prefill/sparse/fwd.cu: a CTA takes one query and 64 heads, 64 keys at a time.
    """

    SECTION: ClassVar[str] = "19.6"
    AXES: ClassVar[dict[str, float]] = {"queries": 2.0, "kv_len": 3.0, "heads": 2.0, "slots": 2.0}

    launch: float = like(PrefillForm, "launch")
    compute_efficiency: float = like(PrefillForm, "compute_efficiency")
    hbm_efficiency: float = like(PrefillForm, "hbm_efficiency")
    cta_overhead: float = like(PrefillForm, "cta_overhead")
    wave_tail_loss: float = fitted("1", 0.5, 0.01, 1.0, "share lost of a wave that is not full")

    head_tile: int = constant("heads of a CTA", "count")

    def time(self, attention: AttentionKernel, machine: Machine) -> Time:
        """Return the kernel's time."""
        terms = self.terms(attention, machine)
        return busy_kernel(self.launch, terms["busy_time"], terms["hbm_time"], OVERLAP_P)

    @equation
    def terms(self, attention: AttentionKernel, machine: Machine) -> Terms:
        """Return the terms.

        t = launch + busy_time
        busy_time = (cta**OVERLAP_P + hbm**OVERLAP_P) ** (1 / OVERLAP_P)
        cta = waves * (cta_overhead + math) / unit.clock
        waves = max(filled + wave_tail_loss * (ceil(filled) - filled), 1)
        filled = ctas / machine.processors
        ctas = attention.sequences * attention.q_len * ceil(attention.heads / head_tile)
        math = 2 * head_tile * slots * attention.macs_per_pair / peak
        peak = compute_efficiency * unit.flop_per_cycle
        hbm = attention.traffic / (hbm_efficiency * machine.hbm_bandwidth)
        slots := keys that a query may select, or the pairs of a query where no selection has empty slots
        """
        unit, slots = machine.device.math[attention.dtype], _slots(attention)
        ctas = attention.sequences * attention.q_len * ceil(attention.heads / self.head_tile)
        filled = ctas / machine.processors
        waves = maximum(filled + self.wave_tail_loss * (ceil(filled) - filled), 1.0)
        peak = self.compute_efficiency * unit.flop_per_cycle
        math = 2.0 * self.head_tile * slots * attention.macs_per_pair / peak
        cta = waves * (self.cta_overhead + math) / unit.clock
        hbm = attention.traffic / (self.hbm_efficiency * machine.hbm_bandwidth)
        return {
            "busy_time": p_norm(OVERLAP_P, cta, hbm), "cta_time": cta, "hbm_time": hbm, "waves": waves,
            "filled": filled, "ctas": ctas, "math_cycles": math, "slots": slots,
        }  # fmt: skip

    def features(self, attention: AttentionKernel) -> Features:
        """Return log2 of queries, keys, heads and slots."""
        return (
            log2(attention.sequences * attention.q_len), log2(attention.kv_len), log2(attention.heads),
            log2(_slots(attention)),
        )  # fmt: skip


def _slots(attention: AttentionKernel) -> Quantity:
    """Return the keys that a query's CTA runs over."""
    chosen: Count = attention.selected
    return where(chosen > 0.0, chosen, attention.qk_pairs / maximum(attention.q_len, 1.0))
