"""Shell scripts that start training runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from costmodel.errors import InputError
from costmodel.planning.launch.deployment import Deployment, Pool
from costmodel.planning.launch.layouts import theirs
from costmodel.planning.launch.options import Engine, engine
from costmodel.planning.launch.scripts import Variable, comments, shell
from costmodel.workload.architecture import Architecture, DenseFfn, MoeFfn
from costmodel.workload.mixers import Attention, Mla

_MASTER = "29500"
_END = ("--training.steps", Variable("$steps"), Variable("${data[@]}"))
_STEPS = "50"  # of a run that shows its step time, with made-up data


def training_script(key: str, deployed: Deployment, model: Architecture) -> str:
    """Return the script of a training run. key: of engines.yaml; each node runs it; with `bench` some steps of it."""
    made = engine(key)
    pool = deployed.pools[0]
    written = _megatron if key == "megatron" else _torchtitan
    lines = ["#!/usr/bin/env bash", *comments(deployed, made), "set -euo pipefail", ""]
    if pool.nodes > 1:
        lines += [': "${HEAD:?address of the first node}" "${NODE_RANK:?number of this node, from 0 on}"', ""]
    real, trial = _data(key)
    lines += [f"steps={_steps(deployed)} data=({shlex.join(real)})"]
    lines += [f'[[ "${{1:-train}}" != bench ]] || {{ steps={_STEPS} data=({shlex.join(trial)}); }}', ""]
    return "\n".join([*lines, *shell([*_torchrun(pool), *written(made, deployed, model)], indent=""), ""])


def _data(key: str) -> tuple[list[str], list[str]]:
    """Return the words that state what a run trains on, and a trial's."""
    if key == "megatron":
        return ["--data-path", "DATA"], ["--mock-data"]
    return [], ["--dataloader.dataset", "c4_test"]


def _torchrun(pool: Pool) -> list[str]:
    """Return the words that start a process for each device of a node."""
    if pool.nodes == 1:
        return ["torchrun", "--standalone", "--nproc-per-node", str(pool.devices)]
    return [
        "torchrun", "--nnodes", str(pool.nodes), "--nproc-per-node", str(pool.node_size),
        "--node-rank", Variable("$NODE_RANK"), "--master-addr", Variable("$HEAD"), "--master-port", _MASTER,
    ]  # fmt: skip


def _megatron(made: Engine, deployed: Deployment, model: Architecture) -> list[str]:
    settings = dict(deployed.pools[0].settings)
    words = made.written(theirs(made.key, {"precision.compute": "bf16", **settings}))[0]
    if settings.get("recompute") == "full":
        words += ["--recompute-method", "uniform", "--recompute-num-layers", "1"]
    return [
        *made.program, *_network(model), *words, "--max-position-embeddings", str(settings["sequence"]),
        "--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", deployed.checkpoint, "--lr", "3e-4",
        "--log-interval", "1", "--log-throughput", "--train-iters", Variable("$steps"), Variable("${data[@]}"),
    ]  # fmt: skip


def _steps(deployed: Deployment) -> int:
    """Return the steps of a run: tokens / (global_batch * sequence)."""
    settings = deployed.pools[0].settings
    step = float(settings["global_batch"] * settings["sequence"])
    return max(round(deployed.load.get("tokens", 0.0) / step), int(_STEPS))


def _network(model: Architecture) -> Iterator[str]:
    """Yield the words that state a model. Raises InputError on one that Megatron-LM's options cannot."""
    layers = model.layers
    mixers = {type(layer.mixer) for layer in layers}
    if mixers not in ({Attention}, {Mla}) or any(not isinstance(layer.ffn, DenseFfn | MoeFfn) for layer in layers):
        raise InputError.single(
            f"{model.name} has layers that pretrain_gpt.py has no options for",
            hint="use a model of attention and FFNs",
            field="--emit",
        )  # fmt: skip
    dense = next((layer.ffn for layer in layers if isinstance(layer.ffn, DenseFfn)), None)
    experts = next((layer.ffn for layer in layers if isinstance(layer.ffn, MoeFfn)), None)
    yield from ("--num-layers", str(model.depth), "--hidden-size", _int(model.hidden))
    width = dense.intermediate if dense is not None else experts.intermediate if experts is not None else 0.0
    yield from ("--ffn-hidden-size", _int(width), "--vocab-size", _int(model.vocabulary))
    yield from _attention(layers[-1].mixer)
    if layers[-1].norm == "rms":
        yield from ("--normalization", "RMSNorm")
    gated = dense.gated if dense is not None else experts is not None and experts.gated
    yield from ("--swiglu",) if gated else ()
    yield from () if model.positions is not None else ("--position-embedding-type", "rope")
    yield from () if model.tied_embeddings else ("--untie-embeddings-and-output-weights",)
    yield "--disable-bias-linear"
    if experts is not None:
        yield from _experts(model, experts)


def _attention(mixer: object) -> Iterator[str]:
    if isinstance(mixer, Mla):
        yield from ("--num-attention-heads", _int(mixer.heads), "--multi-latent-attention")
        if mixer.q_lora is not None:
            yield from ("--q-lora-rank", _int(mixer.q_lora))
        yield from ("--kv-lora-rank", _int(mixer.kv_lora), "--qk-head-dim", _int(mixer.nope_dim))
        yield from ("--qk-pos-emb-head-dim", _int(mixer.rope_dim), "--v-head-dim", _int(mixer.v_head_dim))
    elif isinstance(mixer, Attention):
        yield from ("--num-attention-heads", _int(mixer.q_heads), "--kv-channels", _int(mixer.head_dim))
        if mixer.kv_heads != mixer.q_heads:
            yield from ("--group-query-attention", "--num-query-groups", _int(mixer.kv_heads))
        if mixer.qk_norm is not None:
            yield "--qk-layernorm"


def _experts(model: Architecture, experts: MoeFfn) -> Iterator[str]:
    pattern = "+".join(f"[{int(isinstance(layer.ffn, MoeFfn))}]*{layer.repeat}" for layer in model.layers)
    yield from ("--num-experts", _int(experts.experts), "--moe-router-topk", str(experts.top_k))
    yield from ("--moe-ffn-hidden-size", _int(experts.intermediate), "--moe-layer-freq", f"({pattern})")
    yield from ("--moe-grouped-gemm", "--moe-token-dispatcher-type", "alltoall")
    if experts.shared:
        width = experts.shared * (experts.shared_intermediate or experts.intermediate)
        yield from ("--moe-shared-expert-intermediate-size", _int(width))


def _torchtitan(made: Engine, deployed: Deployment, model: Architecture) -> list[str]:
    module = made.configs.get(model.name)
    if module is None:
        raise InputError.single(
            f"torchtitan {made.release} has no configuration of {model.name}",
            hint=f"it has {', '.join(made.configs)}; or use --emit megatron", field="--emit",
        )  # fmt: skip
    settings = dict(deployed.pools[0].settings)
    settings["shards"] = int(settings.get("parallel.dp", 1))
    words = made.written(theirs(made.key, settings))[0]
    return [*made.program, "--module", module[0], "--config", module[1], *words, *_END]


def _int(value: object) -> str:
    return str(int(value))  # type: ignore[call-overload]
