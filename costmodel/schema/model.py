"""The model file: a list of layers, each a mixer and a feed-forward network (FFN)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from costmodel.declared import Integer, Number, Wrong, exceeds
from costmodel.schema.device import Source
from costmodel.schema.framework import QuantizationFile
from costmodel.schema.mixers import AnyMixer, AttentionFile, NoMixerFile, ResidualBlockFile
from costmodel.schema.records import Declared
from costmodel.schema.strict import Strict
from costmodel.workload.architecture import Architecture, Denoiser, DenseFfn, Encoder, Layer, MoeFfn, Mtp, TextEncoder

MAX_LAYERS = 10_000  # published transformers have up to 1,000 (DeepNet, arXiv 2203.00555)


class NoFfnFile(Strict):
    """No FFN."""

    type: Literal["none"] = Field(description="the layer is a mixer alone")


class DenseFile(Declared, of=DenseFfn):
    """A dense FFN. `glu` has a gate, `mlp` has none."""

    type: Literal["glu", "mlp"] = Field(description="this FFN")
    intermediate: Number | None = Field(default=None, description="inner width; null: 4 * hidden, for mlp only")

    def _check_gated_width(self) -> None:
        if self.intermediate is None and self.type == "glu":
            raise Wrong("`intermediate` is missing", "add it: only an mlp has a default, 4 * hidden")


class MoeFile(Declared, of=MoeFfn):
    """Routed experts, plus shared ones."""

    type: Literal["moe"] = Field(description="this FFN")

    def _check_groups(self) -> None:
        if (self.groups is None) != (self.group_top_k is None):
            raise Wrong("groups and group_top_k must be set together", "write both or neither")

    def _check_choices(self) -> None:
        if exceeds(self.top_k, self.experts):
            raise Wrong("top_k must not exceed experts", "write at most the number of experts")
        if self.groups is not None and self.group_top_k is not None and exceeds(self.group_top_k, self.groups):
            raise Wrong("group_top_k must not exceed groups", "write at most the number of groups")
        if self.groups is not None and np.all(np.mod(self.experts, self.groups)):
            raise Wrong(
                f"{self.experts:g} experts do not divide over {self.groups:g} groups", "write a divisor of experts"
            )
        if self.groups is not None and self.group_top_k is not None:
            reachable = self.group_top_k * self.experts / self.groups
            if exceeds(self.top_k, reachable):
                raise Wrong(
                    f"the chosen groups have {np.max(reachable):g} experts, fewer than top_k = {self.top_k}",
                    "raise group_top_k, or lower top_k",
                )
        if exceeds(self.top_k, (1.0 - self.masked) * self.experts):
            raise Wrong("top_k exceeds the number of active experts", "lower `masked`")
        if self.shared_gate and isinstance(self.shared, float) and self.shared == 0:
            raise Wrong("shared_gate has no effect without shared experts", "remove it, or write `shared`")


class LayerFile(Declared, of=Layer):
    """Consecutive identical layers."""

    repeat: Integer = Field(default=1, description="number of identical layers")
    mixer: Annotated[AnyMixer, Field(discriminator="type")] = Field(description="attention, recurrence or vision mixer")
    ffn: Annotated[DenseFile | MoeFile | NoFfnFile, Field(discriminator="type")] = Field(description="the FFN")

    def _check_streams(self) -> None:
        if self.text not in ("own", "read"):
            return
        if not isinstance(self.mixer, AttentionFile) or self.block == "parallel" or self.plain or self.norm == "none":
            raise Wrong(f"text: {self.text} needs attention in a sequential block with norms", "write `text: joined`")
        mixer = self.mixer
        special = {
            "kv_source": mixer.kv_source, "route": mixer.route, "indexer": mixer.indexer, "partial": mixer.partial,
        }  # fmt: skip
        for key, value in special.items():
            if value is not None:
                raise Wrong(f"streams of their own meet in plain attention, without `{key}`", f"remove `{key}`")

    def _check_block(self) -> None:
        if isinstance(self.mixer, ResidualBlockFile) and (self.norm != "none" or self.plain):
            raise Wrong("a residual block has norms and a sum of its own", "write `norm: none`, and no `plain`")
        if self.norm == "none" and (self.block == "parallel" or self.norm_position != "before"):
            raise Wrong("a layer without norms cannot be parallel, and has no norm_position", "remove them")
        if self.shared_norm and self.block != "parallel":
            raise Wrong("shared_norm needs a parallel block", "remove it, or write `block: parallel`")
        if isinstance(self.mixer, NoMixerFile) and isinstance(self.ffn, NoFfnFile):
            raise Wrong("a layer needs a mixer or an FFN", "write one of the two")
        if isinstance(self.mixer, NoMixerFile) and (self.block == "parallel" or self.plain):
            raise Wrong("a layer without a mixer cannot be parallel or plain", "remove `block` and `plain`")
        if self.plain and (self.block == "parallel" or not isinstance(self.ffn, NoFfnFile)):
            raise Wrong(
                "a plain layer cannot have an FFN or a parallel block", "write `ffn: {type: none}`, or remove `plain`"
            )
        if self.block == "parallel" and isinstance(self.ffn, NoFfnFile):
            raise Wrong("a parallel block needs an FFN", "remove `block`, or write an FFN")
        if self.block == "parallel" and self.norm_position != "before":
            raise Wrong("a parallel block needs norm_position: before", "remove norm_position, or `block`")


class LayerGroupFile(Strict):
    """Different layers that repeat as a group, such as one with a window and one without."""

    repeat: Integer = Field(description="number of repetitions of `layers`")
    layers: list[LayerFile] = Field(min_length=1, description="the layers of one repetition, as above")


def _layer_or_group(value: Any) -> str:
    is_group = "layers" in value if isinstance(value, dict) else isinstance(value, LayerGroupFile)
    return "group" if is_group else "layer"


class MtpFile(Declared, of=Mtp):
    """Multi-token prediction."""

    layers: list[LayerFile] | None = Field(
        default=None, min_length=1, description="layers of a module, in order; null: one like the model's last"
    )


class ProjectorFile(Strict):
    """A matrix between an encoder and the language model."""

    inputs: Number = Field(description="input width")
    outputs: Number = Field(description="output width")


class EncoderFile(Declared, of=Encoder):
    """A tower that turns images or sound into tokens. It runs only for those. Its weights are always there."""

    layers: list[LayerFile] = Field(min_length=1, description="its layers, in order")
    projectors: list[ProjectorFile] = Field(default=[], description="matrices to the language model's width")


class TextEncoderFile(Declared, of=TextEncoder):
    """A language model that encodes the prompt. Its weights are besides those of the denoising network."""

    layers: list[LayerFile] = Field(min_length=1, description="its layers, in order")


class DenoiserFile(Declared, of=Denoiser):
    """What makes a model one that denoises latents: its layers run once a step, on the tokens of a grid of latents."""

    text_projectors: list[ProjectorFile] = Field(
        default=[], description="matrices that bring features of texts to the layers' width"
    )
    embedders: list[ProjectorFile] = Field(
        default=[], description="matrices of vectors of a sequence: time step, guidance, pooled text"
    )
    text_encoders: list[TextEncoderFile] = Field(default=[], description="what encodes prompts")
    encoder: list[LayerFile] = Field(
        default=[], description="layers of the autoencoder's encoder; tokens in `scale` are those of the latents' grid"
    )
    decoder: list[LayerFile] = Field(default=[], description="layers of its decoder, with the same grid")


class ModelFile(Declared, of=Architecture):
    """A transformer."""

    layers: list[
        Annotated[
            Annotated[LayerFile, Tag("layer")] | Annotated[LayerGroupFile, Tag("group")], Discriminator(_layer_or_group)
        ]
    ] = Field(min_length=1, description="the layers in order, each a layer or {repeat, layers}")
    quantization: QuantizationFile | None = Field(
        default=None,
        description="number formats of the published weights: inference that names no precision set has them",
    )
    aliases: list[str] = Field(default=[], description="other names of the model")
    sources: list[Source] = Field(default=[], description="sources of the values")

    def kinds(self) -> Iterator[tuple[int, LayerFile]]:
        """Yield every run of layers with the number of layers in it."""
        for entry in self.layers:
            if isinstance(entry, LayerGroupFile):
                yield from ((entry.repeat * layer.repeat, layer) for layer in entry.layers)
            else:
                yield entry.repeat, entry

    def _check_head_dim(self) -> None:
        for _, layer in self.kinds():
            mixer = layer.mixer
            width = self.hidden if layer.width is None else layer.width
            if isinstance(mixer, AttentionFile) and mixer.head_dim is None and np.all(width % mixer.q_heads):
                raise Wrong(
                    f"hidden = {width:g} is not a multiple of q_heads = {mixer.q_heads:g}",
                    "write `head_dim`, or correct one of them",
                )

    def _check_norms(self) -> None:
        bare = any(layer.norm == "none" and not layer.plain for _, layer in self.kinds())
        if bare and (np.any(np.asarray(self.streams) != 1.0) or self.residual_block is not None):
            raise Wrong(
                "a layer without residual sums has no streams and no residual_block", "remove these, or the norm"
            )
        if bare and self.mtp is not None:
            raise Wrong("modules of multi-token prediction need norms", "remove `mtp`, or write a norm")

    def _check_streams(self) -> None:
        several = np.any(np.asarray(self.streams) != 1.0)
        if several and any(layer.block == "parallel" or layer.norm_position != "before" for _, layer in self.kinds()):
            raise Wrong("streams need sequential blocks with norms before", "remove `block` and `norm_position`")
        if several and self.residual_block is not None:
            raise Wrong("streams and residual_block both replace the residual sum", "remove one of them")

    def _check_features(self) -> None:
        if self.features and (self.tied_embeddings or self.positions is not None or self.embedding_norm is not None):
            hint = "remove tied_embeddings, positions and embedding_norm, or `features`"
            raise Wrong("a model with `features` has no embedding", hint)

    def _check_denoiser(self) -> None:
        if self.denoiser is not None and not self.features:
            raise Wrong("a network that denoises sees latents, not tokens of a vocabulary", "write `features: true`")
        of_text = any(layer.text != "none" or layer.modulation != "none" for _, layer in self.kinds())
        if self.denoiser is None and of_text:
            raise Wrong("`text` and `modulation` of layers are a denoising network's", "add `denoiser`, or remove them")

    def _check_depth(self) -> None:
        depth = sum(count for count, _ in self.kinds())
        if depth > MAX_LAYERS:
            raise Wrong(f"{depth:,} layers exceed the limit of {MAX_LAYERS:,}", "check `repeat`")
