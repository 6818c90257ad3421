"""One forward pass of inference: prompts, decoding requests or both on one rank, and the draft passes behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial, reduce
from itertools import groupby
from typing import TypeAlias

from costmodel.equations import equation
from costmodel.quantities import Count, Quantity, ceil, is_single, maximum, minimum, sum_of, where
from costmodel.records import Record, replace
from costmodel.workload.architecture import Architecture, Encoder, Stage
from costmodel.workload.context import Context, rank_context
from costmodel.workload.drafts import draft_layers, drafting_modules
from costmodel.workload.layers import ModelWork, add_layer, model_work, tower_parallelism
from costmodel.workload.linear import Linear, add_linear
from costmodel.workload.mixed import fuses_mixed_attention, label_operators, merge_layers, merge_models, reuse_operators
from costmodel.workload.norms import add_norm
from costmodel.workload.operators import Elementwise, Operator
from costmodel.workload.plans import Generate, Prefill, Serving
from costmodel.workload.scenario import Scenario
from costmodel.workload.work import LayerWork, WorkBuilder

NEXT = "next draft"  # ends the names of layers that draft from their own last tokens


class Pass(Record):
    """What one rank works on in one micro-batch of a pass.

    parts: prompts, decoding requests, or one of each, which then share all, or all but attention kernels.
    micro_batches: how many overlap.
    drafts: of each pass that drafts behind it, the tokens of a sequence that this goes on from; the first sees all.
    label: prefix of its operators' names.
    """

    parts: tuple[Context, ...]
    micro_batches: int
    drafts: tuple[float, ...] = ()
    label: str = ""

    @property
    def residual_tokens(self) -> Count:
        """Return a rank's tokens of the residual stream, of one micro-batch."""
        return sum_of(part.residual_tokens for part in self.parts)


LayerRuns: TypeAlias = "tuple[tuple[int, int], ...]"  # (kind of layer, how often in a row)


class PassWork(Record):
    """The operators of a pass by kind of layer: embedding, the architecture's layers, head, drafts.

    drafts: what drafts over all new tokens, and over those that it goes on from, with its runs per pass.
    held: the drafting layers that a rank of the head's stage keeps, and how many of each.
    """

    body: ModelWork
    drafts: tuple[tuple[int, LayerWork], ...] = ()
    held: tuple[tuple[int, LayerWork], ...] = ()

    @property
    def kinds(self) -> tuple[LayerWork, ...]:
        """Return the kinds of layers in the order of a pass."""
        return (self.body.embedding, *self.body.layers, self.body.head, *(work for _, work in self.drafts))

    def repeats(self, stage: Stage) -> tuple[int, ...]:
        """Return how often each kind runs on a stage. Drafts run on the stage of the head."""
        return (stage.embedding, *stage.layers, stage.head, *(stage.head * count for count, _ in self.drafts))

    def runs(self, stage: Stage, layers: LayerRuns) -> LayerRuns:
        """Return (kind, runs in a row) in the order of a stage. layers: those of its layers, by the model's kinds."""
        counts = self.repeats(stage)
        head = 1 + len(self.body.layers)
        ends = [(kind, counts[kind]) for kind in range(head, len(counts))]
        return ((0, counts[0]), *((1 + kind, count) for kind, count in layers), *ends)

    def operators(self) -> Iterable[Operator]:
        """Yield every kind's operators."""
        return (operator for kind in self.kinds for operator in kind.forward)


def pass_work(batch: Pass, known: Iterable[Operator] = ()) -> PassWork:
    """Return the operators of a pass. known: operators of an earlier pass, of which equal ones are reused."""
    parts = co_batched(batch.parts)
    fuse = fuses_mixed_attention(parts[0])
    body = reduce(partial(merge_models, fuse_attention=fuse), [model_work(part) for part in parts])
    towers = tuple(operator for part in parts for operator in tower_operators(part))
    if towers:
        body = replace(body, embedding=replace(body.embedding, forward=(*towers, *body.embedding.forward)))
    drafts = [] if not batch.drafts else _draft_layers(parts, 1, fuse_attention=fuse, first=True)
    held = drafting_modules(parts[0].architecture, len(batch.drafts), drafts)
    for width, levels in groupby(batch.drafts[1:]):
        further = co_batched([replace(part, phase="decode", new_tokens=width) for part in _drafting(batch.parts)])
        drafts = [*drafts, *_draft_layers(further, len(list(levels)))]
    known = list(known)

    def finish(work: LayerWork, label: str) -> LayerWork:
        labelled = label_operators(work, label)
        return reuse_operators(labelled, known) if known else labelled

    label, draft_label = batch.label, f"{batch.label} draft".strip()
    layers = tuple(finish(layer, label) for layer in body.layers)
    return PassWork(
        ModelWork(finish(body.embedding, label), layers, finish(body.head, label), None),
        tuple((count, finish(work, draft_label)) for count, work in drafts),
        held,
    )


def _draft_layers(
    parts: Sequence[Context], runs: int, *, fuse_attention: bool = False, first: bool = False
) -> list[tuple[int, LayerWork]]:
    """Return (runs, work) of each kind of layer that drafts, over the tokens of all parts. first: over all new ones."""
    merge = partial(merge_layers, fuse_attention=fuse_attention)
    kinds = zip(*(draft_layers(part, first=first) for part in parts), strict=True)
    merged = [(runs * kind[0][0], reduce(merge, [work for _, work in kind])) for kind in kinds]
    return merged if first else [(count, replace(work, name=f"{work.name} {NEXT}")) for count, work in merged]


def _drafting(parts: Sequence[Context]) -> Sequence[Context]:
    """Return the sequences that get further drafts, one token each: those that decode, without any the prompts."""
    decoding = [part for part in parts if part.phase == "decode"]
    prompts = [part for part in parts if part.phase != "decode"]
    if len(decoding) != 1 or len(prompts) != 1:
        return decoding or parts
    (decode,), (prompt,) = decoding, prompts
    some = decode.sequences > 0
    sequences, keys = (where(some, getattr(decode, name), getattr(prompt, name)) for name in ("sequences", "kv_len"))
    return [replace(decode, sequences=sequences, kv_len=keys)]


def co_batched(parts: Sequence[Context]) -> list[Context]:
    """Return the parts of a pass, each with the tokens of the others: they meet in the expert layers."""
    if len(parts) == 1:
        return list(parts)
    return [
        replace(
            part,
            co_batched_tokens=sum_of(other.tokens * other.peers for other in parts if other is not part),
            co_batched_sequences=sum_of(other.sequences for other in parts if other is not part),
        )
        for part in parts
    ]


def prompt_context(scenario: Scenario, sequences: Count, new_tokens: Count, kv_len: Count) -> Context:
    """Return one rank's view of `sequences` prompts, shared by its tp*cp group.

    new_tokens: tokens of each that are computed.
    kv_len: all tokens of each, cached ones included. Their images are those of a prompt by the share of its tokens.
    """
    context, plan = rank_context(scenario, "prefill", sequences, new_tokens, kv_len), scenario.plan
    if not isinstance(plan, Prefill | Generate | Serving) or plan.images is None:
        return context
    images = sequences * new_tokens / plan.input_tokens * plan.images.count
    return replace(context, images=images, patches=plan.images.patches)


def request_context(scenario: Scenario, sequences: Count, kv_len: Count, drafts: Count = 0.0) -> Context:
    """Return one rank's view of `sequences` decoding requests, shared by its tp*cp group.

    kv_len: tokens of each with the new one.
    drafts: tokens that are verified in addition.
    """
    return rank_context(scenario, "decode", sequences, 1.0 + drafts, kv_len + drafts)


@equation
def computed_tokens(input_tokens: Count, prefix_hit_rate: Quantity) -> Count:
    """Return the tokens of a prompt that no cache holds, at least the last, for its logits.

    computed = max((1 - prefix_hit_rate) * input_tokens, 1)
    prefix_hit_rate := as the scenario states it; what hits is not computed (`computed_tokens`)
    """
    return maximum((1.0 - prefix_hit_rate) * input_tokens, 1.0)


class PromptPasses(Record):
    """The passes in which an engine computes prompts, all of the same size.

    count: how many.
    sequences: prompts that a pass works on.
    new_tokens: of each of these.
    kv_len: tokens that the last new one attends to, the mean of the passes over a prompt.
    """

    count: Count
    sequences: Count
    new_tokens: Count
    kv_len: Count


def prompt_passes(prompts: Count, computed: Count, kv_len: Count, chunk: Count | None) -> PromptPasses:
    """Return the passes over `prompts` of which `computed` tokens each are new, of `kv_len` in all.

        count  = ceil(prompts * computed / chunk)
        tokens = prompts * computed / count                  of a pass
        new    = min(computed, tokens);      sequences = tokens / new
        keys   = kv_len - (computed - new) / 2

    Attention sees as many pairs as in one pass: the keys of a prompt's first chunk and of its last one have this mean.
    chunk: tokens of a pass at most. Null: one pass. [Agrawal et al., SARATHI, arXiv 2308.16369, section 4.2]
    """
    if chunk is None:
        return PromptPasses(1.0, prompts, computed, kv_len)
    count = maximum(ceil(prompts * computed / chunk), 1.0)
    tokens = prompts * computed / count
    new = minimum(computed, tokens)
    return PromptPasses(count, tokens / new, new, kv_len - (computed - new) / 2.0)


def pipeline_batches(scenario: Scenario, plan: Generate) -> Count:
    """Return the parts in which a replica's static batch goes through the pipeline.

    As stated, else one per stage, or fewer where there are fewer sequences.
    """
    if plan.pipeline_batches is not None:
        return plan.pipeline_batches
    return maximum(minimum(scenario.parallel.pp, plan.batch / (scenario.parallel.dp * plan.micro_batches)), 1.0)


# ---- An encoder of images in front of a language model: the operators of a pass over the images of its prompts -------
#
# patches [inputs] -> [h] + positions -> layers, in which a patch sees its whole image -> norm -> tokens [d]
#
# It computes in the format of the residual stream: checkpoints leave towers unquantised.


def tower_operators(context: Context) -> tuple[Operator, ...]:
    """Return the operators of the encoder on one rank, none without images. context: of a micro-batch of prompts."""
    encoder = context.architecture.encoder
    if encoder is None or context.patches is None:
        return ()
    tower = _tower_context(context, encoder)
    operators = (*_patches(tower, encoder), *_layers(tower, encoder), *_projectors(tower, encoder))
    return tuple(replace(operator, name=f"encoder: {operator.name}") for operator in operators)


def _tower_context(context: Context, encoder: Encoder) -> Context:
    """Return a rank's view of the images: each is a sequence of its patches."""
    assert context.patches is not None
    return replace(
        context.unquantised,
        architecture=Architecture("encoder", encoder.hidden, 1.0, encoder.layers),
        parallel=tower_parallelism(context, encoder),
        sequences=context.images / context.parallel.cp,
        new_tokens=context.patches,
        kv_len=context.patches,
        co_batched_tokens=0.0,
    )


def _patches(context: Context, encoder: Encoder) -> tuple[Operator, ...]:
    """Return the projection of patches, and the sum with their positions where these are learned."""
    builder = WorkBuilder("patches")
    add_linear(builder, context, Linear(
        "patch projection", operator="patch_projection", producer="input", rows=context.tokens, inputs=encoder.inputs,
        outputs=encoder.hidden,
    ))  # fmt: skip
    if not is_single(encoder.positions) or encoder.positions > 0:
        builder.step("embedding", [Elementwise("positions", 3 * context.tokens * encoder.hidden * context.residual)])
    return builder.build().forward


def _layers(context: Context, encoder: Encoder) -> Iterator[Operator]:
    for layer in encoder.layers:
        builder = WorkBuilder("encoder")
        add_layer(builder, context, layer)
        yield from builder.build().forward * layer.repeat
    if encoder.final_norm is not None:
        builder = WorkBuilder("norm")
        add_norm(builder, context, "final norm", encoder.final_norm, context.residual_tokens, encoder.hidden)
        yield from builder.build().forward


def _projectors(context: Context, encoder: Encoder) -> tuple[Operator, ...]:
    builder = WorkBuilder("projectors")
    for matrix in encoder.projectors:
        add_linear(builder, context, Linear(
            "projector", operator="projector", producer="norm", rows=context.tokens / encoder.merge,
            inputs=matrix[0], outputs=matrix[1],
        ))  # fmt: skip
    return builder.build().forward
