"""Shell scripts that start serving engines, with the benchmark that checks a plan and what no option states."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from costmodel.planning.launch.deployment import BOTH, Deployment, Pool, benchmark, caveats, described
from costmodel.planning.launch.layouts import degrees, engine_of, ours, theirs
from costmodel.planning.launch.options import Engine, Settings, engine
from costmodel.records import replace
from costmodel.units import render

PORT = 8000
_FRONT_END = ("python3", "-m", "dynamo.frontend", "--router-mode", "kv", "--http-port", str(PORT))
_CONFIG = "trt-llm.yaml"
_FILE = {"trt-llm": "--extra_llm_api_options", "dynamo-trt-llm": "--extra-engine-args"}
_ROUTERS = {  # engine -> what brings a request to one engine of either pool
    "vllm": "toy_proxy_server.py of vLLM's tests/v1/kv_connector/nixl_integration, or its router",
    "sglang": "python3 -m sglang_router.launch_router --pd-disaggregation --prefill URL --decode URL",
    "trt-llm": "trtllm-serve disaggregated -c FILE",
}
_CONTEXTS = 256  # tokens of which the longest context is a multiple: templates of chats add some
_LOADS = {"isl": "input_tokens", "osl": "output_tokens", "rate": "rate", "users": "users", "tokens": "tokens"}
HEADLINE = "No option states:"
_PLACED = ': "${HEAD:?address of the first node of the engine}" "${NODE_RANK:?number of this node in it, from 0 on}"'
_KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}
_TRT_LLM_ROLES = {"prefill": "CONTEXT", "decode": "GENERATION"}


def _worker(key: str) -> Engine:
    """Return an engine's command line as a worker of Dynamo."""
    if key == "trt-llm":
        return engine(f"dynamo-{key}")
    made = engine(key)
    return replace(made, program=("python3", "-m", f"dynamo.{key}"), model=("--model",))


class Variable(str):
    """A word that the shell replaces: it stands between double quotes."""

    __slots__ = ()


def script(key: str, deployed: Deployment, *, routed: bool = False) -> str:
    """Return the script. key: the engine of engines.yaml; each node runs it with its role, or `bench`.

    routed: workers of Dynamo, behind its front end.
    """
    made = _worker(key) if routed else engine(key)
    lines = ["#!/usr/bin/env bash", *comments(deployed, made), "set -euo pipefail", ""]
    if made.key != "trt-llm" and any(pool.nodes > 1 for pool in deployed.pools):
        lines += [_PLACED, ""]
    first = deployed.pools[0].role
    lines.append(f'case "${{1:-{first}}}" in')
    if routed:
        lines += ["frontend)", *shell(_FRONT_END), "  ;;"]
    for pool in deployed.pools:
        lines += [f"{pool.role})", *config_lines(made, deployed, pool), *_engines(made, deployed, pool), "  ;;"]
    return "\n".join([*lines, "bench)", *_bench(made, deployed), "  ;;", "esac", ""])


def comments(deployed: Deployment, made: Engine) -> Iterator[str]:
    """Yield the comments: what starts, of which release, and the settings that no option states, as `--from` reads."""
    yield f"# {deployed.model}: {'; '.join(described(deployed))}"
    if deployed.predicted:
        yield f"# Predicted: {deployed.predicted}{'; the limits do NOT hold' if deployed.holds is False else ''}"
    yield f"# {made.name} {made.release}, options of {made.source}"
    if deployed.framework != made.key.removeprefix("dynamo-"):
        yield f"# The plan assumed {deployed.framework}."
    for pool in deployed.pools:
        if pool.role != "train":
            share = min(pool.engines_a_node, pool.engines)
            shared = f"{pool.nodes} nodes are one engine" if pool.nodes > 1 else f"{share} of {pool.engines} engines"
            yield f"# Each node of {pool.role}: {shared}"
    if len(deployed.pools) > 1 and made.key in _ROUTERS:
        yield f"# `bench` goes to a router in front of both pools, at port {PORT}: {_ROUTERS[made.key]}"
    yield f"# {HEADLINE}"
    for name, value in stated_by_none(made, deployed).items():
        yield f"#   {name} = {value}"
    if deployed.drafts is None and any(pool.settings.get("speculative.depth") for pool in deployed.pools):
        yield "#   (the model has no drafts of its own: name the draft model that the plan's acceptance is of)"


def stated_by_none(made: Engine, deployed: Deployment) -> dict[str, Any]:
    """Return the settings that the engine's options do not give back when they are read."""
    left: dict[str, Any] = {"model": deployed.model}
    for pool in deployed.pools:
        prefix = "" if pool.role in (BOTH, "train") else f"{pool.role}."
        left[f"{prefix}cluster"] = pool.cluster_name
        if not deployed.trains:
            left[f"{prefix}replicas.count"] = pool.engines
        read = again(made, pool.settings, deployed.drafts)
        for path, value in pool.settings.items():
            if read.get(path) != value and not (path.startswith("parallel.") and value == 1 and path not in read):
                left[f"{prefix}{path}"] = value
    for name, value in deployed.load.items():
        left[_LOADS[name]] = render(value, "rate") if name == "rate" else int(value)
    return left


def again(made: Engine, settings: Settings, drafts: str | None) -> Settings:
    """Return what is read of the options that settings are written as."""
    words, document = made.written(theirs(made.key, settings), drafts)
    return ours(made.key, made.stated([(word, 0) for word in words], document)[0])


def can_start(framework: str, of: Mapping[str, float]) -> bool:
    """Tell whether an engine's options state a layout. of: degrees and the slices of an expert, by name."""
    key, own = engine_of(framework), {f"parallel.{name}": int(value) for name, value in of.items()}
    usual = {"parallel.expert_tensor": own["parallel.tp"] if own["parallel.ep"] == 1 else 1}
    read = {} if key is None else usual | again(engine(key), own, None)
    return all(read.get(path, 1) == value for path, value in own.items()) or key is None


def command(made: Engine, deployed: Deployment, pool: Pool, port: int = PORT) -> list[str]:
    """Return the words that start one engine of a pool, the node's own included."""
    settings = _stated(made, deployed, pool)
    words, document = made.written({name: value for name, value in settings.items() if value}, deployed.drafts)
    off = made.written({name: value for name, value in settings.items() if value is False})[0]
    placed = _PLACES[made.key](pool) if pool.nodes > 1 and made.key in _PLACES else []
    words = [*words, *off, *placed, *_roles(made, pool)]
    ranks = "srun", "--mpi=pmix", f"--nodes={pool.nodes}", f"--ntasks-per-node={pool.node_size}", "trtllm-llmapi-launch"
    before = ranks if made.key == "trt-llm" and pool.nodes > 1 else ()
    program = [*before, *(deployed.checkpoint if word == "MODEL" else word for word in made.program)]
    named = [made.model[0], deployed.checkpoint] if "MODEL" not in made.program else []
    config = [_FILE[made.key], _CONFIG] if document else []
    served = [] if _is_routed(made) else ["--port", str(port)]
    return [*program, *named, *words, *config, *served]


def _is_routed(made: Engine) -> bool:
    return any(word.startswith("dynamo.") for word in made.program)


def shell(words: Sequence[str], indent: str = "  ") -> list[str]:
    """Return a command as lines of a script: an option and its value on each."""
    lines = [""]
    for word in words:
        quoted = f'"{word}"' if isinstance(word, Variable) else shlex.quote(word)
        if lines[-1] and (word.startswith(("--", "${")) or word.endswith(".py")):
            lines.append(quoted)
        else:
            lines[-1] = f"{lines[-1]} {quoted}".strip()
    return [f"{indent}{'  ' if number else ''}{line}" for number, line in enumerate(" \\\n".join(lines).split("\n"))]


def _stated(made: Engine, deployed: Deployment, pool: Pool) -> Settings:
    """Return the settings of a pool in its engine's counting, and what its longest request asks for."""
    longest = _context(deployed)
    cuts = (longest or 0) > pool.settings.get("scheduler.token_budget", math.inf) or None
    return theirs(made.key, pool.settings | {"context": longest, "chunked": cuts})


def _context(deployed: Deployment) -> int | None:
    """Return the tokens of the longest request, null where they are not known."""
    known = [deployed.load.get(name) for name in ("isl", "osl")]
    most = deployed.longest or (None if None in known else sum(value for value in known if value))
    return None if most is None else int(-(-most // _CONTEXTS) * _CONTEXTS)


def _engines(made: Engine, deployed: Deployment, pool: Pool) -> Iterator[str]:
    visible = "HIP_VISIBLE_DEVICES" if pool.is_amd else "CUDA_VISIBLE_DEVICES"
    several = pool.nodes == 1 and (pool.engines_a_node > 1 or pool.devices < pool.node_size)
    count = min(pool.engines_a_node, pool.engines)
    if made.key == "vllm" and pool.nodes > 1:
        yield '  headless=(); [[ "$NODE_RANK" == 0 ]] || headless=(--headless)'
    for number in range(count):
        words = command(made, deployed, pool, PORT + number)
        lines = shell(words)
        if several:
            of = range(number * pool.devices, (number + 1) * pool.devices)
            lines[0] = f"  {visible}={','.join(map(str, of))} {lines[0].strip()}"
        if made.key == "vllm" and pool.nodes > 1:
            lines[-1] += ' "${headless[@]}"'
        lines[-1] += " &" if count > 1 else ""
        yield from lines
    if count > 1:
        yield "  wait"


def config_lines(made: Engine, deployed: Deployment, pool: Pool) -> Iterator[str]:
    """Yield the lines that write the engine's YAML file, none where it needs none."""
    document = made.written(_stated(made, deployed, pool), deployed.drafts)[1]
    if document:
        yield f"cat > {_CONFIG} <<'EOF'"
        yield yaml.safe_dump(document, sort_keys=False).rstrip()
        yield "EOF"


def _bench(made: Engine, deployed: Deployment) -> list[str]:
    """Return the benchmark of one engine at its share of the load, of all of it where a router deals requests out."""
    share = 1 if _is_routed(made) or len(deployed.pools) > 1 else max(deployed.pools[0].engines, 1)
    load = {name: value / share if name in ("rate", "users") else value for name, value in deployed.load.items()}
    drafts = any(pool.settings.get("speculative.depth") for pool in deployed.pools)
    words = benchmark(made.key, deployed.checkpoint, load, deployed.statistics, drafts=drafts, port=PORT)
    return [*(f"  # {line}" for line in caveats(drafts=drafts, of_trace=deployed.of_trace)), *shell(words)]


def _roles(made: Engine, pool: Pool) -> list[str]:
    if pool.role == BOTH:
        return []
    if _is_routed(made):
        return ["--disaggregation-mode", pool.role]
    caches = {"kv_connector": "NixlConnector", "kv_role": _KV_ROLES[pool.role]}
    of: Mapping[str, list[str]] = {
        "vllm": ["--kv-transfer-config", json.dumps(caches)],
        "sglang": ["--disaggregation-mode", pool.role],
        "trt-llm": ["--server_role", _TRT_LLM_ROLES[pool.role]],
    }
    return of[made.key]


def _vllm_nodes(pool: Pool) -> list[str]:
    of = degrees(pool.settings)
    local = pool.node_size // (pool.devices // of["dp"])
    if of["dp"] == 1 or local == 0:
        return ["--nnodes", str(pool.nodes), "--node-rank", Variable("$NODE_RANK"), "--master-addr", Variable("$HEAD")]
    return [
        "--data-parallel-size-local", str(local), "--data-parallel-start-rank", Variable(f"$((NODE_RANK * {local}))"),
        "--data-parallel-address", Variable("$HEAD"), "--data-parallel-rpc-port", "13345",
    ]  # fmt: skip


def _sglang_nodes(pool: Pool) -> list[str]:
    rank, head = Variable("$NODE_RANK"), Variable("$HEAD:20000")
    return ["--nnodes", str(pool.nodes), "--node-rank", rank, "--dist-init-addr", head]


_PLACES: Mapping[str, Callable[[Pool], list[str]]] = {"vllm": _vllm_nodes, "sglang": _sglang_nodes}
