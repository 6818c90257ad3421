"""What inference asks of a layout: whole sequences for every group of ranks that serves them together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodel.quantities import Count, divides
from costmodel.workload.architecture import Architecture, Attention
from costmodel.workload.passes import pipeline_batches
from costmodel.workload.plans import Decode, Diffusion, Generate, Images, Prefill, Serving
from costmodel.workload.scenario import Plan, Scenario
from costmodel.workload.split_rules import Rule, divides_rule, shown


def inference_rules(scenario: Scenario, plan: Plan) -> Iterator[Rule]:
    """Yield every condition of a prefill, decode, generate or serving scenario."""
    parallel, architecture = scenario.parallel, scenario.architecture
    if isinstance(plan, Diffusion):
        from costmodel.workload.diffusion import diffusion_rules  # loads when it is used

        yield from diffusion_rules(scenario, plan)
        return
    assert isinstance(plan, Prefill | Decode | Generate | Serving)
    yield Rule(
        "parallel.virtual",
        parallel.virtual == 1,
        f"virtual = {shown(parallel.virtual)} interleaves backward passes, which inference has none of",
        "leave it out",
    )
    yield Rule(
        "parallel.pp",
        parallel.pp <= architecture.depth,
        f"{shown(parallel.pp)} pipeline stages for {architecture.depth} layers",
        f"choose at most {architecture.depth}",
    )
    if plan.speculative is not None:
        yield Rule(
            "speculative",
            architecture.mtp is not None or (plan.speculative.drafter != "mtp") | (plan.speculative.depth == 0),
            f"{architecture.name} has no MTP module that could draft tokens",
            "give the model `mtp: {depth: 1}`, write `drafter: eagle3`, `model` or `ngram`, or remove `speculative`",
        )
    if not isinstance(plan, Decode) and plan.images is not None:
        yield from _image_rules(architecture, plan.images, plan.input_tokens)
    if not isinstance(plan, Prefill):
        yield Rule(
            "phase",
            all(layer.mixer.has_kv_cache for layer in architecture.kinds if isinstance(layer.mixer, Attention)),
            f"attention of {architecture.name} sees later tokens and keeps no keys that a step could read",
            "write `causal: true`, or `keeps: true` if a prompt that sees itself whole is continued",
        )
    if isinstance(plan, Prefill):
        yield from _prefill_rules(scenario, plan)
    elif isinstance(plan, Decode):
        yield from _decode_rules(scenario, plan)
    elif isinstance(plan, Generate):
        yield from _generate_rules(scenario, plan)
    else:
        yield from _serving_rules(scenario, plan)


def _image_rules(architecture: Architecture, images: Images, input_tokens: Count) -> Iterator[Rule]:
    encoder = architecture.encoder
    yield Rule(
        "images",
        encoder is not None,
        f"{architecture.name} has no encoder that could see images",
        "give the model an `encoder`, or remove `images`",
    )
    if encoder is None:
        return
    tokens = images.count * images.patches / encoder.merge
    yield Rule(
        "images",
        tokens <= input_tokens,
        f"{shown(images.count)} images of {shown(images.patches)} patches are {shown(tokens)} tokens, more than the "
        f"{shown(input_tokens)} of a prompt",
        "raise `input_tokens`, which counts those of images, or lower `patches`",
    )


def _prefill_rules(scenario: Scenario, plan: Prefill) -> Iterator[Rule]:
    """Yield that a tp*cp group has whole prompts in every micro-batch."""
    group = scenario.parallel.tp * scenario.parallel.cp
    yield divides_rule("parallel.cp", scenario.parallel.cp, plan.input_tokens, "the prompt")
    tokens = plan.tokens_per_device * group
    yield Rule(
        "tokens_per_device",
        divides(plan.micro_batches * plan.input_tokens, tokens),
        f"{shown(plan.tokens_per_device)} tokens a device are {shown(tokens / plan.input_tokens)} prompts of a "
        f"tensor- and context-parallel group, not whole prompts for {plan.micro_batches} micro-batches",
        f"choose a multiple of {shown(plan.micro_batches * plan.input_tokens / group)}",
    )


def _decode_rules(scenario: Scenario, plan: Decode) -> Iterator[Rule]:
    """Yield that a tp*cp group has whole requests in every micro-batch, no more than have their adapters in memory."""
    group = scenario.parallel.tp * scenario.parallel.cp
    requests = plan.batch_per_device * group
    yield Rule(
        "micro_batches" if plan.micro_batches > 1 else "batch_per_device",
        divides(float(plan.micro_batches), requests),
        f"{shown(plan.batch_per_device)} requests a device are {shown(requests)} of a tensor- and context-parallel "
        f"group, not whole requests for {plan.micro_batches} micro-batches",
        f"choose batch_per_device as a multiple of {shown(plan.micro_batches / group)}",
    )
    seats = None if plan.adapters is None else plan.adapters.seats
    if plan.adapters is not None and seats is not None:
        yield Rule(
            "adapters.resident", np.less_equal(requests, seats), f"{shown(requests)} requests ask for more than "
            f"{plan.adapters.held} different adapters", f"write more, or a batch of at most {shown(seats)}",
        )  # fmt: skip


def _generate_rules(scenario: Scenario, plan: Generate) -> Iterator[Rule]:
    """Yield that the batch is whole sequences for every replica, part of the pipeline and micro-batch."""
    parallel = scenario.parallel
    yield divides_rule("parallel.cp", parallel.cp, plan.input_tokens, "the prompt")
    parts = parallel.dp * pipeline_batches(scenario, plan) * plan.micro_batches
    yield Rule(
        "batch",
        divides(parts, plan.batch),
        f"{shown(plan.batch)} requests are not whole requests for dp * pipeline_batches * micro_batches = "
        f"{shown(parts)} parts",
        f"choose a multiple of {shown(parts)}, or write `pipeline_batches: 1`",
    )


def _serving_rules(scenario: Scenario, plan: Serving) -> Iterator[Rule]:
    """Yield that every micro-batch of every pipeline stage has whole requests."""
    yield divides_rule("parallel.cp", scenario.parallel.cp, plan.input_tokens, "the prompt")
    if plan.concurrency is None:
        return
    unit: Count = plan.micro_batches * scenario.parallel.pp
    yield Rule(
        "concurrency",
        divides(unit, plan.concurrency),
        f"{shown(plan.concurrency)} requests of a replica are not whole requests for pp * micro_batches = "
        f"{shown(unit)} parts",
        f"choose a multiple of {shown(unit)}",
    )
