"""The terminal views of models: a table of all, or one with its parameters, KV cache and FLOPs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from costmodel.planning.machine import FORMATS, Machine, Row
from costmodel.report.hardware import DIGITS, WIDTH, show_sources
from costmodel.report.page import Table, is_verbose, show, show_hint, table
from costmodel.report.text import count, gib, quantity, readable, whole
from costmodel.schema.files import ModelDocument
from costmodel.units import parse
from costmodel.workload import mixers
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import kv_bytes_per_token, parameter_count

_SIZES = ((1e9, "B"), (1e6, "M"))
MANY = 999.95  # of a unit; from here on its tenths are not shown


def show_models(models: Mapping[str, ModelDocument]) -> None:
    """Print how many models there are, one row per model, then the models with other names."""
    show(f"{len(models)} models, {sum(model.architecture.has_experts for model in models.values())} of experts", "bold")
    rows = table("model", ">total", ">active", ">layers", "attention", ">KV kB")
    for name, model in models.items():
        architecture = model.architecture
        count = parameter_count(architecture)
        rows.add(
            name, _short(float(count.total)), _short(float(count.active_with_embedding)), str(architecture.depth),
            attention(architecture), f"{float(kv_bytes_per_token(architecture)) / parse('1 kB', 'size'):,.1f}",
        )  # fmt: skip
    show(rows)
    show("total and active parameters; KV cache per token in BF16")
    if any("~" in attention(model.architecture) for model in models.values()):
        show("~ some or all layers use a sliding window or another sparse pattern")
    aliases = {
        name: [alias for alias in model.document["aliases"] if "/" not in alias] for name, model in models.items()
    }
    listed = "; ".join(f"{', '.join(others)} = {name}" for name, others in aliases.items() if others)
    if listed:
        show(textwrap.fill(f"also: {listed}", WIDTH, subsequent_indent="      ", break_on_hyphens=False))


def show_support(document: Mapping[str, Any]) -> None:
    """Print the families of config.json that are read, the towers for images, and what is refused and why."""
    rows = table("family", "also read as it")
    for name, aliases in document["families"].items():
        rows.add(name, ", ".join(aliases))
    show(rows)
    refused = table("not read", "because a model file cannot express")
    for name, lacks in document["refused"].items():
        refused.add(name, lacks)
    show(refused)
    formats = table("model", "weights", "products", "without a unit for them")
    for name, each in document["models"].items():
        without = sorted({device for devices in each["devices_without"].values() for device in devices})
        formats.add(name, ", ".join(each["weights"]), ", ".join(each["products"]) or "bf16", ", ".join(without))
    show(formats)
    awaited = table("known by name alone", "whose config.json was not read")
    for name, what in document["awaited"].items():
        awaited.add(name, what)
    show(awaited)
    counts = document["counts"]
    show(textwrap.fill(", ".join(document["encoders"]), WIDTH, initial_indent="towers for images: "))
    show(f"{counts['families']} families and {counts['encoders']} towers are read, {counts['refused']} are not")


def attention(architecture: Architecture) -> str:
    """Return the kinds of attention of a model: MLA heads, or MHA, GQA, MQA with query and key-value heads.

    A kind ends with `~` if any of its layers has a window or another sparse pattern. One that follows another of its
    name is shown by its heads alone.
    """
    unlisted = (mixers.NoMixer,) if architecture.denoiser is None else (mixers.NoMixer, mixers.PlainProjection)
    kinds = dict.fromkeys(_kind(layer.mixer) for layer in architecture.kinds if not isinstance(layer.mixer, unlisted))
    names = dict.fromkeys(kind.rstrip("~") for kind in kinds)
    parts: list[str] = []
    before = ""
    for name in names:
        word, _, heads = name.partition(" ")
        shown = heads if word == before else name
        parts.append(f"{shown}~" if f"{name}~" in kinds else shown)
        before = word
    return ", ".join(parts)


_NAMES: dict[type[mixers.Mixer], str] = {
    mixers.Convolution: "CNN", mixers.ResidualBlock: "CNN",
    mixers.Spectral: "spectral", mixers.Gate: "gate", mixers.MilPool: "pooling",
    mixers.SelectiveScan: "scan", mixers.PlainProjection: "projection", mixers.NoMixer: "none",
}  # fmt: skip
_HEADS: dict[type[mixers.Mixer], str] = {
    mixers.Recurrence: "rec.", mixers.NeuralMemory: "memory",
    mixers.Mla: "MLA", mixers.CompressedAttention: "compressed",
}  # fmt: skip


def _kind(mixer: mixers.Mixer) -> str:
    if isinstance(mixer, mixers.Recurrence | mixers.NeuralMemory | mixers.Mla | mixers.CompressedAttention):
        narrow = isinstance(mixer, mixers.Mla) and any(group.pattern.kind != "full" for group in mixer.head_groups)
        return f"{_HEADS[type(mixer)]} {mixer.heads:g}{'~' if narrow else ''}"
    if not isinstance(mixer, mixers.Attention):
        return _NAMES[type(mixer)]
    window = "~" if any(group.pattern.kind != "full" for group in mixer.head_groups) else ""
    if mixer.kv_heads == mixer.q_heads:
        return f"MHA {mixer.q_heads:g}{window}"
    return f"{'MQA' if mixer.kv_heads == 1 else 'GQA'} {mixer.q_heads:g}/{mixer.kv_heads:g}{window}"


def _short(value: float) -> str:
    size, unit = next(((size, unit) for size, unit in _SIZES if value >= size), _SIZES[-1])
    scaled = value / size
    return f"{scaled:,.{0 if scaled >= MANY else 1}f}{unit}"


def show_model(facts: Mapping[str, Any], model: ModelDocument) -> None:
    """Print a model: parameters, KV cache and FLOPs, layers, sources, and notes on its import."""
    document = model.document
    architecture = model.architecture
    active = f"{_short(facts['active_parameters_with_embedding'])} active, " if architecture.has_experts else ""
    show(
        f"{facts['name']}: {_short(facts['parameters'])} parameters, {active}{architecture.depth} layers, "
        f"{attention(architecture)}, {quantity(facts['kv_cache_bytes_per_token'], 'size', 3)} of KV cache per token",
        "bold",
    )
    rows = table("quantity", ">value")
    for name in ("parameters", "active_parameters", "active_parameters_with_embedding", "mtp_parameters"):
        rows.add(readable(name), f"{facts[name]:,.0f}")
    rows.add("KV cache per token (BF16)", quantity(facts["kv_cache_bytes_per_token"], "size", DIGITS))
    flop = quantity(facts["training_flop_per_token"], "flop", DIGITS)
    rows.add("training FLOPs per token at sequence length 4,096", flop)
    show(rows)
    for line in _layer_lines(document["layers"]):
        show(line)
    if document["aliases"]:
        show(f"also: {', '.join(document['aliases'])}")
    show_sources(document)
    for note in model.notes:
        show(f"note: {note}")


def _layer_lines(layers: list[Mapping[str, Any]], indent: str = "") -> Iterator[str]:
    """Yield one line for each run of identical layers. Those of a group are indented below it."""
    for layer in layers:
        if "layers" in layer:
            yield f"{indent}{layer['repeat']} times:"
            yield from _layer_lines(layer["layers"], f"{indent}  ")
            continue
        parts = ", ".join(f"{part}: {_flat(layer[part])}" for part in ("mixer", "ffn"))
        number = layer["repeat"]
        yield f"{indent}{number} layer{'' if number == 1 else 's'}, {_block(layer)}, {parts}"


def _block(layer: Mapping[str, Any]) -> str:
    """Return the kind and position of a layer's norms, and whether its block is parallel."""
    position = "" if layer["norm_position"] == "before" else f" {layer['norm_position']}"
    shared = " (one norm)" if layer["shared_norm"] else ""
    parallel = f", parallel{shared}" if layer["block"] == "parallel" else ""
    return f"norm {layer['norm']}{position}{parallel}"


def _flat(part: Mapping[str, Any]) -> str:
    """Return a mixer or FFN in one line, without values that are null or false."""
    values = {
        key: value
        for key, value in part.items()
        if value is not None and value is not False and not isinstance(value, list | Mapping)
    }
    patterns = [group["pattern"] for group in part.get("head_groups", ())]
    windows = [pattern["window"] for pattern in patterns if pattern.get("window")]
    others = [pattern["kind"].replace("_", " ") for pattern in patterns if pattern["kind"] not in ("full", "window")]
    if windows:
        values["window"] = " and ".join(f"{window:g}" for window in windows)
    if others:
        values["patterns"] = ", ".join(dict.fromkeys(others))
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


# ---- The terminal view of what runs on a machine ---------------------------------------------------------------------

FEW = 7  # models that are listed


def show_machine(machine: Machine) -> None:
    """Print which models run on a machine: the largest ones, each in its widest format."""
    fitting, every = [row for row in machine.rows if row.fits], is_verbose()
    show(answer(machine, fitting), "bold")
    if not fitting:
        return
    isl, osl = machine.context
    widest = list({row.model: row for row in reversed(fitting)}.values())[::-1]
    listed = fitting if every else widest[:FEW]
    show(rows_table(listed))
    show("context: the longest that memory holds; tok/s: of one user, with its 80 % interval;")
    show(f"users, in all: the most at once and their tok/s, {isl:,} tokens in and {osl:,} out each")
    for line in too_large(machine, fitting, None if every else 1):
        show(line)
    if every:
        for name, reason in machine.left_out:
            show(f"left out: {name}: {reason}")
    elif machine.left_out:
        some = ", ".join(name for name, _ in machine.left_out[: FEW // 2])
        show(f"left out, --verbose says why: {some}{', …' if len(machine.left_out) > FEW // 2 else ''}")
    show(f"next: {listed[0].command}", "dim")
    if every:
        show(f"      formats and frameworks: workloads/{FORMATS}.yaml", "dim")
    show_hint(
        f"the largest models, each in the widest format that fits, of {len(widest)} ({len(fitting)} with formats)"
    )


def answer(machine: Machine, fitting: list[Row]) -> str:
    """Return how many models run, and the largest of them."""
    models = len({row.model for row in machine.rows})
    devices = f"{machine.devices} devices of {gib(machine.capacity, 0)} GiB" if machine.devices > 1 else ""
    here = f"{machine.cluster} ({devices or f'{gib(machine.capacity, 0)} GiB'})"
    if not machine.rows:
        return f"{here} runs none of the models: {machine.left_out[0][0]} {machine.left_out[0][1]}"
    if not fitting:
        least = min(machine.rows, key=lambda row: row.memory)
        return f"{here} runs none of {models} models: {least.model} in {least.format} needs {gib(least.memory)} GiB"
    first = fitting[0]
    rate = count(first.tokens_per_second_per_user or 0.0, 3)
    return (
        f"{here} runs {len({row.model for row in fitting})} of {models} models, up to {first.model} in {first.format}: "
        f"{rate} tokens/s, {first.longest_context:,} tokens of context"
    )


def too_large(machine: Machine, fitting: list[Row], most: int | None) -> Iterator[str]:
    """Yield what models that do not fit need in the format that takes least, the smallest first. most: of them."""
    runs = {row.model for row in fitting}
    least: dict[str, Row] = {}
    for row in sorted(machine.rows, key=lambda row: row.memory * row.devices):
        if row.model not in runs:
            least.setdefault(row.model, row)
    for row in list(least.values())[:most]:
        on = f" on each of {row.devices} devices" if row.devices > 1 else ""
        more = f"; {len(least) - most} more" if most is not None and len(least) > most else ""
        yield f"too large: {row.model} in {row.format}: {gib(row.memory)} GiB{on} and what the engine reserves{more}"


def rows_table(rows: list[Row]) -> Table:
    """Return models as a table."""
    several = any(row.devices > 1 for row in rows)
    gpus = (">GPUs",) if several else ()
    content = table("model", "format", *gpus, ">GiB", ">context", ">tok/s", ">80 %", ">users", ">in all")
    for row in rows:
        low, high = row.interval or (0.0, 0.0)
        content.add(
            row.model, row.format, *((whole(row.devices),) if several else ()), gib(row.memory),
            whole(row.longest_context or 0), count(row.tokens_per_second_per_user or 0.0, 3),
            f"{low:.0f}-{high:.0f}", whole(row.most_users or 0), whole(row.tokens_per_second or 0.0),
        )  # fmt: skip
    return content
