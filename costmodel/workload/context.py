"""What every layer builder needs to know: layout, formats, and this rank's tokens of a micro-batch."""

from __future__ import annotations

import math
from functools import cached_property

from costmodel.quantities import Bytes, Count, Mask, Quantity, is_single, maximum, where
from costmodel.records import Record, field, replace
from costmodel.workload.adapters import Adapters, ServedAdapters
from costmodel.workload.architecture import Architecture, MoeFfn, Pattern
from costmodel.workload.dtypes import BITS_PER_BYTE, COPIED_FORMATS, ELEMENT_BYTES, GroupScaling, element_bytes
from costmodel.workload.operators import Group
from costmodel.workload.plans import Decode, Serving
from costmodel.workload.scenario import Communication, Framework, Offload, Parallelism, Precision, Routing, Scenario


class Context(Record, kw_only=True, dict=True):
    """One rank's view of one micro-batch.

    phase: `training`, `prefill` or `decode`.
    sequences: sequences of the micro-batch on this rank.
    new_tokens: of each sequence, over all context-parallel ranks.
    kv_len: tokens that the last new token attends to, itself included.
    recompute: operator names (training).
    node_devices: devices of a node, which balanced placement of experts respects.
    co_batched_tokens: tokens of other work that passes the expert layers together with these, of the mean rank.
    peers: tokens of the mean rank that shares its experts, over this one's.
    micro_batches: of a training step.
    images, patches: those that come with the new tokens, over all context-parallel ranks, and the patches of each.
    adapters: that alone are trained (training), null: all weights are.
    served: adapters that requests ask for (serving), null: none.
    co_batched_sequences: sequences of other work that passes all layers together with these.
    reference: whose pass without gradients goes along (training): `copy`, `base` or `none`.
    loss_chunks: parts in which head and loss are computed (training).
    text_tokens: those of a prompt beside a sequence of latents.
    frames: of the latents of a sequence.
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
    routing: Routing = field(default_factory=Routing)
    node_devices: Count = math.inf
    co_batched_tokens: Count = 0.0
    peers: Quantity = 1.0
    micro_batches: Count = 1.0
    images: Count = 0.0
    patches: Count | None = None
    adapters: Adapters | None = None
    served: ServedAdapters | None = None
    co_batched_sequences: Count = 0.0
    reference: str = "none"
    loss_chunks: Count = 1.0
    text_tokens: Count = 0.0
    frames: Count = 1.0

    @property
    def is_frozen(self) -> bool:
        """Tell whether the model's own weights are not trained."""
        return self.adapters is not None

    @property
    def base(self) -> Context:
        """Return the context of frozen linear layers, which may be stored in a format of their own."""
        stored = None if self.adapters is None else self.adapters.base_precision
        if stored is None:
            return self
        formats = {"weights": stored, "weight_bits": None, "weight_scaling": GroupScaling()}
        return replace(self, precision=replace(self.precision, **formats))

    @property
    def of_reference(self) -> Context:
        """Return the context of a frozen model without adapters: that of the reference."""
        stored = None if self.adapters is None else self.adapters.base_precision
        return replace(self, adapters=Adapters(0.0, (), stored), reference="none")

    @property
    def accumulated_share(self) -> Quantity:
        """Return the share of micro-batches whose gradients a separate kernel accumulates."""
        if self.framework.training.accumulation == "autograd":
            return 1.0 - 1.0 / self.micro_batches
        return 0.0 if self.framework.training.accumulation == "product" else 1.0

    def fuses(self, ffn: MoeFfn) -> bool:
        """Tell whether grouped kernels of training compute casts, biases and the gated activation as well."""
        return ffn.gated and self.phase == "training" and self.precision.linear in self.framework.training.fused_experts

    def streams(self, ffn: MoeFfn) -> Count | None:
        """Return the streams over which a framework deals experts in training; null: one grouped GEMM."""
        has_streams = self.phase == "training" and not self.fuses(ffn)
        return self.framework.training.expert_streams if has_streams else None

    @property
    def casts_rows(self) -> bool:
        """Tell whether tokens travel to experts as they are, where products cast the rows that arrive."""
        return self.phase == "training" and self.framework.training.casts_rows

    @cached_property
    def copies_operands(self) -> bool:
        """Tell whether casts of training make both copies of an operand: one is read by each of its two products."""
        return self.phase == "training" and self.precision.linear in COPIED_FORMATS

    @cached_property
    def q_len(self) -> Count:
        """Return the new tokens of one sequence on this rank: new_tokens / cp."""
        return self.new_tokens / self.parallel.cp

    @cached_property
    def tokens(self) -> Count:
        """Return the new tokens of this rank: sequences * new_tokens / cp."""
        return self.sequences * self.q_len

    @cached_property
    def residual_tokens(self) -> Count:
        """Return this rank's tokens of the residual stream: split over tp under sequence parallelism."""
        return self.tokens / self.parallel.tp if self.parallel.sequence_parallel else self.tokens

    @property
    def gathered_share(self) -> Quantity:
        """Return the share of a gathered activation that one rank saves: 1/tp under sequence parallelism, else all."""
        return 1.0 / self.parallel.tp if self.parallel.sequence_parallel else 1.0

    @property
    def of_mean_rank(self) -> Context:
        """Return the context of the mean rank that shares the experts, which all of them together load."""
        if is_single(self.peers) and self.peers == 1.0:
            return self
        return replace(self, sequences=self.sequences * self.peers, peers=1.0)

    @cached_property
    def residual(self) -> Bytes:
        """Return the bytes of one element of the residual stream."""
        return ELEMENT_BYTES[self.precision.residual]

    @cached_property
    def in_branch(self) -> Context:
        """Return the context between a norm and the following sum, which may have a format of its own."""
        dtype = self.precision.branches
        return self if dtype is None else replace(self, precision=replace(self.precision, residual=dtype))

    @property
    def unquantised(self) -> Context:
        """Return the context of layers whose GEMMs and attention are in the residual stream's format."""
        wide = self.precision.residual
        precision = replace(
            self.precision, linear=wide, attention=wide, weights=wide, activations=wide, branches=None,
            scale_block=None, weight_scaling=GroupScaling(), weight_bits=None, parts={},
        )  # fmt: skip
        return replace(self, precision=precision)

    def part(self, name: str) -> Context:
        """Return the context of one part of the model, whose linear layers may have formats of their own."""
        return replace(self, precision=self.precision.part(name)) if self.precision.parts else self

    @cached_property
    def gemm_element(self) -> Bytes:
        """Return the bytes of one activation as a linear layer's GEMM reads it, block scale included."""
        return element_bytes(self.precision.linear, self.precision.scale_block)

    @cached_property
    def gemm_weight(self) -> Bytes:
        """Return the bytes of one weight as a linear layer's GEMM reads it.

        Wider weights were cast before. Narrower ones are expanded in the kernel.
        """
        precision = self.precision
        if ELEMENT_BYTES[precision.weights] <= ELEMENT_BYTES[precision.linear]:
            return self.stored_weight
        return element_bytes(precision.linear, self.weight_block)

    @cached_property
    def stored_weight(self) -> Bytes:
        """Return the bytes of one weight of a linear layer as stored, scales and zero points included."""
        precision = self.precision
        if precision.weight_bits is not None:
            return precision.weight_bits / BITS_PER_BYTE
        if precision.weight_scaling.group is not None:
            return precision.weight_scaling.element_bytes(precision.weights)
        return element_bytes(precision.weights, self.weight_block)

    @property
    def head_weight(self) -> float:
        """Return the bytes of one weight of the head as its GEMM reads it: as computed, or narrower as stored."""
        computed, stored = self.precision.head, self.precision.head_weights
        return ELEMENT_BYTES[computed] if stored is None else min(ELEMENT_BYTES[computed], ELEMENT_BYTES[stored])

    @property
    def weight_block(self) -> Count | None:
        """Return the weights that share one FP32 scale: a square of the activation's block length."""
        block = self.precision.scale_block
        return None if block is None else block * block

    @cached_property
    def saved_element(self) -> Bytes:
        """Return the bytes of one saved element of a GEMM's input."""
        return element_bytes(self.precision.activations, self.precision.scale_block)

    @cached_property
    def casts_inputs(self) -> bool:
        """Tell whether inputs of linear layers are cast: their format is narrower than the residual stream's."""
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
        """Return the expert-parallel group: `etp` apart."""
        return Group(self.parallel.ep, self.parallel.etp)

    @property
    def gathers_for_slices(self) -> Mask:
        """Tell where ranks with slices of one expert have different tokens, which they have to gather.

        The ranks of a tensor-parallel group have the same tokens anyway.
        """
        return (self.parallel.ep > 1) | (self.parallel.etp > self.parallel.tp)

    @property
    def experts_share_tokens(self) -> Mask:
        """Tell whether the ranks of a tensor-parallel group compute their slices of an expert on the same tokens."""
        return (self.parallel.etp > 1) & (self.parallel.ep <= 1) & (self.parallel.etp <= self.parallel.tp)

    @property
    def expert_slice_group(self) -> Group:
        """Return the ranks that gather tokens for the slices of one expert: `etp` neighbours, or one."""
        return Group(where(self.gathers_for_slices, self.parallel.etp, 1.0))

    def pairs(self, pattern: Pattern, *, causal: bool) -> Count:
        """Return the (query, key) pairs of one head and sequence on this rank.

        Context-parallel ranks share the pairs evenly (zigzag order).
        """
        return pattern.pairs(self.new_tokens, self.kv_len, causal=causal) / self.parallel.cp

    def cached_keys(self, pattern: Pattern) -> Count:
        """Return the cached tokens of a sequence that a decoding step reads on this rank: a share over cp."""
        return pattern.keys_read(self.new_tokens, self.kv_len) / self.parallel.cp


def rank_context(scenario: Scenario, phase: str, sequences: Count, new_tokens: Count, kv_len: Count) -> Context:
    """Return one rank's view of a micro-batch of a phase."""
    denoiser, plan = scenario.architecture.denoiser, scenario.plan
    served = plan.adapters if isinstance(plan, Decode | Serving) else None
    return Context(
        architecture=scenario.architecture,
        parallel=scenario.parallel,
        precision=scenario.precision,
        communication=scenario.communication,
        framework=replace(scenario.framework, eager_prompts=scenario.eager_prompts),
        phase=phase,
        sequences=sequences,
        new_tokens=new_tokens,
        kv_len=kv_len,
        routing=scenario.routing,
        offload=scenario.offload,
        node_devices=scenario.cluster.node.count,
        text_tokens=0.0 if denoiser is None else denoiser.text_tokens,
        served=served if served is not None and served.are_any else None,
    )


def per_rank(value: Quantity, degree: Quantity) -> Quantity:
    """Return a count split over `degree` ranks, at least one each: fewer items than ranks are replicated."""
    return maximum(value / degree, 1.0)
