"""What every layer builder needs to know: the layout, the formats, and how many tokens this rank sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from costmodel.quantities import Bytes, Count, Mask, Quantity, maximum, where
from costmodel.workload.architecture import Architecture, Pattern
from costmodel.workload.dtypes import ELEMENT_BYTES, element_bytes, grouped_bytes
from costmodel.workload.operators import Group
from costmodel.workload.scenario import Communication, Framework, Offload, Parallelism, Precision, Routing

BALANCED = Routing()

BITS_PER_BYTE = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """One rank's view of one micro-batch.

    sequences: sequences of the micro-batch on this rank; length: new tokens of each, over all context-parallel ranks;
    keys: tokens that the last of them can attend to, itself among them; phase: `training`, `prefill` or `decode`;
    recompute: operator names (training); offload: what the host keeps; node_devices: devices of a node, which balanced
    placement of experts respects; beside: tokens of other work on this rank that goes through the expert layers
    together with these; micro_batches: of a training step.
    """

    architecture: Architecture
    parallel: Parallelism
    precision: Precision
    communication: Communication
    framework: Framework
    phase: str
    sequences: Count
    new_tokens: Count
    kv_len: Count
    recompute: frozenset[str] = frozenset()
    offload: Offload = field(default_factory=Offload)
    routing: Routing = BALANCED
    node_devices: Count = math.inf
    co_batched_tokens: Count = 0.0
    micro_batches: Count = 1.0

    @property
    def accumulated_share(self) -> Quantity:
        """Return the share of micro-batches whose gradients a kernel of its own adds to those before; 0: none does."""
        how = self.framework.accumulation
        return 0.0 if how == "product" else 1.0 if how == "buffer" else 1.0 - 1.0 / self.micro_batches

    @property
    def q_len(self) -> Count:
        """Return the new tokens of one sequence on this rank: length / cp."""
        return self.new_tokens / self.parallel.cp

    @property
    def tokens(self) -> Count:
        """Return the new tokens of this rank: sequences * length / cp."""
        return self.sequences * self.q_len

    @property
    def residual_tokens(self) -> Count:
        """Return the tokens of the residual stream that this rank holds: split over tp under sequence parallelism."""
        return self.tokens / self.parallel.tp if self.parallel.sequence_parallel else self.tokens

    @property
    def gathered_share(self) -> Quantity:
        """Return the share of a gathered activation that one rank keeps: 1/tp under sequence parallelism, else all."""
        return 1.0 / self.parallel.tp if self.parallel.sequence_parallel else 1.0

    @property
    def residual(self) -> Bytes:
        """Return the bytes of one element of the residual stream."""
        return ELEMENT_BYTES[self.precision.residual]

    @property
    def in_branch(self) -> Context:
        """Return the view of what stands between a norm and the sum behind it, whose format may be its own."""
        own = self.precision.branches
        return self if own is None else replace(self, precision=replace(self.precision, residual=own))

    @property
    def gemm_element(self) -> Bytes:
        """Return the bytes of one element as a linear layer's matrix product reads it, block scale included."""
        return element_bytes(self.precision.linear, self.precision.scale_block)

    @property
    def gemm_weight(self) -> Bytes:
        """Return the bytes of one weight as a linear layer's matrix product reads it.

        Wider ones than the product's format were cast before; narrower ones the kernel expands on the way.
        """
        precision = self.precision
        if ELEMENT_BYTES[precision.weights] <= ELEMENT_BYTES[precision.linear]:
            return self.stored_weight
        return element_bytes(precision.linear, self.weight_block)

    @property
    def stored_weight(self) -> Bytes:
        """Return the bytes of one weight of a linear layer as memory holds it, scales and zero points included."""
        precision = self.precision
        if precision.weight_bits is not None:
            return precision.weight_bits / BITS_PER_BYTE
        if precision.weight_group is not None:
            return grouped_bytes(
                precision.weights, precision.weight_group, precision.weight_scale, precision.weight_zero
            )
        return element_bytes(precision.weights, self.weight_block)

    @property
    def head_weight(self) -> float:
        """Return the bytes of one weight of the head as its product reads it: as computed, or narrower as stored."""
        computed, stored = self.precision.head, self.precision.head_weights
        return ELEMENT_BYTES[computed] if stored is None else min(ELEMENT_BYTES[computed], ELEMENT_BYTES[stored])

    @property
    def weight_block(self) -> Count | None:
        """Return the weights that share one FP32 scale: a square of the activation's block length."""
        block = self.precision.scale_block
        return None if block is None else block * block

    @property
    def saved_element(self) -> Bytes:
        """Return the bytes of one element of a matrix product's input as the backward pass keeps it."""
        return element_bytes(self.precision.activations, self.precision.scale_block)

    @property
    def casts_inputs(self) -> bool:
        """Tell whether linear layers take a narrower format than the residual stream, so that inputs are cast."""
        return ELEMENT_BYTES[self.precision.linear] < ELEMENT_BYTES[self.precision.residual]

    @property
    def tp_group(self) -> Group:
        """Return the tensor-parallel group: neighbours."""
        return Group(self.parallel.tp)

    @property
    def cp_group(self) -> Group:
        """Return the context-parallel group: `tp` apart."""
        return Group(self.parallel.cp, self.parallel.tp)

    @property
    def ep_group(self) -> Group:
        """Return the expert-parallel group: neighbours, `expert_tensor` apart."""
        return Group(self.parallel.ep, self.parallel.etp)

    @property
    def gathers_for_slices(self) -> Mask:
        """Tell where ranks with slices of one expert have tokens of their own, which they have to gather first.

        Not where a tensor-parallel group holds the slices: its ranks have the same tokens anyway.
        """
        return (self.parallel.ep > 1) | (self.parallel.etp > self.parallel.tp)

    @property
    def expert_slice_group(self) -> Group:
        """Return the ranks that gather tokens for the slices of one expert: `expert_tensor` neighbours, or one."""
        return Group(where(self.gathers_for_slices, self.parallel.etp, 1.0))

    def pairs(self, pattern: Pattern, *, causal: bool) -> Count:
        """Return the (query, key) pairs of one head and sequence on this rank.

        Context-parallel ranks share the pairs evenly (zigzag order).
        """
        return pattern.pairs(self.new_tokens, self.kv_len, causal=causal) / self.parallel.cp

    def cached_keys(self, pattern: Pattern) -> Count:
        """Return the cached tokens of a sequence that a decoding step reads on this rank: its share over cp."""
        return pattern.keys_read(self.new_tokens, self.kv_len) / self.parallel.cp


def per_rank(value: Quantity, degree: Quantity) -> Quantity:
    """Return a count split over `degree` ranks, at least one each (more ranks than items: items are replicated)."""
    return maximum(value / degree, 1.0)
