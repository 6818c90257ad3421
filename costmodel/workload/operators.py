"""The operators that a workload is made of. Each knows its work (FLOP, bytes), none knows a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np

from costmodel.quantities import Bytes, Count, Flop, Mask, Quantity, Seconds, is_single, maximum, minimum, where
from costmodel.records import Record, ValueRecord, replace
from costmodel.workload.expert_targets import targets_of, targets_of_point
from costmodel.workload.order_statistics import normal_maximum
from costmodel.workload.popularity import Popularity
from costmodel.workload.variant import Variant

TINY = 1e-12  # a group of one has no most loaded rank


class Gemm(Record):
    """`groups` equal GEMMs [m,k] x [k,n]. Where rows differ between groups, m is their mean.

    a_bytes, b_bytes, out_bytes: one element of A, B and the result [B]. A result that accumulates counts a read too.
    replicas: ranks that repeat this very GEMM.
    m_std: standard deviation of the rows of a group.
    expert_load: FLOP of this rank over the mean rank's.
    block_scaled: FP8 operands carry a scale per block, which the kernel applies.
    masked: each group has a buffer of fixed size that it fills in part.
    local_experts, experts: groups of this rank and of all ranks, with or without rows (0: not stated).
    tokens: tokens that the rows are copies of (0: not stated).
    is_wgrad: weight gradient, whose operands are quantised along the other dimension.
    microscaled: weights are expanded from MXFP4 to 16 bits.
    tuned: one where the engine ships tiles tuned for these experts on the device, else zero.
    calls: equal kernels one after the other, of `groups` each.
    """

    name: str
    m: Count
    n: Count
    k: Count
    dtype: str
    a_bytes: Bytes
    b_bytes: Bytes
    out_bytes: Bytes
    groups: Count = 1.0
    replicas: Count = 1.0
    family: str = "gemm"
    m_std: Count = 0.0
    expert_load: Quantity = 1.0
    block_scaled: bool = False
    masked: bool = False
    local_experts: Count = 0.0
    experts: Count = 0.0
    tokens: Count = 0.0
    is_wgrad: bool = False
    microscaled: bool = False
    tuned: Quantity = 0.0
    calls: Count = 1.0

    @property
    def variant(self) -> str:
        """Return the kernels of the family: by number formats, block scales, masked buffers, weight gradient.

        Both operands of a block-scaled weight gradient carry scales along rows only.
        """
        own = Variant(
            self.dtype, block_scaled=self.block_scaled, masked=self.masked, microscaled=self.microscaled,
            is_wgrad=self.block_scaled and self.is_wgrad,
        )  # fmt: skip
        return str(own)

    @property
    def is_of_experts(self) -> bool:
        """Tell whether it computes experts."""
        return not (is_single(self.experts) and self.experts == 0.0)

    @property
    def one(self) -> Gemm:
        """Return one of its calls."""
        return self if is_single(self.calls) and self.calls == 1.0 else replace(self, calls=1.0)

    @property
    def starts(self) -> Count:
        """Return the kernels that the host starts: each GEMM, of a grouped or batched one each call."""
        return self.calls * self.groups if self.family == "gemm" else self.calls

    @property
    def flop(self) -> Flop:
        """Return 2*m*n*k of all groups and calls [FLOP]."""
        return 2.0 * self.calls * self.groups * self.m * self.n * self.k

    @property
    def traffic(self) -> Bytes:
        """Return the compulsory device-memory traffic: each operand once [B]."""
        per_group = self.m * self.k * self.a_bytes + self.k * self.n * self.b_bytes + self.m * self.n * self.out_bytes
        return self.calls * self.groups * per_group


class AttentionKernel(Record):
    """Fused softmax(Q K^T) V of `sequences` sequences. The scores stay on the chip.

    q_len: query rows of one head and sequence.
    qk_pairs: (query, key) pairs of one head and sequence.
    macs_per_pair: multiply-adds of a pair: qk_dim + v_dim forward, 3*qk_dim + 2*v_dim backward with recomputed scores.
    forward_macs_per_pair: of a backward kernel, those of its forward kernel. 0 for a forward kernel.
    traffic: bytes of Q, K, V and results, shared by `calls` kernels in sequence [B].
    kv_heads, kv_len: key-value heads, and tokens that each holds of a sequence.
    kv_token_bytes: keys and values of one token and key-value head [B].
    quantized_kv: the cache has a narrower format than the GEMMs.
    last_query_kv_len: keys of the last query (null: all).
    selected: keys that each query may select, of which fewer may exist (0: none is selected).
    relative_speed: over the device's fused kernel at equal pairs.
    serial_cycles: cycles of a thread block that scans its sequence chunk by chunk.
    blocks: of them per processor.
    kind: what it computes, where kernels of a family differ by that (empty: they do not).
    """

    name: str
    sequences: Count
    heads: Count
    q_len: Count
    qk_pairs: Count
    macs_per_pair: Count
    dtype: str
    traffic: Bytes
    family: str
    replicas: Count = 1.0
    calls: Count = 1.0
    kv_heads: Count = 1.0
    kv_len: Count = 1.0
    kv_token_bytes: Bytes = 0.0
    quantized_kv: bool = False
    forward_macs_per_pair: Count = 0.0
    last_query_kv_len: Count | None = None
    selected: Count = 0.0
    relative_speed: Quantity = 1.0
    serial_cycles: Count = 0.0
    blocks: Count = 1.0
    kind: str = ""

    @property
    def forward(self) -> AttentionKernel:
        """Return the forward kernel of a backward one. It moves half the bytes: q, k, v in and o out."""
        return replace(
            self, macs_per_pair=self.forward_macs_per_pair, traffic=self.traffic / 2.0, forward_macs_per_pair=0.0
        )

    @property
    def variant(self) -> str:
        """Return the kernels of the family: by what they compute, or by number format and how narrow the cache is."""
        return self.kind or str(Variant(self.dtype, quantized_kv=self.quantized_kv))

    @property
    def flop(self) -> Flop:
        """Return 2 * sequences * heads * qk_pairs * macs_per_pair [FLOP]."""
        return 2.0 * self.sequences * self.heads * self.qk_pairs * self.macs_per_pair


class MixedAttention(Record):
    """One kernel that attends for several populations of sequences: prompt chunks and decoding requests together.

    parts: each population on its own, all with the same heads and formats.
    """

    name: str
    parts: tuple[AttentionKernel, ...]
    family: str = "attention_mixed"
    replicas: Count = 1.0

    @property
    def dtype(self) -> str:
        """Return the number format of the GEMMs."""
        return self.parts[0].dtype

    @property
    def variant(self) -> str:
        """Return the variant of the parts, the one with a quantised cache if any."""
        return next((part.variant for part in self.parts if part.quantized_kv), self.dtype)

    @property
    def flop(self) -> Flop:
        """Return the work of all parts [FLOP]."""
        return sum((part.flop for part in self.parts), start=0.0)

    @property
    def traffic(self) -> Bytes:
        """Return the compulsory bytes of all parts [B]."""
        return sum((part.traffic for part in self.parts), start=0.0)


class Elementwise(Record):
    """A memory-bound kernel: norms, activations, casts, permutations, rotary, the optimizer.

    traffic: of all `calls` kernels together [B].
    kind: what it computes, where kernels are fitted by that.
    rows: rows of the tensor, one thread block each (0: not stated).
    work: FLOP counted as model work, such as those of a depth-wise convolution.
    special: special functions, such as cosines, of which a processor starts few in a cycle.
    product: `family/variant` of the GEMMs that it belongs to, whose kernels it was measured with (empty: none).
    in_place: the same of kernels that leave rows where they are (null: no other).
    """

    name: str
    traffic: Bytes
    family: str = "elementwise"
    calls: Count = 1.0
    kind: str = ""
    rows: Count = 0.0
    work: Flop = 0.0
    special: Count = 0.0
    product: str = ""
    in_place: Elementwise | None = None

    @property
    def variant(self) -> str:
        """Return the kernels of the family: those of its kind."""
        return self.kind

    @property
    def flop(self) -> Flop:
        """Return the FLOP that count as model work."""
        return self.work


class Group(Record):
    """Ranks that communicate: `size` of them, `stride` apart in rank order (1: neighbours)."""

    size: Count
    stride: Count = 1.0

    def on_one_node(self, devices: Count) -> Count:
        """Return the ranks that share a node of `devices`: clip(devices / stride, 1, size)."""
        return minimum(maximum(devices / self.stride, 1.0), self.size)


class Collective(Record):
    """An NCCL-style operation on a buffer of `size` bytes, counted as nccl-tests does [B].

    calls: operations of that size in sequence.
    attention_overlap: share of the preceding attention kernel that it overlaps (0: none).
    overlapped_gemm: GEMM that it overlaps (null: none), in `chunks` parts of which the first is exposed (0: none is).
    """

    name: str
    kind: str  # all_reduce | all_gather | reduce_scatter | all_to_all | broadcast | send_recv
    size: Bytes
    group: Group
    family: str = "collective"
    calls: Count = 1.0
    attention_overlap: Count = 0.0
    overlapped_gemm: Gemm | None = None
    chunks: Count = 0.0

    @property
    def variant(self) -> str:
        """Return the algorithms of the family: those of its kind."""
        return self.kind


class ExpertAllToAll(Record):
    """One direction of the expert all-to-all: `dispatch` to the experts or `combine` back.

    tokens: of one rank, each copied to `top_k` distinct experts of `experts`.
    token_bytes: one copy [B].
    expert_groups, group_top_k: equal groups of experts, and how many a token may use. 1 and 1 if routing is free.
    mode: `normal` or `low_latency`.
    expert_load: rows of the most loaded rank over the mean.
    popularity: distribution of tokens over experts (null: all experts alike).
    padded: every expert has a buffer of fixed size, which is sent whole.
    codec: relative time added by kernels that encode and decode the payload, or check it.
    fences: round trips that it waits for its data to be ordered before their flag.
    in_network: switches replicate or reduce, while the opposite direction runs. A token then adds one copy to the
        busier side of the inter-node links.
    """

    name: str
    tokens: Count
    token_bytes: Bytes
    top_k: int
    experts: Count
    expert_groups: Count
    group_top_k: int
    group: Group
    mode: str
    expert_load: Count
    family: str
    popularity: Popularity | None = None
    padded: bool = False
    codec: Quantity = 0.0
    in_network: bool = False
    fences: Count = 0.0
    variant: ClassVar[str] = ""  # each mode is a family of its own

    @property
    def deduplicates(self) -> bool:
        """Tell whether a token is sent once per node and rank rather than once per expert."""
        return self.mode == "normal" and not self.padded

    def most_loaded(self, targets: Count) -> Quantity:
        """Return the distinct tokens that reach the most loaded of `targets`, over the mean of equal experts.

        Where only `expert_load` is known, ranks have independent normal loads with that expected maximum. A target
        (node or rank) has the mean of its ranks and never more than all tokens:

            1 + (load - 1) * e(targets)/e(ranks) * sqrt(targets/ranks),    e(n): expected largest of n standard normals
        """
        share = self.targets(targets) / targets
        if self.popularity is None:
            return minimum(self._load_from_ranks(targets), 1 / share)
        return self.popularity.most_loaded_target(targets, share)

    def _load_from_ranks(self, targets: Count) -> Quantity:
        """Return the load of the most loaded target that follows from `expert_load`, the one of ranks."""
        if is_single(self.expert_load) and self.expert_load == 1:
            return 1.0
        ranks = self.group.size
        ratio = normal_maximum(targets) / maximum(normal_maximum(ranks), TINY) * np.sqrt(targets / ranks)
        return 1.0 + (self.expert_load - 1.0) * ratio

    def targets(self, places: Count) -> Count:
        """Return the expected number of `places` (nodes or ranks, with equally many experts) that a token visits.

        A token takes M of G groups, then k of their R experts, all equally likely. With q = G/places groups on a place,
        j of them among the M (hypergeometric), each with R/M experts:

            E = places * sum_j C(q, j) * C(G-q, M-j) / C(G, M) * (1 - prod_i (R - j*R/M - i) / (R - i))

        A place with less than a group (q < 1) follows `distinct_targets`.
        """
        sizes = (self.experts, self.expert_groups, places)
        if all(map(is_single, sizes)):
            return targets_of_point(self.top_k, self.group_top_k, *(float(size) for size in sizes))
        return targets_of(self.top_k, self.group_top_k, *sizes)


class HostTransfer(Record):
    """A copy over a device's link to its host, of `size` bytes [B].

    direction: `in` to the device or `out` of it.
    devices: all devices that copy at the same time. Those of a node share its host's memory.
    per_pass: one copy serves all micro-batches of a pass.
    """

    name: str
    size: Bytes
    direction: str
    devices: Count
    family: str = "host_transfer"
    per_pass: bool = False
    variant: ClassVar[str] = ""


class HostUpdate(Record):
    """Memory-bound work of the host for one device, such as an optimizer step: `traffic` bytes of host memory [B]."""

    name: str
    traffic: Bytes
    devices: Count  # as of a transfer
    family: str = "host_update"
    variant: ClassVar[str] = ""


class HostGemm(Record):
    """A GEMM that the host computes for one device from operands in its own memory."""

    name: str
    gemm: Gemm
    devices: Count  # as of a transfer
    family: str = "host_product"
    variant: ClassVar[str] = ""

    @property
    def flop(self) -> Flop:
        """Return the FLOP of the GEMM."""
        return self.gemm.flop

    @property
    def traffic(self) -> Bytes:
        """Return the host-memory traffic: each operand once [B]."""
        return self.gemm.traffic


class HostTime(Record):
    """Time in which the device waits for the host's program: scheduling, sampling, code between kernels [s]."""

    name: str
    seconds: Seconds
    family: str = "host_time"
    variant: ClassVar[str] = ""  # the framework distinguishes programs


Kernel: TypeAlias = Gemm | AttentionKernel | MixedAttention | Elementwise  # of the device
Message: TypeAlias = Collective | ExpertAllToAll
HostWork: TypeAlias = HostUpdate | HostGemm
Operator: TypeAlias = Kernel | Message | HostTransfer | HostWork | HostTime
_OperatorT = TypeVar("_OperatorT", bound=Operator)


class Kind(ValueRecord):
    """What holds for all operators of a class.

    time_section: of docs/method.md, which states their time without a fit.
    work_section: that counts their FLOP and their bytes, empty for what has neither of its own.
    adds: fields that add up where one operator serves the rows of two.
    """

    time_section: str
    work_section: str = ""
    adds: tuple[str, ...] = ()


KINDS: Mapping[type, Kind] = {
    Gemm: Kind("7.1", "2.2", ("m",)),
    AttentionKernel: Kind("7.3", "2.3"),
    MixedAttention: Kind("7.3", "2.3", ("parts",)),
    Elementwise: Kind("7.4", "2.4", ("traffic", "rows")),
    Collective: Kind("8.2", adds=("size",)),
    ExpertAllToAll: Kind("9", adds=("tokens",)),
    HostTransfer: Kind("12.6", adds=("size",)),
    HostUpdate: Kind("12.6", adds=("traffic",)),
    HostGemm: Kind("12.6"),
    HostTime: Kind("12.7"),
}


def has_work(operator: Operator) -> Mask:
    """Tell where an operator starts a kernel: a GEMM with rows, attention with sequences, any other operator."""
    if isinstance(operator, Gemm):
        return operator.m > 0
    return operator.sequences > 0 if isinstance(operator, AttentionKernel) else True


def clamp_sizes(operator: _OperatorT) -> _OperatorT:
    """Return the operator with empty sizes clamped to one, so that it has a valid shape."""
    present = has_work(operator)
    if present is True or np.all(present):  # the first is much quicker, and all that single sizes need
        return operator
    if isinstance(operator, Gemm):
        return replace(operator, m=where(present, operator.m, 1.0))
    assert isinstance(operator, AttentionKernel)
    sequences, traffic = (where(present, value, 1.0) for value in (operator.sequences, operator.traffic))
    return replace(operator, sequences=sequences, traffic=traffic)


def expert_all_to_all_family(direction: str, mode: str) -> str:
    """Return the operator family of an expert all-to-all. The modes share no kernel, so each is fitted on its own."""
    return direction if mode == "normal" else f"{direction}_{mode}"


GEMM_FAMILIES = ("gemm", "grouped_gemm")  # families of linear layers


def gemm_family(family: str, *, weight_only: bool) -> str:
    """Return the operator family of a GEMM. Kernels that expand narrow weights are fitted on their own."""
    return f"{family}_weight_only" if weight_only else family


WEIGHT_ONLY = frozenset(gemm_family(family, weight_only=True) for family in GEMM_FAMILIES)


_SUFFIXES = (
    " gradient cast",
    " transposed casts",
    " cast",
    " input gradient",
    " weight gradient",
    " gradient",
    " again",
)


def kernel_key(operator: Operator) -> str:
    """Return the family of an operator's kernels, with their variant where there is one: `gemm/fp8`."""
    return "/".join(filter(None, (operator.family, operator.variant)))


def is_alone(operator: Operator) -> bool:
    """Tell whether an operator is a message of each rank to itself, which takes no time."""
    return isinstance(operator, Collective) and bool(np.all(np.less_equal(operator.group.size, 1)))


def base_name(name: str) -> str:
    """Return the operator that a name belongs to: all passes of an operator share a line, and so do all casts.

    A prefix before a colon, the phase that the operator runs in, is kept.
    """
    prefix, colon, base = name.rpartition(": ")
    for suffix in _SUFFIXES:
        if base.endswith(suffix):
            return prefix + colon + ("casts" if "cast" in suffix else base.removesuffix(suffix))
    return name
