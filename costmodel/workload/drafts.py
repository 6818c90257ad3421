"""The layers that draft tokens for a model: its own MTP modules, an EAGLE-3 head, or another model."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.errors import InputError
from costmodel.quantities import Count
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Attention, Drafter, Layer, MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.layers import add_host_time, add_layer, draft_work, last_tokens, model_work, mtp_layers
from costmodel.workload.linear import Linear, add_linear
from costmodel.workload.norms import add_norm, add_residual_norm
from costmodel.workload.output_head import add_final_norm, add_vocabulary
from costmodel.workload.scenario import Offload, Routing
from costmodel.workload.work import LayerWork, WorkBuilder

HIDDEN_STATES = 3  # layers of the model that an EAGLE-3 head sees: a low, a middle and a high one


def eagle_head(architecture: Architecture) -> Drafter:
    """Return the EAGLE-3 head with the layers of an architecture, the first of which sees 2 * hidden.

    [Li et al., arXiv 2503.01840, section 3.1; vllm/model_executor/models/llama_eagle3.py]
    Raises InputError where its first layer has no plain attention.
    """
    first, *others = architecture.layers
    if not isinstance(first.mixer, Attention) or first.mixer.partial is not None or first.mixer.kv_source is not None:
        raise InputError.single(
            f"an EAGLE-3 head of {architecture.name}'s layer: it needs grouped-query attention",
            field="speculative.model", hint="name the head's own model: its hidden size, vocabulary and layer",
        )  # fmt: skip
    entered = replace(first, repeat=1, mixer=replace(first.mixer, entering=2.0 * architecture.hidden))
    rest = [replace(first, repeat=first.repeat - 1)] if first.repeat > 1 else []
    return Drafter(replace(architecture, layers=(entered, *rest, *others)), is_head=True)


def own_eagle_head(architecture: Architecture) -> Drafter:
    """Return the EAGLE-3 head of a model that states none: a layer like its last one, and words as many as its own.

    Raises InputError where that has experts or latent attention, of which heads have none.
    """
    last = architecture.layers[-1]
    if isinstance(last.ffn, MoeFfn) or not isinstance(last.mixer, Attention):
        raise InputError.single(
            f"heads of EAGLE-3 have dense layers of grouped-query attention, unlike {architecture.name}'s last one",
            field="speculative.model", hint="name the head's own model: its hidden size, vocabulary and layer",
        )  # fmt: skip
    return eagle_head(replace(architecture, layers=(replace(last, repeat=1),), mtp=None))


def draft_layers(context: Context, *, first: bool) -> tuple[tuple[int, LayerWork], ...]:
    """Return (runs, work) of each kind of layer in a pass that drafts, over all new tokens of a context.

    first: the pass over what the model has just seen, whose keys the drafting layers have to cache as well.
    """
    drafter = context.architecture.drafter
    if drafter is None:
        return ((1, draft_work(context)),)
    own = replace(
        context.unquantised, architecture=drafter.architecture, offload=Offload(), routing=Routing(), served=None
    )
    if drafter.is_head:
        states = HIDDEN_STATES * context.architecture.hidden if first else None
        return ((1, _eagle_head(own, states)),)
    work = model_work(own)
    layers = zip(drafter.architecture.kinds.values(), work.layers, strict=True)
    return (1, work.embedding), *layers, (1, _head(own))


def _eagle_head(context: Context, states: Count | None) -> LayerWork:
    """Return an EAGLE-3 head: 3*d -> h, layers of which the first has 2*h -> qkv, and a head of its own.

        first pass   FLOP = 2*tokens*(3*d*h + parameters of the layers) + 2*sequences*h*words + attention
        later ones   without 3*d*h: they go on from the head's own hidden state

    states: elements of the model's hidden states that enter, null: none. The embedding is the model's.
    """
    architecture, builder = context.architecture, WorkBuilder("eagle")
    norm, hidden = architecture.layers[-1].norm, architecture.hidden
    if states is not None:
        add_linear(builder, context, Linear(
            "hidden states projection", operator="mtp_projection", producer="norm", rows=context.tokens, inputs=states,
            outputs=hidden, replicas=context.parallel.tp,
        ))  # fmt: skip
    add_norm(builder, context, "hidden norm", norm, context.residual_tokens, hidden)
    for layer in architecture.layers:
        for _ in range(layer.repeat):
            add_host_time(builder, context, layer)
            add_layer(builder, context, layer)
    add_residual_norm(builder, context, "final norm", norm)
    add_vocabulary(builder, context, last_tokens(context), tied=False)
    return builder.build(context.residual_tokens * hidden * context.residual)


def _head(context: Context) -> LayerWork:
    """Return final norm and vocabulary projection of another model that drafts, of the last tokens."""
    builder, architecture = WorkBuilder("draft head"), context.architecture
    add_final_norm(builder, context)
    bias = architecture.vocabulary if architecture.head_bias else 0.0
    add_vocabulary(builder, context, last_tokens(context), tied=architecture.tied_embeddings, bias=bias)
    return builder.build()


def drafting_modules(
    architecture: Architecture, passes: int, first: Sequence[tuple[int, LayerWork]]
) -> tuple[tuple[int, LayerWork], ...]:
    """Return how many of each drafting layer a rank holds. first: of the first pass, none without drafts.

    A model has `mtp.depth` modules at most; with more passes than modules the last one drafts again.
    """
    if architecture.drafter is not None or not first:
        return tuple(first)
    return ((_modules(architecture, passes), first[0][1]),)


def drafting_layers(architecture: Architecture, passes: int) -> list[tuple[int, Layer]]:
    """Return (how many, layer) of all layers that draft in so many passes and cache keys for it."""
    if not passes:
        return []
    if architecture.drafter is not None:
        return [(layer.repeat, layer) for layer in architecture.drafter.architecture.layers]
    modules = _modules(architecture, passes)
    return [(modules * layer.repeat, layer) for layer in mtp_layers(architecture)]


def _modules(architecture: Architecture, passes: int) -> int:
    return 0 if architecture.mtp is None else min(passes, architecture.mtp.depth)
