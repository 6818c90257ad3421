"""The operators that a workload is made of. Each knows its work (FLOP, bytes), none knows a time."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np

from costmodel.quantities import Bytes, Count, Flop, Mask, Quantity, Seconds, is_single, maximum, minimum, where
from costmodel.workload.order_statistics import normal_maximum
from costmodel.workload.popularity import Popularity
from costmodel.workload.variant import Variant

TINY = 1e-12  # a group of one has no fullest rank


@dataclass(frozen=True, slots=True, eq=False)
class Gemm:
    """`groups` equal matrix products [m,k] x [k,n], or one product a group where `m` rows stand for each of them.

    left, right, out: bytes of one element of the operands and of the result; `out` counts a read as well where the
    result is accumulated in place. replicas: ranks that repeat this very product. deviation: standard deviation of the
    rows of a group about their mean `m`; load: FLOP of this rank over those of the mean one; block_scaled: FP8 operands
    carry a scale for every block of elements, which the kernel applies; turned: a weight gradient, whose operands are
    re-quantised along the other side; masked: every group has a buffer of fixed
    size, of which it fills a part; held, experts: groups of this rank and of all ranks, with rows or without; tokens:
    that the rows are copies of (these three zero: not stated).
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

    @property
    def variant(self) -> str:
        """Return which kernels of the family run it: those of its number format, of masked buffers, of two vectors.

        Both operands of a block-scaled weight gradient carry scales along their rows only.
        """
        is_wgrad = self.block_scaled and self.is_wgrad
        return str(Variant(self.dtype, block_scaled=self.block_scaled, masked=self.masked, is_wgrad=is_wgrad))

    @property
    def flop(self) -> Flop:
        """Return 2*m*n*k of every group [FLOP]."""
        return 2.0 * self.groups * self.m * self.n * self.k

    @property
    def traffic(self) -> Bytes:
        """Return the compulsory bytes to and from device memory: each operand once [B]."""
        per_group = self.m * self.k * self.a_bytes + self.k * self.n * self.b_bytes + self.m * self.n * self.out_bytes
        return self.groups * per_group


@dataclass(frozen=True, slots=True, eq=False)
class AttentionKernel:
    """Fused softmax(Q K^T) V of `sequences` sequences; no score leaves the chip.

    pairs: (query, key) pairs of one head and sequence; products: matrix-product width per pair in multiply-adds
    (qk_dim + v_dim forward, 3*qk_dim + 2*v_dim for a backward pass that recomputes the scores); rows: query rows of one
    head and sequence; traffic: bytes of Q, K, V and results [B]; calls: kernels, one after the other, that share it;
    kv_heads, keys: key-value heads and tokens of one sequence that they hold; cached: bytes of one token of one
    key-value head, keys and values [B]; narrow_cache: the cache has a narrower format than the products;
    forward_products: of a backward core, the products of the forward one; 0: it is a forward one; seen: keys that the
    last query sees, null: all; rate: speed of its kernel over that of the device's fused one at equal pairs; serial:
    clock cycles in which one block goes through its sequence, chunk after chunk; blocks: of them on one processor.
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
    relative_speed: Quantity = 1.0
    serial_cycles: Count = 0.0
    blocks: Count = 1.0

    @property
    def forward(self) -> AttentionKernel:
        """Return the forward core of a backward one, which moves half of its bytes: q, k, v in and o out."""
        return replace(
            self, macs_per_pair=self.forward_macs_per_pair, traffic=self.traffic / 2.0, forward_macs_per_pair=0.0
        )

    @property
    def variant(self) -> str:
        """Return which kernels of the family run it: those of its number format, and of a narrower cache's."""
        return str(Variant(self.dtype, quantized_kv=self.quantized_kv))

    @property
    def flop(self) -> Flop:
        """Return 2 * sequences * heads * pairs * products [FLOP]."""
        return 2.0 * self.sequences * self.heads * self.qk_pairs * self.macs_per_pair


@dataclass(frozen=True, slots=True, eq=False)
class MixedAttention:
    """Attention cores of several populations of sequences in one kernel: chunks of prompts beside decoding sequences.

    parts: each population by itself, of the same heads and number formats; its family is of no account.
    """

    name: str
    parts: tuple[AttentionKernel, ...]
    family: str = "attention_mixed"
    replicas: Count = 1.0

    @property
    def dtype(self) -> str:
        """Return the number format of the products."""
        return self.parts[0].dtype

    @property
    def variant(self) -> str:
        """Return which kernels of the family run it: those of its number format, and of a narrower cache's."""
        return next((part.variant for part in self.parts if part.quantized_kv), self.dtype)

    @property
    def flop(self) -> Flop:
        """Return the work of all parts [FLOP]."""
        return sum((part.flop for part in self.parts), start=0.0)

    @property
    def traffic(self) -> Bytes:
        """Return the compulsory bytes of all parts [B]."""
        return sum((part.traffic for part in self.parts), start=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Elementwise:
    """A kernel that only streams: norms, activations, casts, permutations, rotary, the optimizer.

    traffic: of all calls together [B]; calls: how many there are; kind: what it computes, where kernels are
    fitted by that; rows: of the tensor, each of them one block of threads; zero: not stated; work: FLOP that papers
    count of it, such as those of a depth-wise convolution.
    """

    name: str
    traffic: Bytes
    family: str = "elementwise"
    calls: Count = 1.0
    kind: str = ""
    rows: Count = 0.0
    work: Flop = 0.0

    @property
    def variant(self) -> str:
        """Return which kernels of the family run it: those of its kind."""
        return self.kind

    @property
    def flop(self) -> Flop:
        """Return what is counted as model work: mostly nothing; its arithmetic never binds."""
        return self.work


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Ranks that communicate: `size` of them, `stride` apart in the rank order (1: neighbours)."""

    size: Count
    stride: Count = 1.0

    def on_one_node(self, devices: Count) -> Count:
        """Return how many of the ranks share a node of `devices`: clip(devices / stride, 1, size)."""
        return minimum(maximum(devices / self.stride, 1.0), self.size)


@dataclass(frozen=True, slots=True, eq=False)
class Collective:
    """An NCCL-style operation. size: the whole buffer, as nccl-tests counts it [B]; group: who takes part.

    calls: how many of that size follow each other; overlap: the share of the attention cores just before it during
    which it runs (0: everything waits for it); behind: the product beside which it runs (null: all waits for it),
    in `chunks` equal parts of which the first one is never hidden (0: all of it may be).
    """

    name: str
    kind: str  # all_reduce | all_gather | reduce_scatter | all_to_all | broadcast | send_recv
    size: Bytes
    group: Group
    family: str = "collective"
    calls: Count = 1.0
    overlap: Count = 0.0
    behind: Gemm | None = None
    chunks: Count = 0.0

    @property
    def variant(self) -> str:
        """Return which algorithms of the family run it: those of its kind."""
        return self.kind


@dataclass(frozen=True, slots=True, eq=False)
class ExpertAllToAll:
    """One direction of the expert all-to-all: `dispatch` to the experts or `combine` back.

    tokens: of one rank; token_bytes: of one copy [B]; top_k copies go to distinct experts out of `experts`, which stand
    evenly on the group's ranks in `expert_groups` equal groups, of which a token may use `group_top_k` (all: 1 of 1).
    load: rows of the fullest rank over the mean; popularity: null where experts are alike; padded: a buffer of fixed
    size for every expert, sent full; codec: how much longer it takes where its kernels encode and decode the payload;
    once: switches copy or add up, and the opposite direction runs at the same time: one copy is what it adds to the
    busier side of the links between nodes.
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

    @property
    def deduplicates(self) -> bool:
        """Tell whether a token goes once to a node and a rank, rather than once to each of its experts."""
        return self.mode == "normal" and not self.padded

    def most_loaded(self, places: Count) -> Quantity:
        """Return the tokens, each once, that come to the fullest of `places` over those of the mean of equal experts.

        Where only the load of the fullest rank is known, ranks have independent normal loads with that expected
        maximum, and a place has the mean of its ranks; no place gets more than all tokens:

            1 + (load - 1) * e(places)/e(ranks) * sqrt(places/ranks),    e(n): expected largest of n standard normals
        """
        share = self.targets(places) / places
        if self.popularity is None:
            return minimum(self._stated_load(places), 1 / share)
        return self.popularity.fullest_place(places, share)

    def _stated_load(self, places: Count) -> Quantity:
        """Return the load of the fullest place that follows from the stated one of the fullest rank."""
        if is_single(self.expert_load) and self.expert_load == 1:
            return 1.0
        ranks = self.group.size
        together = normal_maximum(places) / maximum(normal_maximum(ranks), TINY) * np.sqrt(places / ranks)
        return 1.0 + (self.expert_load - 1.0) * together

    @property
    def variant(self) -> str:
        """Return nothing: the modes are families of their own."""
        return ""

    @property
    def reachable(self) -> Count:
        """Return how many experts a token can choose from once its groups are chosen."""
        return self.experts * self.group_top_k / self.expert_groups

    def targets(self, places: Count) -> Count:
        """Return on how many of `places` (nodes or ranks), which share the experts evenly, a token's experts stand.

        A token first takes M of G groups, all alike, then k of their R experts, all alike. With q = G/places groups on
        a place, j of them among the M (hypergeometric), each with R/M experts:

            E = places * sum_j C(q, j) * C(G-q, M-j) / C(G, M) * (1 - prod_i (R - j*R/M - i) / (R - i))

        A place with less than a group (q < 1) is hit as `distinct_targets` says.
        """
        sizes = (self.experts, self.expert_groups, places)
        if all(map(is_single, sizes)):
            return _known_targets(self.top_k, self.group_top_k, *(float(size) for size in sizes))
        return _targets(self.top_k, self.group_top_k, *sizes)


@dataclass(frozen=True, slots=True, eq=False)
class HostTransfer:
    """A copy over a device's link to its host. size [B]; direction: `in` to the device or `out` of it.

    devices: all that work at the same time; those of one node share their host's memory. once: for all micro-batches
    of a pass together.
    """

    name: str
    size: Bytes
    direction: str
    devices: Count
    family: str = "host_transfer"
    once: bool = False

    @property
    def variant(self) -> str:
        """Return nothing: the host's work has no kernels to tell apart."""
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class HostUpdate:
    """Work of the host's processors for one device that only streams their memory, such as an optimizer. traffic [B].

    devices: as for a transfer.
    """

    name: str
    traffic: Bytes
    devices: Count
    family: str = "host_update"

    @property
    def variant(self) -> str:
        """Return nothing: the host's work has no kernels to tell apart."""
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class HostGemm:
    """A matrix product that the host's processors compute for one device, its operands in the host's memory.

    devices: as for a transfer.
    """

    name: str
    product: Gemm
    devices: Count
    family: str = "host_product"

    @property
    def variant(self) -> str:
        """Return nothing: the host's work has no kernels to tell apart."""
        return ""

    @property
    def flop(self) -> Flop:
        """Return the product's FLOP."""
        return self.product.flop

    @property
    def traffic(self) -> Bytes:
        """Return the bytes that pass the host's memory: each operand once [B]."""
        return self.product.traffic


@dataclass(frozen=True, slots=True, eq=False)
class HostTime:
    """Time in which the device waits for the host's program: scheduling, sampling, the code between kernels.

    always: of every step; each: for every one of the rank's `sequences` beside it [s].
    """

    name: str
    step_seconds: Seconds
    sequence_seconds: Seconds
    sequences: Count
    family: str = "host_time"

    @property
    def variant(self) -> str:
        """Return nothing: programs are told apart by the framework."""
        return ""

    @property
    def seconds(self) -> Seconds:
        """Return always + each * sequences [s]."""
        return self.step_seconds + self.sequence_seconds * self.sequences


HostWork: TypeAlias = "HostUpdate | HostGemm"
Kernel: TypeAlias = "Gemm | AttentionKernel | MixedAttention | Elementwise"
Operator: TypeAlias = "Kernel | Collective | ExpertAllToAll | HostTransfer | HostUpdate | HostGemm | HostTime"


_Any = TypeVar("_Any", bound=Operator)


def has_work(operator: Operator) -> Mask:
    """Tell where a product has rows and a core sequences: without, no kernel is started. All others have work."""
    if isinstance(operator, Gemm):
        return operator.m > 0
    return operator.sequences > 0 if isinstance(operator, AttentionKernel) else True


def clamp_sizes(operator: _Any) -> _Any:
    """Return an operator with one row, or a sequence of one byte, where it has none, so that it has a shape."""
    present = has_work(operator)
    if present is True or np.all(present):  # the first is much quicker, and all that single sizes need
        return operator
    if isinstance(operator, Gemm):
        return replace(operator, m=where(present, operator.m, 1.0))
    assert isinstance(operator, AttentionKernel)
    sequences, traffic = (where(present, value, 1.0) for value in (operator.sequences, operator.traffic))
    return replace(operator, sequences=sequences, traffic=traffic)


def _targets(top_k: int, chosen: int, experts: Count, groups: Count, places: Count) -> Count:
    """Return on how many of `places` the `top_k` experts of a token stand, in `chosen` of the groups."""
    reachable, held = experts * chosen / groups, groups / places
    hit: Quantity = 0.0
    for used in range(1, chosen + 1):
        share = _binomial(held, used) * _binomial(groups - held, chosen - used) / _binomial(groups, chosen)
        hit = hit + share * (1 - _missed(top_k, reachable, used * reachable / chosen))
    within = distinct_targets(top_k, reachable, minimum(experts / places, reachable))
    return where(held >= 1, places * hit, within)


_known_targets = functools.lru_cache(maxsize=1024)(_targets)


def distinct_targets(choices: int, reachable: Count, per_target: Count) -> Count:
    """Return the expected number of distinct targets (nodes or ranks) that `choices` distinct experts stand on.

        E = R/g * (1 - C(R-g, k) / C(R, k)),   C(R-g, k)/C(R, k) = prod_i (R-g-i)/(R-i)

    reachable: R experts to choose from, uniformly; per_target: g experts a target. With V3's R = 128, k = 8:
    3.63 nodes of 32 experts, 7.36 ranks of 4.
    """
    return reachable / per_target * (1 - _missed(choices, reachable, per_target))


def _missed(choices: int, reachable: Count, held: Count) -> Quantity:
    """Return the chance that none of `choices` distinct experts is among `held` of the `reachable` ones."""
    missed: Quantity = 1.0
    for index in range(choices):
        missed = missed * maximum(reachable - held - index, 0.0) / (reachable - index)
    return missed


def _binomial(items: Count, choices: int) -> Quantity:
    """Return items choose `choices`; zero where there are fewer items than choices."""
    ways: Quantity = 1.0
    for index in range(choices):
        ways = ways * maximum(items - index, 0.0) / (index + 1)
    return ways


def expert_all_to_all_family(direction: str, mode: str) -> str:
    """Return the operator family of an exchange: kernels of the two modes share no code, so they are fitted apart."""
    return direction if mode == "normal" else f"{direction}_{mode}"


GEMM_FAMILIES = ("gemm", "grouped_gemm")  # families of the products of linear layers


def gemm_family(family: str, *, weight_only: bool) -> str:
    """Return the operator family of a product: kernels that expand narrow weights on the way are fitted apart."""
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


def base_name(name: str) -> str:
    """Return the operator that a name belongs to: passes of one operator share a line, and so do all casts.

    What stands before a colon, the part of a phase that the operator runs in, is kept.
    """
    part, colon, own = name.rpartition(": ")
    for suffix in _SUFFIXES:
        if own.endswith(suffix):
            return part + colon + ("casts" if "cast" in suffix else own.removesuffix(suffix))
    return name
