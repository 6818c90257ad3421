"""What the host keeps of an inference engine's weights and cache, and the copies that this costs a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from costmodel.quantities import Bytes, Quantity, maximum, minimum, where
from costmodel.workload.architecture import Layer
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.kv_cache import cached_bytes
from costmodel.workload.operators import HostTransfer
from costmodel.workload.work import LayerWork, Parameters, WorkBuilder


def weight_bytes(context: Context, parameters: Parameters) -> Bytes:
    """Return the bytes of one weight that a rank computes with, as memory holds it."""
    if parameters.element_bytes is not None:
        return parameters.element_bytes
    if parameters.linear:
        return context.stored_weight
    return maximum(ELEMENT_BYTES[context.precision.weights], context.residual)


def streamable_bytes(context: Context, parameters: tuple[Parameters, ...]) -> Bytes:
    """Return the bytes of one layer's weights on a rank that may be streamed from the host, all of them [B].

    Not among them: those that the host itself computes with.
    """
    total: Quantity = 0.0
    for item in parameters:
        if not item.host_computed:
            total = total + item.local * weight_bytes(context, item)
    return total


def add_host_transfers(builder: WorkBuilder, context: Context, layer: Layer) -> None:
    """Add what a layer of an inference pass copies from the host before it begins, and back to it.

        weights in    share * weights of the layer on this rank, once for all micro-batches
        cache in      share * keys and values of the tokens before the new ones
        cache out     share * keys and values of the new tokens

    [Sheng et al., FlexGen, arXiv 2303.06865; Aminabadi et al., DeepSpeed-Inference, arXiv 2207.00032]
    """
    offload, devices = context.offload, context.parallel.devices
    if _is_offloaded(offload.weights):
        size = offload.weights * streamable_bytes(context, builder.parameters)
        builder.add_host_transfer(HostTransfer("weights from the host", size, "in", devices, per_pass=True))
    if _is_offloaded(offload.kv_cache):
        for name, tokens, direction in (
            ("cache from the host", context.kv_len - context.new_tokens, "in"),
            ("cache to the host", context.new_tokens, "out"),
        ):
            held = cached_bytes(layer.mixer, tokens, context.precision.kv_element, context.parallel.tp)
            size = offload.kv_cache * context.sequences * held / context.parallel.cp
            builder.add_host_transfer(HostTransfer(name, size, direction, devices))


Parts: TypeAlias = "Sequence[tuple[Quantity, LayerWork]]"  # (how many, work) of each kind of layer


def weights_by_memory(context: Context, layers: Parts, others: Parts) -> tuple[Bytes, Bytes]:
    """Return the bytes of a rank's weights on the device and on its host.

    What the host computes with is there only; of the layers' other weights it keeps its share, which stream through
    room for two layers on the device. others: embedding, head and drafting modules, which stay on the device.
    """
    share = context.offload.weights
    hosted: Quantity = 0.0
    for count, part in (*layers, *others):
        for item in part.parameters:
            if item.host_computed:
                hosted = hosted + count * item.local * weight_bytes(context, item)
    kept: Quantity = 0.0
    for count, part in others:
        kept = kept + count * streamable_bytes(context, part.parameters)
    sizes = [(count, streamable_bytes(context, part.parameters)) for count, part in layers]
    on_device, on_host = _split(sizes, share)
    return kept + on_device, hosted + on_host


def cache_by_memory(context: Context, layers: Sequence[tuple[Quantity, Bytes]]) -> tuple[Bytes, Bytes]:
    """Return the bytes of a rank's KV cache on the device and on its host. layers: (how many, cache) of each kind."""
    return _split(layers, context.offload.kv_cache)


def _split(layers: Sequence[tuple[Quantity, Bytes]], share: Quantity) -> tuple[Bytes, Bytes]:
    """Return what the device and the host hold where the host keeps a share of layers' (how many, bytes).

    The device has the rest, and room for two layers that the copies pass through.
    """
    whole: Quantity = 0.0
    largest: Quantity = 0.0
    for count, size in layers:
        whole = whole + count * size
        largest = maximum(largest, where(count > 0, size, 0.0))
    return minimum(whole, (1 - share) * whole + 2 * share * largest), share * whole


def _is_offloaded(share: Quantity) -> bool:
    """Tell whether the host keeps a share of something, at least at some point of a grid."""
    return bool(np.any(np.greater(share, 0)))
