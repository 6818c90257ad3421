"""One forward pass of inference: prompts, decoding requests or both on one rank, and the draft passes behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TypeAlias

from costmodel.quantities import Count, Quantity, maximum, minimum
from costmodel.workload.context import Context
from costmodel.workload.counting import sum_of
from costmodel.workload.layers import ModelWork, draft_work, model_work
from costmodel.workload.mixed import fuses_mixed_attention, label_operators, merge_layers, merge_models, reuse_operators
from costmodel.workload.operators import Operator
from costmodel.workload.plans import Generate
from costmodel.workload.scenario import Scenario
from costmodel.workload.stages import Stage
from costmodel.workload.work import LayerWork


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What one rank works on in one micro-batch of a pass.

    parts: prompts, decoding requests, or one of each, which then share all, or all but attention cores; micro_batches:
    how many of them overlap; drafts: passes of the MTP module that follow, zero where nothing is drafted; label: of its
    operators' names.
    """

    parts: tuple[Context, ...]
    micro_batches: int
    drafts: int = 0
    label: str = ""

    @property
    def residual_tokens(self) -> Count:
        """Return the tokens of the residual stream that a rank holds, of one micro-batch."""
        total: Quantity = self.parts[0].residual_tokens
        for part in self.parts[1:]:
            total = total + part.residual_tokens
        return total


LayerRuns: TypeAlias = "tuple[tuple[int, int], ...]"  # (kind of layer, how often in a row)


@dataclass(frozen=True, slots=True, eq=False)
class PassWork:
    """The operators of a pass by kind of layer: embedding, the architecture's layers, head, drafts.

    drafts: the MTP module over all new tokens, and over one token a sequence; how often each runs in a pass.
    """

    body: ModelWork
    drafts: tuple[tuple[int, LayerWork], ...] = ()

    @property
    def kinds(self) -> tuple[LayerWork, ...]:
        """Return the kinds of layers in the order of a pass."""
        return (self.body.embedding, *self.body.layers, self.body.head, *(work for _, work in self.drafts))

    def repeats(self, stage: Stage) -> tuple[int, ...]:
        """Return how often each kind runs on a stage; drafts run where the head stands."""
        return (stage.embedding, *stage.layers, stage.head, *(stage.head * count for count, _ in self.drafts))

    def runs(self, stage: Stage, layers: LayerRuns) -> LayerRuns:
        """Return (kind, how often) in the order of a stage. layers: the runs of its layers, by the model's kinds."""
        counts = self.repeats(stage)
        head = 1 + len(self.body.layers)
        ends = [(kind, counts[kind]) for kind in range(head, len(counts))]
        return ((0, counts[0]), *((1 + kind, count) for kind, count in layers), *ends)

    def operators(self) -> Iterable[Operator]:
        """Yield every kind's operators."""
        return (operator for kind in self.kinds for operator in kind.forward)


def pass_work(one: Pass, known: Iterable[Operator] = ()) -> PassWork:
    """Return the operators of a pass. known: operators of an earlier pass, which equal ones are taken from."""
    parts = co_batched(one.parts)
    one_core = fuses_mixed_attention(parts[0])
    body = reduce(partial(merge_models, one_core=one_core), [model_work(part) for part in parts])
    first = (
        reduce(partial(merge_layers, one_core=one_core), [draft_work(part) for part in parts]) if one.drafts else None
    )
    drafts: list[tuple[int, LayerWork]] = [] if first is None else [(1, first)]
    if one.drafts > 1:
        # What a draft leads to is one more token of each sequence; a step that also carries prompts is one of decoding.
        decoding = [part for part in one.parts if part.phase == "decode"] or one.parts
        single = co_batched([replace(part, phase="decode", new_tokens=1.0) for part in decoding])
        again = reduce(merge_layers, [draft_work(part) for part in single])
        drafts.append((one.drafts - 1, again))
    known = list(known)

    def finished(work: LayerWork, label: str) -> LayerWork:
        named = label_operators(work, label)
        return reuse_operators(named, known) if known else named

    return PassWork(
        ModelWork(
            finished(body.embedding, one.label),
            tuple(finished(layer, one.label) for layer in body.layers),
            finished(body.head, one.label),
            None,
        ),
        tuple((count, finished(work, f"{one.label} draft".strip())) for count, work in drafts),
    )


def co_batched(parts: Sequence[Context]) -> list[Context]:
    """Return the parts of a pass, each knowing the tokens of the others: they meet in the expert layers."""
    return [
        replace(part, co_batched_tokens=sum_of(other.tokens for other in parts if other is not part))
        if len(parts) > 1
        else part
        for part in parts
    ]


def prompt_context(scenario: Scenario, sequences: Count, length: Count, keys: Count) -> Context:
    """Return one rank's view of `sequences` prompts, shared by its tp*cp group.

    length: tokens of each that are computed; keys: tokens of each up to the last of them, cached ones included.
    """
    return _context(scenario, "prefill", sequences, length, keys)


def request_context(scenario: Scenario, sequences: Count, keys: Count, drafts: Count = 0.0) -> Context:
    """Return one rank's view of `sequences` decoding requests, shared by its tp*cp group.

    keys: tokens that each has once the new one is written; drafts: tokens that are verified behind that one.
    """
    return _context(scenario, "decode", sequences, 1.0 + drafts, keys + drafts)


def computed_tokens(input_tokens: Count, prefix_hit_rate: Quantity) -> Count:
    """Return the tokens of a prompt that are not found in a cache: (1 - h)*input, at least the last.

    The last one is computed even where all are cached: its logits give the first token.
    """
    return maximum((1.0 - prefix_hit_rate) * input_tokens, 1.0)


def pipeline_batches(scenario: Scenario, plan: Generate) -> Count:
    """Return in how many parts a replica's static batch goes through the pipeline.

    As stated, else one for each stage, or fewer where there are fewer sequences.
    """
    if plan.pipeline_batches is not None:
        return plan.pipeline_batches
    return maximum(minimum(scenario.parallel.pp, plan.batch / (scenario.parallel.dp * plan.micro_batches)), 1.0)


def _context(scenario: Scenario, phase: str, sequences: Count, length: Count, keys: Count) -> Context:
    return Context(
        architecture=scenario.architecture,
        parallel=scenario.parallel,
        precision=scenario.precision,
        communication=scenario.communication,
        framework=scenario.framework,
        phase=phase,
        sequences=sequences,
        new_tokens=length,
        kv_len=keys,
        routing=scenario.routing,
        offload=scenario.offload,
        node_devices=scenario.cluster.node.count,
    )
