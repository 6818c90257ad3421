"""The work of one kind of layer on one rank and micro-batch: operators by pass, saved tensors, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from costmodel.quantities import Bytes, Count, Quantity, maximum
from costmodel.records import MutableRecord, Record, field, replace
from costmodel.workload.operators import Collective, Elementwise, Gemm, HostTransfer, Operator

_Steps = list[tuple[Operator, ...]]
EVERY_OTHER = "every_other_product"
_REBUILT = ("norm", "activation", "dropout")  # steps without products that `EVERY_OTHER` repeats
TO_EXPERTS, EXPERTS, FROM_EXPERTS = "to experts", "experts", "from experts"


class SavedTensor(Record):
    """A tensor kept from forward to backward [B]. `producer` is the recompute name that drops it."""

    name: str
    producer: str
    size: Bytes


class Parameters(Record):
    """Numbers that are learned: `total` in the model, `local` on one rank, `active` for one token.

    expert: they belong to routed experts, which fewer ranks share.
    linear: stored in the weights' format. Others (norms, router, embedding, head) are at least as wide as the residual.
    element_bytes: of a format of their own (null: none) [B].
    host_computed: the host computes with them.
    trains: they have gradients. Frozen ones have none, and no optimizer states.
    """

    name: str
    total: Count
    local: Count
    active: Count
    expert: bool = False
    linear: bool = False
    element_bytes: Bytes | None = None
    host_computed: bool = False
    trains: bool = True

    @property
    def is_cast(self) -> bool:
        """Tell whether products may read it in another format than it is stored in: a linear weight that is trained."""
        return self.linear and self.trains and self.element_bytes is None

    @classmethod
    def replicated(cls, name: str, count: Count) -> Parameters:
        """Return parameters that every rank holds whole and every token visits."""
        return cls(name, count, count, count)


class LayerWork(Record, kw_only=True):
    """What one layer of a kind demands of one rank for one micro-batch.

    working_bytes: tensors that its backward pass rebuilds or makes, and holds meanwhile [B].
    receive_buffers: the largest buffers that its context-parallel exchange fills [B].
    beside_host: positions in `forward` of operators that overlap the preceding host work.
    host_transfers: copies from the host before the layer, and to the host after it.
    elsewhere: of operators that devices with experts only take part in, by name: `TO_EXPERTS`, `EXPERTS` or
        `FROM_EXPERTS`; pool_parameters: what these devices hold.
    """

    name: str
    forward: tuple[Operator, ...]
    input_gradient: tuple[Operator, ...]
    weight_gradient: tuple[Operator, ...]
    saved: tuple[SavedTensor, ...]
    working_bytes: Bytes
    parameters: tuple[Parameters, ...]
    receive_buffers: Bytes = 0.0
    beside_host: frozenset[int] = frozenset()
    host_transfers: tuple[HostTransfer, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    pool_parameters: tuple[Parameters, ...] = ()

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Return the operators of all passes."""
        return (*self.forward, *self.input_gradient, *self.weight_gradient)


class WorkBuilder(MutableRecord):
    """Collects a `LayerWork` in the order of the forward pass, and reverses the input gradients at the end.

    recompute: operator names whose forward pass the backward pass repeats; `layer` repeats everything, and
        `every_other_product` norms, activations and, in the order of the forward pass, every second 16-bit product.
    is_frozen: parameters have no gradients, except for those that are added as trained.
    """

    name: str
    recompute: frozenset[str] = frozenset()
    is_frozen: bool = False
    _forward: list[Operator] = field(default_factory=list)
    _backward: _Steps = field(default_factory=list)
    _weight: list[Operator] = field(default_factory=list)
    _saved: list[SavedTensor] = field(default_factory=list)
    _working_bytes: Bytes = 0.0
    _parameters: list[Parameters] = field(default_factory=list)
    _receive_buffers: Bytes = 0.0
    _beside_host: set[int] = field(default_factory=set)
    _host_transfers: list[HostTransfer] = field(default_factory=list)
    _elsewhere: dict[str, str] = field(default_factory=dict)
    _pool_parameters: list[Parameters] = field(default_factory=list)
    _entries: list[tuple[int, int, int]] = field(default_factory=list)
    _exits: list[tuple[int, int]] = field(default_factory=list)
    _products: int = 0
    _rebuilt: dict[str, Quantity] = field(default_factory=lambda: dict.fromkeys(_REBUILT, 1.0))

    def step(
        self,
        producer: str,
        forward: Iterable[Operator],
        backward: Iterable[Operator] = (),
        weight: Iterable[Operator] = (),
        recomputed: Iterable[Operator] | None = None,
        *,
        trains: bool = False,
    ) -> None:
        """Add one step: its forward, input-gradient and weight-gradient operators.

        recomputed: operators that rebuild its results (null: the forward ones).
        trains: its weights are trained even if others are frozen.
        """
        forward = tuple(forward)
        self._forward.extend(forward)
        repeats = producer in self.recompute or (EVERY_OTHER in self.recompute and np.any(self.rebuilt(producer) > 0.0))
        repeated = forward if recomputed is None else tuple(recomputed)
        self._backward.append((*(repeated if repeats and "layer" not in self.recompute else ()), *backward))
        if trains or not self.is_frozen:
            self._weight.extend(weight)

    def elementwise(self, producer: str, forward: Elementwise, gradient: Bytes, **of_gradient: Any) -> None:
        """Add an element-wise kernel as a step. gradient: bytes of its gradient; of_gradient: other facts of that."""
        self.step(producer, [forward], [Elementwise(f"{forward.name} gradient", gradient, **of_gradient)])

    def add_stream(self, stream: WorkBuilder, name: str) -> None:
        """Add all steps of another builder, for tokens of their own, with `name` before those of its operators."""
        first = len(self._forward), len(self._backward), len(self._weight)
        self._entries += [(f + first[0], b + first[1], w + first[2]) for f, b, w in stream._entries]
        self._exits += [(f + first[0], b + first[1]) for f, b in stream._exits]
        self._forward += _named(stream._forward, name)
        self._backward += [_named(step, name) for step in stream._backward]
        self._weight += _named(stream._weight, name)
        self._saved += [replace(each, name=f"{name}: {each.name}") for each in stream._saved]
        self._parameters += [replace(each, name=f"{name}: {each.name}") for each in stream._parameters]
        self._working_bytes = self._working_bytes + stream._working_bytes

    def mark_entry(self) -> None:
        """Mark the last step as entry of a tensor-parallel region: its collectives feed the next GEMM."""
        self._entries.append((len(self._forward), len(self._backward) - 1, len(self._weight)))

    def mark_exit(self) -> None:
        """Mark the last step as exit of a tensor-parallel region: its collectives take the last GEMM's result."""
        self._exits.append((len(self._forward), len(self._backward) - 1))

    def overlap_collectives(self, chunks: Count | None) -> None:
        """Overlap tensor-parallel collectives with GEMMs.

        Those of an input gradient overlap the weight gradient of the same layer. With `chunks` all others overlap the
        GEMM that produces or consumes their data, in so many parts.
        """
        for _, step, weight in self._entries:
            self._overlap_backward(step, _first_gemm(self._weight[weight:]), 0.0)
        if chunks is None:
            return
        for forward, _, _ in self._entries:
            self._overlap_forward(forward, _first_gemm(self._forward[forward:]), chunks)
        for forward, step in self._exits:
            self._overlap_forward(forward, _first_gemm(self._forward[forward - 1 :: -1]), chunks)
            earlier = [operator for operators in self._backward[step - 1 :: -1] for operator in operators]
            self._overlap_backward(step, _first_gemm(earlier), chunks)

    def _overlap_forward(self, end: int, gemm: Gemm | None, chunks: Count) -> None:
        """Overlap the collective that ends the first `end` forward operators with a GEMM."""
        self._forward[end - 1] = _overlapping(self._forward[end - 1], gemm, chunks)

    def _overlap_backward(self, step: int, gemm: Gemm | None, chunks: Count) -> None:
        self._backward[step] = tuple(_overlapping(operator, gemm, chunks) for operator in self._backward[step])

    def save(self, name: str, producer: str, size: Bytes) -> None:
        """Save what of a tensor of `size` bytes is not made again in the backward pass, which holds the rest."""
        if producer in self.recompute or "layer" in self.recompute:
            self._working_bytes = self._working_bytes + size
            return
        if EVERY_OTHER in self.recompute:
            again = self.rebuilt(producer)
            self._working_bytes = self._working_bytes + again * size
            size = (1.0 - again) * size
        self._saved.append(SavedTensor(name, producer, size))

    def rebuilt(self, producer: str) -> Quantity:
        """Return the share of a step's results that the backward pass makes again where `EVERY_OTHER` does."""
        return 1.0 if producer in self.recompute else self._rebuilt.get(producer, 0.0)

    def count_product(self, producer: str, parts: Iterable[Quantity], *, kept: bool) -> None:
        """Count a matrix product, of which `EVERY_OTHER` repeats every second part, and all of one that is not `kept`.

        parts: shares of its outputs that are products of their own, in order.
        Source: PyTorch, torch/utils/checkpoint.py, with torchtitan's policy: outputs of aten.mm are kept by turns, of
        no other product; those of attention's core are kept.
        """
        again: Quantity = 0.0
        for part in parts:
            self._products += 1
            again = again + (part if self._products % 2 == 0 or not kept else 0.0)
        self._rebuilt[producer] = again

    def add_working_memory(self, size: Bytes) -> None:
        """Add tensors that the backward pass makes and holds meanwhile."""
        self._working_bytes = self._working_bytes + size

    def add_receive_buffers(self, size: Bytes) -> None:
        """Add the buffers that an exchange fills. The largest exchange counts for all."""
        self._receive_buffers = maximum(self._receive_buffers, size)

    @property
    def position(self) -> int:
        """Return the number of forward operators so far."""
        return len(self._forward)

    def overlap_host_work(self, first: int) -> None:
        """Overlap the forward operators from position `first` on with the host work that was added before them."""
        self._beside_host.update(range(first, self.position))

    def put_on_expert_pool(self, operator: int, parameters: int) -> None:
        """Put what was added last on devices that hold experts only: a message there, their kernels, and one back.

        operator, parameters: positions of the first ones.
        """
        names = [operator.name for operator in self._forward[operator:]]
        self._elsewhere |= {names[0]: TO_EXPERTS, **dict.fromkeys(names[1:-1], EXPERTS), names[-1]: FROM_EXPERTS}
        self._pool_parameters += self._parameters[parameters:]
        del self._parameters[parameters:]

    def add_host_transfer(self, transfer: HostTransfer) -> None:
        """Add a copy that the layer needs from the host, or leaves to it."""
        self._host_transfers.append(transfer)

    @property
    def parameters(self) -> tuple[Parameters, ...]:
        """Return the parameters so far."""
        return tuple(self._parameters)

    def add_parameters(self, parameters: Parameters, *, trains: bool = False) -> None:
        """Add parameters. trains: they are trained even if others are frozen."""
        frozen = self.is_frozen and not trains
        self._parameters.append(replace(parameters, trains=False) if frozen else parameters)

    def build(self, layer_input: Bytes = 0.0) -> LayerWork:
        """Return the finished work. layer_input: what a fully recomputed layer still saves [B]."""
        backward = [operator for step in reversed(self._backward) for operator in step]
        saved = self._saved
        if "layer" in self.recompute:
            backward = [*self._forward, *backward]
            saved = [SavedTensor("layer input", "input", layer_input)]
        return LayerWork(
            name=self.name,
            forward=tuple(self._forward),
            input_gradient=tuple(backward),
            weight_gradient=tuple(self._weight),
            saved=tuple(saved),
            working_bytes=self._working_bytes,
            parameters=tuple(self._parameters),
            receive_buffers=self._receive_buffers,
            beside_host=frozenset(self._beside_host),
            host_transfers=tuple(self._host_transfers),
            elsewhere=self._elsewhere,
            pool_parameters=tuple(self._pool_parameters),
        )


def _named(operators: Iterable[Operator], name: str) -> tuple[Operator, ...]:
    return tuple(replace(operator, name=f"{name}: {operator.name}") for operator in operators)


def _first_gemm(operators: Sequence[Operator]) -> Gemm | None:
    return next((operator for operator in operators if isinstance(operator, Gemm)), None)


def _overlapping(operator: Operator, gemm: Gemm | None, chunks: Count) -> Operator:
    """Return the operator with that overlap if it is a collective, else unchanged."""
    return replace(operator, overlapped_gemm=gemm, chunks=chunks) if isinstance(operator, Collective) else operator
