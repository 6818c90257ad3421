"""The time of a linear recurrence over a prompt: kernels over all chunks at once, and one that passes states on."""

from __future__ import annotations

from typing import ClassVar

from costmodel.cost.gemm import GemmForm
from costmodel.cost.parameter import DeclaredRecord, constant, fitted, like
from costmodel.cost.residual import Features
from costmodel.cost.time import Machine, Terms, Time, busy_kernel, p_norm
from costmodel.equations import equation
from costmodel.quantities import ceil, log2
from costmodel.workload.operators import AttentionKernel

OVERLAP_P = 4.0  # chosen: work and bytes overlap, and the longer one counts


class ScanForm(DeclaredRecord, kw_only=True):
    """Chunkwise kernels of a linear recurrence, which launch one after another.

    Chunks are worked on all at once, which leaves results in memory between kernels. One kernel passes a state from
    chunk to chunk. A chunk that a sequence does not fill costs its fixed part, not its rows.

    Yang et al., arXiv 2412.06464, section 3.3, and fla-org/flash-linear-attention, fla/ops/gated_delta_rule/chunk.py.
    """

    SECTION: ClassVar[str] = "19.5"
    AXES: ClassVar[dict[str, float]] = {"q_len": 2.0, "batch_heads": 2.0, "heads": 4.0}

    launch: float = like(GemmForm, "launch")
    compute_efficiency: float = fitted("1", 0.1, 1e-3, 1.3, "of the dense peak, inside chunks")
    hbm_efficiency: float = fitted("1", 0.1, 1e-3, 1.3, "of the HBM bandwidth, results between kernels not counted")
    state_step: float = fitted("cycles", 2000.0, 1.0, 3e4, "step of a state from one chunk to the next")
    chunk_cycles: float = fitted("cycles", 1e4, 1.0, 3e5, "fixed part of a head's chunk on a processor")

    chunk: int = constant("tokens of a chunk", "count")

    def time(self, attention: AttentionKernel, machine: Machine) -> Time:
        """Return the time of all kernels of the scan."""
        terms = self.terms(attention, machine)
        busy = terms["state_time"] + terms["chunk_time"] + terms["row_time"]
        return busy_kernel(self.launch, busy, terms["hbm_time"], OVERLAP_P)

    @equation
    def terms(self, attention: AttentionKernel, machine: Machine) -> Terms:
        """Return the terms.

        t = launch + state_time + chunk_time + row_time
        state_time = chunks * state_step / clock
        chunks = ceil(attention.q_len / chunk)
        chunk_time = attention.sequences * attention.heads * chunks * chunk_cycles / (processors * clock)
        row_time = (compute**OVERLAP_P + hbm**OVERLAP_P) ** (1 / OVERLAP_P)
        compute = attention.flop / (compute_efficiency * processors * peak)
        hbm = attention.traffic / (hbm_efficiency * machine.hbm_bandwidth)
        """
        clock, processors = machine.device.math[attention.dtype].clock, machine.processors
        chunks = ceil(attention.q_len / self.chunk)
        chunk_time = attention.sequences * attention.heads * chunks * self.chunk_cycles / (processors * clock)
        peak = machine.processor_peak(attention.dtype)
        compute = attention.flop / (self.compute_efficiency * processors * peak)
        hbm = attention.traffic / (self.hbm_efficiency * machine.hbm_bandwidth)
        return {
            "state_time": chunks * self.state_step / clock, "chunks": chunks, "chunk_time": chunk_time,
            "row_time": p_norm(OVERLAP_P, compute, hbm), "compute_time": compute, "hbm_time": hbm,
        }  # fmt: skip

    def features(self, attention: AttentionKernel) -> Features:
        """Return log2 of new tokens, heads of all sequences, and heads."""
        return (log2(attention.q_len), log2(attention.sequences * attention.heads), log2(attention.heads))  # fmt: skip
