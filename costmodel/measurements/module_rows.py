"""Measured attention modules of whole layers, as the operators that the layer of their model has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from costmodel.measurements.row_group import RowGroup, Unmapped
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Attention, CompressedAttention, Layer, Mla
from costmodel.workload.context import Context
from costmodel.workload.layers import add_mixer
from costmodel.workload.mixers import Indexer
from costmodel.workload.operators import Kernel, Operator
from costmodel.workload.scenario import Communication, Parallelism
from costmodel.workload.work import WorkBuilder

_PRECISIONS = {"bf16": "bf16", "fp8_e4m3_blk128": "fp8-inference", "nvfp4": "nvfp4"}  # of weights: precision files
_LATENTS = ("latent projection",)  # of queries and keys from the residual stream, and its cast …
_OF_LATENTS = ("qkv_a_proj", "q_a_proj")  # … as `includes` has them
# vLLM's names of kernels on latents. It computes a prompt of few tokens with them, as it decodes [vllm-project/vllm,
# v1/attention/backends/mla/flashmla.py: reorder_batch_threshold, process small prefills with decode pathway].
_ON_LATENTS = "MLA"


def _indexer(layer: Layer) -> Indexer | None:
    mixer = layer.mixer
    return mixer.indexer if isinstance(mixer, Mla | Attention | CompressedAttention) else None


def _pools(layer: Layer) -> bool:
    return isinstance(layer.mixer, CompressedAttention) and layer.mixer.ratio is not None


_LAYERS: Mapping[str, Callable[[Layer], bool]] = {
    "mla_module": lambda layer: isinstance(layer.mixer, Mla),
    "dsa_module": lambda layer: isinstance(layer.mixer, Mla) and _indexer(layer) is not None,
    "dsv4_csa_module": lambda layer: _pools(layer) and _indexer(layer) is not None,
    "dsv4_hca_module": lambda layer: _pools(layer) and _indexer(layer) is None,
    "msa_module": lambda layer: isinstance(layer.mixer, Attention) and _indexer(layer) is not None,
}
MODULES = tuple(f"{name}_{phase}" for name in _LAYERS for phase in ("prefill", "decode"))
"""Operations that are whole modules."""
DIFFER_BY = ("model", "gemm_type")
"""Columns by which rows of modules have other operators."""


def module(batch: RowGroup) -> list[Operator]:
    """Return the kernels of an attention module on one rank: those that a simulation of its model has, in order.

        time = sum of the kernels' times

    A rank has `q_heads` of the model's heads, and its share of what is split like them. `includes` says which parts
    the timed call had. Raises Unmapped where no framework, model or number format of that name is known.
    """
    name, _, phase = batch.text("op").rpartition("_")
    program, formats = batch.program, batch.text("gemm_type") or batch.text("dtype_in")
    if program is None:
        raise Unmapped(f"no framework file is named as `framework` {batch.text('framework') or 'is, which is blank'}")
    if formats not in _PRECISIONS:
        raise Unmapped(f"no precision file has weights in {formats}")
    architecture = batch.catalogue.model(batch.text("model"))
    layer = _as_timed(_layer(architecture, name), batch)
    cached = batch.format("kv_dtype", default=batch.text("dtype_in")).unit
    context = Context(
        architecture=architecture, parallel=Parallelism(tp=_heads(layer) / batch.number("q_heads")),
        precision=replace(batch.catalogue.precision(_PRECISIONS[formats]), kv_cache=cached),
        communication=Communication(), framework=program,
        phase="decode" if batch.text("kernel").endswith(_ON_LATENTS) else phase, sequences=batch.number("batch"),
        new_tokens=batch.number("q_len"), kv_len=batch.number("kv_len"),
    )  # fmt: skip
    builder = WorkBuilder(name)
    add_mixer(builder, context, layer)
    untimed = _LATENTS if batch.includes and batch.includes.isdisjoint(_OF_LATENTS) else ()
    kernels = (each for each in builder.build().forward if isinstance(each, Kernel))  # one rank sends nothing
    return [each for each in kernels if not each.name.startswith(untimed)]


def _layer(architecture: Architecture, name: str) -> Layer:
    """Return the first layer of a model that has such a module, with an indexer of its own. Raise Unmapped without."""
    layers = [each for each in architecture.layers if _LAYERS[name](each)]
    if not layers:
        raise Unmapped(f"model {architecture.name} has no {name}")
    return next((each for each in layers if (own := _indexer(each)) is None or not own.reused), layers[0])


def _heads(layer: Layer) -> float:
    mixer = layer.mixer
    return mixer.q_heads if isinstance(mixer, Attention) else mixer.heads  # type: ignore[union-attr,return-value]


def _as_timed(layer: Layer, batch: RowGroup) -> Layer:
    """Return a layer whose indexer is there as far as the timed call had it.

    Without projections of an indexer, the module reuses what another one selected. With keys and values of every head,
    it attends to all of them.
    """
    indexer, held = _indexer(layer), batch.includes
    if indexer is None or not held or "indexer_proj" in held:
        return layer
    kept = None if "kv_b_proj" in held else replace(indexer, reused=True)
    return replace(layer, mixer=replace(layer.mixer, indexer=kept))
