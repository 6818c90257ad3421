"""Measured attention modules of whole layers, as the operators that the layer of their model has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from costmodel.measurements.row_group import RowGroup, Unmapped
from costmodel.quantities import Count
from costmodel.records import replace
from costmodel.workload.architecture import Attention, CompressedAttention, Layer, Mla
from costmodel.workload.context import Context
from costmodel.workload.layers import add_mixer
from costmodel.workload.operators import Kernel, Operator
from costmodel.workload.scenario import Communication, Parallelism
from costmodel.workload.work import WorkBuilder

_PRECISIONS = {"bf16": "bf16", "fp8_e4m3_blk128": "fp8-inference", "nvfp4": "nvfp4"}  # of weights: precision files
_LATENTS = ("latent projection",)  # of queries and keys from the residual stream, and its cast
_INPUTS = ("qkv_a_proj", "q_a_proj")  # what `includes` calls it
# vLLM's names of kernels on latents: it computes a prompt of few tokens with them, as it decodes [vllm-project/vllm,
# v1/attention/backends/mla/flashmla.py: reorder_batch_threshold, process small prefills with decode pathway].
_LATENT_KERNELS = "MLA"

_MIXERS: Mapping[str, Callable[[Layer], bool]] = {
    "mla_module": lambda layer: isinstance(layer.mixer, Mla),
    "dsa_module": lambda layer: isinstance(layer.mixer, Mla) and layer.mixer.indexer is not None,
    "dsv4_csa_module": lambda layer: _pools(layer) and layer.mixer.indexer is not None,
    "dsv4_hca_module": lambda layer: _pools(layer) and layer.mixer.indexer is None,
    "msa_module": lambda layer: isinstance(layer.mixer, Attention) and layer.mixer.indexer is not None,
}
MODULES = tuple(f"{name}_{phase}" for name in _MIXERS for phase in ("prefill", "decode"))
"""Operations that are whole modules."""
DIFFER_BY = ("model", "gemm_type")
"""Columns in which rows of modules differ whose operators do."""


def _pools(layer: Layer) -> bool:
    return isinstance(layer.mixer, CompressedAttention) and layer.mixer.ratio is not None


def module(batch: RowGroup) -> list[Operator]:
    """Return the operators of the module on one rank, in order: those that a simulation of its model has.

        time = sum over operators

    A rank has `q_heads` of the model's heads, and what the model splits like them. Without a projection of latents
    in `includes` it was not timed; with one of keys and values of every head, attention is expanded and selects no
    keys; with no projection of an indexer, the module reuses what another one selected.
    """
    name, _, phase = batch.text("op").rpartition("_")
    if batch.text("kernel").endswith(_LATENT_KERNELS):
        phase = "decode"
    program = batch.program
    if program is None:
        raise Unmapped(f"no framework file is of {batch.text('framework') or 'a row without `framework`'}")
    formats = batch.text("gemm_type") or batch.text("dtype_in")
    if formats not in _PRECISIONS:
        raise Unmapped(f"number format {formats} of a module's weights is unknown")
    architecture = batch.catalogue.model(batch.text("model"))
    layers = [each for each in architecture.layers if _MIXERS[name](each)]
    if not layers:
        raise Unmapped(f"{architecture.name} has no such module")
    layer = _as_timed(layers[0], batch)
    cached = batch.format("kv_dtype", default=batch.text("dtype_in")).unit
    context = Context(
        architecture=architecture,
        parallel=Parallelism(tp=_heads(layer) / batch.number("q_heads")),
        precision=replace(batch.catalogue.precision(_PRECISIONS[formats]), kv_cache=cached),
        communication=Communication(), framework=program, phase=phase, sequences=batch.number("batch"),
        new_tokens=batch.number("q_len"), kv_len=batch.number("kv_len"),
    )  # fmt: skip
    builder = WorkBuilder(name)
    add_mixer(builder, context, layer)
    untimed = _LATENTS if batch.includes and batch.includes.isdisjoint(_INPUTS) else ()
    kernels = (each for each in builder.build().forward if isinstance(each, Kernel))  # its one rank sends nothing
    return [each for each in kernels if not each.name.startswith(untimed)]


def _heads(layer: Layer) -> Count:
    return layer.mixer.q_heads if isinstance(layer.mixer, Attention) else layer.mixer.heads


def _as_timed(layer: Layer, batch: RowGroup) -> Layer:
    """Return a layer whose indexer is there as far as the timed call had it."""
    mixer, held = layer.mixer, batch.includes
    if getattr(mixer, "indexer", None) is None or not held or "indexer_proj" in held:
        return layer
    indexer = None if "kv_b_proj" in held else replace(mixer.indexer, reused=True)
    return replace(layer, mixer=replace(mixer, indexer=indexer))
