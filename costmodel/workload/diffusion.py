"""The networks that make an image or a video, each with what one rank of it computes in a pass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodel.equations import equation
from costmodel.quantities import Bytes, Count, Quantity, ceil, divides, maximum, sum_of, where
from costmodel.records import Record, replace
from costmodel.workload.architecture import Architecture, Denoiser, Layer, stage_layout
from costmodel.workload.context import Context, rank_context
from costmodel.workload.layers import layer_context
from costmodel.workload.memory import CachedSequences, Ledger, inference_ledger, operand_bytes
from costmodel.workload.operators import Collective, Group, Operator
from costmodel.workload.passes import Pass, PassWork, pass_work
from costmodel.workload.plans import Diffusion
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.split_rules import Rule, divides_rule, shown

TEXT_ENCODER, ENCODER, DENOISER, DECODER = "text encoder", "encoder", "denoiser", "decoder"


class Part(Record):
    """One network: its name, the scenario in which it runs, and its pass.

    copies: of it that the device holds.
    passes: of it that follow one another for a batch, of denoising for one step.
    chunks: in which a pass works, which share its memory.
    """

    name: str
    scenario: Scenario
    forward: Pass
    work: PassWork
    copies: int = 1
    passes: Count = 1.0
    chunks: Count = 1.0


class Grid(Record):
    """The latents of an image or a video: frames, and places of a frame. tokens: those that the layers see."""

    frames: Count
    places: Count
    tokens: Count


@equation
def grid_of(plan: Diffusion, denoiser: Denoiser) -> Grid:
    """Return the latents of an image or a video.

    frames = 1 + (plan.frames - 1) / denoiser.frame_compression
    places = plan.height / denoiser.compression * (plan.width / denoiser.compression)
    tokens = frames * places / patch**2
    """
    frames = 1.0 + (plan.frames - 1.0) / denoiser.frame_compression
    places = plan.height / denoiser.compression * (plan.width / denoiser.compression)
    patch = 1.0 if denoiser.patch is None else denoiser.patch
    tokens = frames * places / (patch * patch)
    return Grid(frames, places, tokens)


def images_of(scenario: Scenario, plan: Diffusion) -> Count:
    """Return the images of a model replica, of which ranks that share the passes of a step have one together."""
    return plan.batch * plan.guidance_parallel / scenario.parallel.dp


def parts_of(scenario: Scenario, plan: Diffusion) -> list[Part]:
    """Return the networks in the order in which they run.

    Texts and pixels are computed by every rank of a replica: only the denoising network is split.
    """
    denoiser = scenario.architecture.denoiser
    assert denoiser is not None, "its rule has asked for one"
    grid, images = grid_of(plan, denoiser), images_of(scenario, plan)
    passes = plan.passes(denoiser.guidance)
    prompts = images * passes / plan.samplers
    parts = [
        _whole(scenario, TEXT_ENCODER, each.architecture, prompts, Grid(1.0, each.tokens, each.tokens))
        for each in denoiser.text_encoders
    ]
    pixels = Grid(grid.frames, grid.places, grid.frames * grid.places)
    if denoiser.encoder and np.any(np.greater(plan.encoded, 0)):
        autoencoder = _autoencoder(ENCODER, denoiser.channels, denoiser.encoder)
        parts.append(_whole(scenario, ENCODER, autoencoder, images * maximum(plan.encoded, 1.0), pixels))
    sequences, new = images * passes / plan.guidance_parallel, plan.active * grid.tokens
    context = replace(rank_context(scenario, "prefill", sequences, new, grid.tokens), frames=grid.frames)
    parts.append(_part(scenario, DENOISER, context, denoiser.networks))
    if denoiser.decoder:
        autoencoder = _autoencoder(DECODER, denoiser.channels, denoiser.decoder)
        tiles, tile = decoder_tiles(plan, denoiser)
        made = _whole(scenario, DECODER, autoencoder, images * tiles, tile, at_once=images)
        parts.append(replace(made, chunks=tile.frames if denoiser.streamed else 1.0))
    return parts


def decoder_tiles(plan: Diffusion, denoiser: Denoiser) -> tuple[Count, Grid]:
    """Return the tiles that the decoder makes of an image or a video, and the mean latents of one.

    Each begins a stride behind the one before, and those at the end are cut off there [huggingface/diffusers,
    models/autoencoders/autoencoder_kl.py, tiled_decode]:

        stride = (1 - overlap) * tile;   tiles = ceil(size / stride)      along each axis
    """
    grid, c = grid_of(plan, denoiser), denoiser.compression
    frames = None if plan.tile_frames is None else plan.tile_frames / denoiser.frame_compression
    edge = None if plan.tile is None else plan.tile / c
    tiles: Count = 1.0
    lengths: list[Count] = []
    for size, own in ((grid.frames, frames), (plan.height / c, edge), (plan.width / c, edge)):
        count, length = _tiles_along(size, size if own is None else own, plan.tile_overlap)
        tiles = tiles * count
        lengths.append(length)
    places = lengths[1] * lengths[2]
    return tiles, Grid(lengths[0], places, lengths[0] * places)


def _tiles_along(size: Count, tile: Count, overlap: Quantity) -> tuple[Count, Count]:
    """Return the tiles along an axis and their mean length. At most two of them are cut off where half overlaps."""
    whole = tile >= size
    stride = maximum((1.0 - overlap) * tile, 1.0)
    count = where(whole, 1.0, ceil(size / stride))
    cut = sum_of(maximum((count - last) * stride + tile - size, 0.0) for last in (1.0, 2.0))
    return count, where(whole, size, (count * tile - cut) / count)


def _autoencoder(name: str, channels: Count, layers: tuple[Layer, ...]) -> Architecture:
    return Architecture(name, channels, 1.0, layers, final_norm="none", features=True, headless=True)


def _whole(
    scenario: Scenario, name: str, network: Architecture, sequences: Count, grid: Grid, at_once: Count | None = None
) -> Part:  # fmt: skip
    """Return a network that every rank has whole. at_once: sequences of a pass (null: all)."""
    alone = replace(scenario, architecture=network, parallel=Parallelism())
    passed = sequences if at_once is None else at_once
    context = replace(rank_context(alone, "prefill", passed, grid.tokens, grid.tokens), frames=grid.frames)
    return replace(_part(alone, name, context), passes=sequences / passed)


def _part(scenario: Scenario, name: str, context: Context, copies: int = 1) -> Part:
    forward = Pass((context,), 1, label=name)
    return Part(name, scenario, forward, pass_work(forward), copies)


def guidance_exchange(scenario: Scenario, plan: Diffusion) -> Operator:
    """Return the message by which ranks that share the passes of a step get each other's predictions.

    bytes = images * passes * frames * places * channels * e
    """
    denoiser = scenario.architecture.denoiser
    assert denoiser is not None, "its rule has asked for one"
    grid, parallel = grid_of(plan, denoiser), scenario.parallel
    context = rank_context(scenario, "prefill", 1.0, grid.tokens, grid.tokens)
    numbers = images_of(scenario, plan) * plan.passes(denoiser.guidance) * grid.frames * grid.places * denoiser.channels
    group = Group(plan.guidance_parallel, parallel.tp * parallel.cp)
    return Collective("guidance exchange", "all_gather", numbers * context.residual, group)


@equation
def part_ledger(part: Part) -> Ledger:
    """Return what a device holds for one network: its weights, and what its pass works on.

        activations = (2 * widest + operands) / part.chunks

    widest: tokens of the layer that has most of them in bytes; operands: of the largest operator.
    """
    layout, context = stage_layout(part.scenario.architecture, 1), part.forward.parts[0]
    ledger = inference_ledger([(part.forward, part.work)], layout, CachedSequences(0.0, context.kv_len))
    operands = maximum(0.0, *(operand_bytes(operator) for operator in part.work.operators()))
    widest = maximum(0.0, *_layer_tokens(context))
    activations = (2 * widest + operands) / part.chunks
    return replace(ledger, activations=activations, weights=part.copies * ledger.weights)


def _layer_tokens(context: Context) -> Iterator[Bytes]:
    for layer in context.architecture.kinds:
        own = layer_context(context, layer)
        text = own.text_tokens * own.sequences / own.parallel.cp if layer.two_streams else 0.0
        yield (own.residual_tokens + text) * own.architecture.hidden * own.residual


def diffusion_rules(scenario: Scenario, plan: Diffusion) -> Iterator[Rule]:
    """Yield what a grid of latents, the passes of a step and the layout ask of each other."""
    denoiser, parallel = scenario.architecture.denoiser, scenario.parallel
    yield Rule(
        "phase", denoiser is not None, f"{scenario.architecture.name} denoises no latents",
        "name a model with `denoiser`, such as models/flux.1-dev, or change the phase",
    )  # fmt: skip
    if denoiser is None:
        return
    unit = denoiser.compression * (1.0 if denoiser.patch is None else denoiser.patch)
    for name in ("height", "width"):
        yield _grid_rule(name, unit, getattr(plan, name), "pixels", 0.0)
    yield _grid_rule("frames", denoiser.frame_compression, plan.frames - 1.0, "frames behind the first", 1.0)
    tokens = grid_of(plan, denoiser).tokens
    yield divides_rule("parallel.cp", parallel.cp, tokens, "the tokens of the latents")
    yield Rule(
        "parallel.pp", parallel.pp == 1, "the stages of a step would wait for one another", "split it by `cp` or `tp`"
    )
    passes = plan.passes(denoiser.guidance)
    yield divides_rule("guidance_parallel", plan.guidance_parallel, passes, "the passes of a step")
    yield divides_rule("guidance_parallel", plan.guidance_parallel, parallel.dp, "the data-parallel ranks")
    replicas = parallel.dp / plan.guidance_parallel
    yield Rule(
        "batch", divides(replicas, plan.batch),
        f"{shown(plan.batch)} images are not whole images for {shown(replicas)} replicas",
        f"choose a multiple of {shown(replicas)}, or set `guidance_parallel`",
    )  # fmt: skip
    yield Rule(
        "encoded", (plan.encoded == 0) | bool(denoiser.encoder),
        f"{scenario.architecture.name} has no encoder of pixels", "leave it out, or give `denoiser` an `encoder`",
    )  # fmt: skip


def _grid_rule(name: str, unit: Count, pixels: Count, what: str, first: float) -> Rule:
    """Return that a grid of latents is whole."""
    return Rule(
        name, divides(unit, pixels), f"{shown(pixels)} {what} are no whole latents or patches of {shown(unit)}",
        f"choose a multiple of {shown(unit)}" + (f", and {first:g}" if first else ""),
    )  # fmt: skip
