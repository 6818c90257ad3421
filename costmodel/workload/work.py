"""The work of one kind of layer on one rank and micro-batch: operators by pass, saved tensors, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from costmodel.quantities import Bytes, Count, maximum
from costmodel.workload.operators import Collective, Gemm, HostTransfer, Operator


@dataclass(frozen=True, slots=True, eq=False)
class SavedTensor:
    """A tensor that the forward pass keeps for the backward pass; `producer` is the recompute name that drops it."""

    name: str
    producer: str
    size: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """Trainable numbers: `total` in the whole model, `local` on one rank, `active` that one token visits.

    expert: they belong to routed experts, which fewer ranks share; linear: they are kept in the weights' format, where
    others (norms, router, embedding, head) stay at least as wide as the residual stream; element: bytes of one where
    it has a format of its own (null: none) [B]; hosted: the host computes with them.
    """

    name: str
    total: Count
    local: Count
    active: Count
    expert: bool = False
    linear: bool = False
    element_bytes: Bytes | None = None
    host_computed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class LayerWork:
    """What one kind of layer asks of one rank for one micro-batch.

    rebuilt: bytes of the tensors that the backward pass of one such layer makes again and holds meanwhile [B]; landing:
    of the largest buffers that its context-parallel exchange fills [B]; beside: positions in `forward` of what runs
    beside the host's work before it; copies: to and from the host, of what the layer needs from it before it begins and
    of what it leaves to it.
    """

    name: str
    forward: tuple[Operator, ...]
    input_gradient: tuple[Operator, ...]
    weight_gradient: tuple[Operator, ...]
    saved: tuple[SavedTensor, ...]
    recomputed_bytes: Bytes
    parameters: tuple[Parameters, ...]
    receive_buffers: Bytes = 0.0
    beside_host: frozenset[int] = frozenset()
    host_transfers: tuple[HostTransfer, ...] = ()


@dataclass(slots=True)
class WorkBuilder:
    """Collects the parts of a `Work` in the order of the forward pass; gradients are kept in the order of backward.

    recompute: operator names whose forward pass the backward pass repeats; `layer` repeats all of it.
    """

    name: str
    recompute: frozenset[str] = frozenset()
    _forward: list[Operator] = field(default_factory=list)
    _backward: list[tuple[Operator, ...]] = field(default_factory=list)
    _weight: list[Operator] = field(default_factory=list)
    _saved: list[SavedTensor] = field(default_factory=list)
    _rebuilt: Bytes = 0.0
    _parameters: list[Parameters] = field(default_factory=list)
    _landing: Bytes = 0.0
    _beside: set[int] = field(default_factory=set)
    _copies: list[HostTransfer] = field(default_factory=list)
    _entries: list[tuple[int, int, int]] = field(default_factory=list)
    _exits: list[tuple[int, int]] = field(default_factory=list)

    def step(
        self,
        producer: str,
        forward: Iterable[Operator],
        backward: Iterable[Operator] = (),
        weight: Iterable[Operator] = (),
        recomputed: Iterable[Operator] | None = None,
    ) -> None:
        """Add one step: its forward operators, and those of its input and weight gradients.

        again: what makes its results a second time, where that is not the forward operators themselves.
        """
        forward = tuple(forward)
        self._forward.extend(forward)
        repeats = producer in self.recompute and "layer" not in self.recompute
        repeated = forward if recomputed is None else tuple(recomputed)
        self._backward.append((*(repeated if repeats else ()), *backward))
        self._weight.extend(weight)

    def mark_entry(self) -> None:
        """Note that the last step's messages bring what the next product takes, and send what its gradient is."""
        self._entries.append((len(self._forward), len(self._backward) - 1, len(self._weight)))

    def mark_exit(self) -> None:
        """Note that the last step's messages send what the last product made, and bring its gradient."""
        self._exits.append((len(self._forward), len(self._backward) - 1))

    def overlap_collectives(self, chunks: Count | None) -> None:
        """Let tensor-parallel messages run beside products.

        Those of an input gradient run beside the weight gradient of the same layer. With chunks also the others, in as
        many parts beside the product that takes or makes what they move.
        """
        for _, step, weight in self._entries:
            self._hide(self._backward, step, _first_product(self._weight[weight:]), 0.0)
        if chunks is None:
            return
        for forward, _, _ in self._entries:
            self._hide_before(forward, _first_product(self._forward[forward:]), chunks)
        for forward, step in self._exits:
            self._hide_before(forward, _first_product(self._forward[forward - 1 :: -1]), chunks)
            earlier = [operator for each in self._backward[step - 1 :: -1] for operator in each]
            self._hide(self._backward, step, _first_product(earlier), chunks)

    def _hide_before(self, position: int, product: Gemm | None, chunks: Count) -> None:
        """Let the message at the end of the forward operators so far run beside a product."""
        last = self._forward[position - 1]
        if isinstance(last, Collective):
            self._forward[position - 1] = replace(last, overlapped_gemm=product, chunks=chunks)

    @staticmethod
    def _hide(steps: list[tuple[Operator, ...]], at: int, product: Gemm | None, chunks: Count) -> None:
        steps[at] = tuple(
            replace(operator, overlapped_gemm=product, chunks=chunks) if isinstance(operator, Collective) else operator
            for operator in steps[at]
        )

    def save(self, name: str, producer: str, size: Bytes) -> None:
        """Keep a tensor of `size` bytes unless the step that produces it is recomputed."""
        if producer not in self.recompute and "layer" not in self.recompute:
            self._saved.append(SavedTensor(name, producer, size))
        else:
            self._rebuilt = self._rebuilt + size

    def add_receive_buffers(self, size: Bytes) -> None:
        """Note buffers that an exchange fills; those of the largest one are kept for all."""
        self._landing = maximum(self._landing, size)

    @property
    def position(self) -> int:
        """Return how many forward operators there are so far."""
        return len(self._forward)

    def overlap_host_work(self, first: int) -> None:
        """Let the forward operators from position `first` on run beside the host's work that was added before them."""
        self._beside.update(range(first, self.position))

    def add_host_transfer(self, transfer: HostTransfer) -> None:
        """Add a copy of what the layer needs from the host, or leaves to it."""
        self._copies.append(transfer)

    @property
    def parameters(self) -> tuple[Parameters, ...]:
        """Return the trainable parameters so far."""
        return tuple(self._parameters)

    def add_parameters(self, parameters: Parameters) -> None:
        """Add trainable parameters."""
        self._parameters.append(parameters)

    def build(self, layer_input: Bytes = 0.0) -> LayerWork:
        """Return the finished work. layer_input: what a fully recomputed layer still keeps [B]."""
        backward = [operator for step in reversed(self._backward) for operator in step]
        saved = self._saved
        if "layer" in self.recompute:
            backward = [*self._forward, *backward]
            saved = [SavedTensor("layer input", "input", layer_input)]
        return LayerWork(
            self.name,
            forward=tuple(self._forward),
            input_gradient=tuple(backward),
            weight_gradient=tuple(self._weight),
            saved=tuple(saved),
            recomputed_bytes=self._rebuilt,
            parameters=tuple(self._parameters),
            receive_buffers=self._landing,
            beside_host=frozenset(self._beside),
            host_transfers=tuple(self._copies),
        )


def _first_product(operators: Sequence[Operator]) -> Gemm | None:
    return next((operator for operator in operators if isinstance(operator, Gemm)), None)
