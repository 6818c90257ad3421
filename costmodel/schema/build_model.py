"""A checked model file to the architecture that the other rooms compute with."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.quantities import Count
from costmodel.schema import mixers
from costmodel.schema import model as model_file
from costmodel.schema import patterns as pattern_files
from costmodel.schema.records import record
from costmodel.workload import architecture as arch
from costmodel.workload import patterns


def architecture(file: model_file.ModelFile) -> arch.Architecture:
    """Return the model."""
    return record(
        arch.Architecture,
        file,
        layers=_layers(file),
        mtp=_mtp(file),
        encoder=None if file.encoder is None else _encoder(file.encoder),
        denoiser=None if file.denoiser is None else _denoiser(file.denoiser),
        headless=False,
        drafter=None,
    )


def _mtp(file: model_file.ModelFile) -> arch.Mtp | None:
    mtp = file.mtp
    if mtp is None:
        return None
    own = None if mtp.layers is None else tuple(_layer(layer, file.hidden) for layer in mtp.layers)
    return arch.Mtp(mtp.depth, own)


def _encoder(file: model_file.EncoderFile) -> arch.Encoder:
    return record(
        arch.Encoder,
        file,
        layers=tuple(_layer(layer, file.hidden) for layer in file.layers),
        projectors=_matrices(file.projectors),
    )


def _denoiser(file: model_file.DenoiserFile) -> arch.Denoiser:
    return record(
        arch.Denoiser,
        file,
        text_projectors=_matrices(file.text_projectors),
        embedders=_matrices(file.embedders),
        text_encoders=tuple(
            record(arch.TextEncoder, each, layers=tuple(_layer(layer, each.hidden) for layer in each.layers))
            for each in file.text_encoders
        ),
        encoder=tuple(_layer(layer, file.channels) for layer in file.encoder),
        decoder=tuple(_layer(layer, file.channels) for layer in file.decoder),
    )


def _matrices(files: Sequence[model_file.ProjectorFile]) -> tuple[tuple[Count, Count], ...]:
    return tuple((matrix.inputs, matrix.outputs) for matrix in files)


def _layers(file: model_file.ModelFile) -> tuple[arch.Layer, ...]:
    known: dict[str, arch.Layer] = {}

    def run(layer: model_file.LayerFile) -> arch.Layer:
        text = repr(layer)
        if "array(" in text:  # its sizes vary over a grid
            return _layer(layer, file.hidden)
        return known.setdefault(text, _layer(layer, file.hidden))

    layers: list[arch.Layer] = []
    for entry in file.layers:
        if isinstance(entry, model_file.LayerGroupFile):
            layers += [run(layer) for layer in entry.layers] * entry.repeat
        else:
            layers.append(run(entry))
    return tuple(layers)


def _layer(file: model_file.LayerFile, hidden: Count) -> arch.Layer:
    hidden = hidden if file.width is None else file.width
    return record(arch.Layer, file, mixer=_mixer(file.mixer, hidden), ffn=_ffn(file.ffn, hidden))


def _mixer(file: mixers.AnyMixer, hidden: Count) -> arch.Mixer:
    """Return the mixer. By default heads split the residual stream's width, and each has keys of its own."""
    if isinstance(file, mixers.AttentionFile):
        return _attention(file, hidden)
    if isinstance(file, mixers.RecurrenceFile):
        value_dim = file.key_dim if file.value_dim is None else file.value_dim
        return record(arch.Recurrence, file, value_dim=value_dim)
    if isinstance(file, mixers.MlaFile):
        return record(arch.Mla, file, head_groups=_groups(file.head_groups, file.heads))
    if isinstance(file, mixers.PlainProjectionFile):
        return arch.PlainProjection()
    return arch.NoMixer() if isinstance(file, mixers.NoMixerFile) else file.made()


def _attention(file: mixers.AttentionFile, hidden: Count) -> arch.Attention:
    head_dim = hidden / file.q_heads if file.head_dim is None else file.head_dim
    return record(
        arch.Attention,
        file,
        kv_heads=file.q_heads if file.kv_heads is None else file.kv_heads,
        head_dim=head_dim,
        v_head_dim=head_dim if file.v_head_dim is None else file.v_head_dim,
        head_groups=_head_groups(file),
        entering=None,
    )


def _head_groups(file: mixers.AttentionFile) -> tuple[arch.HeadGroup, ...]:
    """Return the groups of heads with their patterns. With an indexer all heads attend to what it selects."""
    if file.indexer is not None:
        return (arch.HeadGroup(1.0, patterns.Selected(top_k=file.indexer.top_k)),)
    return _groups(file.head_groups, file.q_heads)


def _groups(
    groups: Sequence[pattern_files.HeadGroupFile | pattern_files.LatentGroupFile], heads: Count
) -> tuple[arch.HeadGroup, ...]:
    return tuple(arch.HeadGroup(group.share_of(heads), _pattern(group.pattern)) for group in groups)


_NEIGHBOURHOOD_TILES = {1: 64.0, 2: 8.0, 3: 4.0}  # along each axis, 64 places in all: NATTEN, docs, tile sizes of SM80


def _axis(file: pattern_files.AxisFile, tile: float) -> patterns.Axis:
    if file.query_tile is None:
        return record(patterns.Axis, file, query_tile=tile, key_tile=tile)
    untiled = {"query_tile": None, "key_tile": None} if file.query_tile == 1 and file.key_tile == 1 else {}
    return record(patterns.Axis, file, **untiled)


def _pattern(file: pattern_files.AnyPattern) -> patterns.Pattern:
    if isinstance(file, pattern_files.NeighbourhoodFile):
        tile = _NEIGHBOURHOOD_TILES[len(file.axes)]
        return patterns.Neighbourhood(axes=tuple(_axis(axis, tile) for axis in file.axes))
    if isinstance(file, pattern_files.MixedFile):
        sets = tuple((group.queries, group.keys) for group in file.sets)
        return patterns.Mixed(sets=sets, projected=file.projected)
    if isinstance(file, pattern_files.PatternFile):
        return patterns.Pattern(file.kind, file.window)
    made: patterns.Pattern = file.made()
    return made


def _ffn(file: model_file.DenseFile | model_file.MoeFile | model_file.NoFfnFile, hidden: Count) -> arch.Ffn:
    if isinstance(file, model_file.NoFfnFile):
        return arch.NoFfn()
    if isinstance(file, model_file.MoeFile):
        return record(arch.MoeFfn, file)
    width = 4 * hidden if file.intermediate is None else file.intermediate
    return record(arch.DenseFfn, file, intermediate=width, gated=file.type == "glu")
