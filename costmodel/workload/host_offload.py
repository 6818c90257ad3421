"""What the host holds of an inference engine's weights and cache, and the copies per layer that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from costmodel.equations import equation
from costmodel.quantities import Bytes, Count, Quantity, anywhere, maximum, minimum, sum_of, where
from costmodel.workload.architecture import Layer
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.kv_cache import cached_bytes
from costmodel.workload.operators import HostTransfer
from costmodel.workload.work import LayerWork, Parameters, WorkBuilder

LayerCounts: TypeAlias = "Sequence[tuple[Count, LayerWork]]"  # (how many, work) of each kind of layer


def weight_bytes(context: Context, parameters: Parameters) -> Bytes:
    """Return the bytes of one stored weight that a rank computes with."""
    if parameters.element_bytes is not None:
        return parameters.element_bytes
    if parameters.linear:
        return context.stored_weight
    return maximum(ELEMENT_BYTES[context.precision.weights], context.residual)


def streamable_bytes(context: Context, parameters: tuple[Parameters, ...]) -> Bytes:
    """Return the bytes of a layer's weights on a rank that the device computes with [B]."""
    return sum_of(item.local * weight_bytes(context, item) for item in parameters if not item.host_computed)


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
            cache = cached_bytes(layer.mixer, tokens, context.precision.kv_element, context.parallel.tp)
            size = offload.kv_cache * context.sequences * cache / context.parallel.cp
            builder.add_host_transfer(HostTransfer(name, size, direction, devices))


@equation
def weights_by_memory(context: Context, layers: LayerCounts, others: LayerCounts) -> tuple[Bytes, Bytes]:
    """Return the bytes of a rank's weights on the device and on its host.

    The host alone holds what it computes with, and its share of the layers' other weights, which stream through buffers
    of two layers on the device. others: embedding, head and drafting modules, which stay on the device.

        weights = resident + layer_weights
        layer_weights = min(whole, (1 - share) * whole + 2 * share * largest)
        resident := of embedding, head and drafting modules: how many, times parameters of the rank, times bytes of each
        whole := over all kinds of layers, how many times the bytes of one
        largest := bytes of the largest layer
    """
    host_computed = sum_of(
        count * item.local * weight_bytes(context, item)
        for count, work in (*layers, *others)
        for item in work.parameters
        if item.host_computed
    )
    resident = sum_of(count * streamable_bytes(context, work.parameters) for count, work in others)
    sizes = [(count, streamable_bytes(context, work.parameters)) for count, work in layers]
    (whole, largest), share = _whole_and_largest(sizes), context.offload.weights
    layer_weights = minimum(whole, (1 - share) * whole + 2 * share * largest)
    weights = resident + layer_weights
    return weights, host_computed + share * whole


@equation
def cache_by_memory(context: Context, layers: Sequence[tuple[Quantity, Bytes]]) -> tuple[Bytes, Bytes]:
    """Return the bytes of a rank's KV cache on the device and on its host. layers: (how many, cache) of each kind.

    The host holds a share, the device the rest and buffers of two layers that the copies pass through.

        layer_caches = min(whole, (1 - share) * whole + 2 * share * largest)
        whole := over all kinds of layers, how many times the bytes of one
        largest := bytes of the largest layer
    """
    (whole, largest), share = _whole_and_largest(layers), context.offload.kv_cache
    layer_caches = minimum(whole, (1 - share) * whole + 2 * share * largest)
    return layer_caches, share * whole


def _whole_and_largest(layers: Sequence[tuple[Quantity, Bytes]]) -> tuple[Bytes, Bytes]:
    whole = sum_of(count * size for count, size in layers)
    return whole, maximum(0.0, *(where(count > 0, size, 0.0) for count, size in layers))


def _is_offloaded(share: Quantity) -> bool:
    """Tell whether the host holds a share of something, at any point of a grid."""
    return anywhere(share > 0)
