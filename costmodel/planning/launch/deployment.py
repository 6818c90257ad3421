"""A plan's entry as what a launch has to state: one pool of engines or two, settings, machines, load."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.planning.launch.layouts import devices_of
from costmodel.planning.launch.options import MTP, Settings
from costmodel.records import Record
from costmodel.schema.files import load_cluster, load_document, read_model
from costmodel.units import render

BOTH = "serve"  # role of engines that compute prompts and decode
POOLS = ("prefill", "decode")
_SETTINGS = ("scheduler", "memory", "speculative", "optimizer")  # parts of an entry whose keys are settings
_LOAD = ("isl", "osl", "rate", "users", "tokens")
_SHOWN = ("ttft_p99", "tpot_p99", "ttft_mean", "tpot_mean", "step_time")  # metrics, in the order of a script's comment
_TRAINING = ("micro_batch", "global_batch", "sequence", "recompute", "schedule")


class Pool(Record):
    """Equal engines. role: `serve`, `prefill`, `decode` or `train`; cluster: where they run, and its name."""

    role: str
    settings: Settings
    engines: int
    cluster: Cluster
    cluster_name: str

    @property
    def devices(self) -> int:
        """Return the devices of one engine."""
        return devices_of(self.settings)

    @property
    def node_size(self) -> int:
        """Return the devices of a node."""
        return int(self.cluster.node.count)

    @property
    def nodes(self) -> int:
        """Return the nodes of one engine."""
        return -(-self.devices // self.node_size)

    @property
    def engines_a_node(self) -> int:
        """Return the engines of a full node, one where an engine has one or more nodes."""
        return max(self.node_size // self.devices, 1)

    @property
    def all_nodes(self) -> int:
        """Return the nodes of all engines."""
        return self.nodes * self.engines if self.nodes > 1 else -(-self.engines // self.engines_a_node)

    @property
    def is_amd(self) -> bool:
        """Tell whether its devices are AMD's."""
        return self.cluster.device.architecture.startswith(("cdna", "rdna"))


class Deployment(Record):
    """What starts. model: its name; checkpoint: what engines load; framework: name and release, as a plan states it.

    drafts: kind that the model has itself; load: `isl`, `osl`, `rate`, `users`, `tokens`, where stated.
    longest: tokens of the longest request, null where none is longer; statistics: of the limits.
    of_trace: whether requests come from a trace.
    predicted: what the plan says of it; holds: whether it keeps the limits, null where that was not played.
    """

    model: str
    checkpoint: str
    framework: str
    pools: tuple[Pool, ...]
    drafts: str | None
    load: Mapping[str, float]
    trains: bool = False
    longest: float | None = None
    statistics: tuple[str, ...] = ()
    of_trace: bool = False
    predicted: str = ""
    holds: bool | None = None


def deployment(request: Mapping[str, Any], entry: Mapping[str, Any], search_path: tuple[str, ...] = ()) -> Deployment:
    """Return what a plan's entry has to start. request, entry: as `plan --json` has them."""
    model = str(request["model"])
    trains = bool(request.get("train"))
    own = settings_of(entry)
    pools = []
    for role in POOLS if entry.get("prefill") and entry.get("decode") else ("train" if trains else BOTH,):
        part = entry.get(role) or {}
        name = part.get("cluster", entry["cluster"])
        settings = _with_cache(own | settings_of(part), search_path)
        count = part.get("replicas", part.get("instances", entry.get("replicas") or 1))
        pools.append(Pool(role, settings, int(count), load_cluster(name, search_path), name))
    document = read_model(model, search_path)
    load = entry.get("load") or {}
    named = {each: request.get(each) or load[each] for each in _LOAD if request.get(each) or load.get(each)}
    return Deployment(
        model=model,
        checkpoint=checkpoint_of(model, document.document.get("aliases", ())), framework=framework_of(entry),
        pools=tuple(pools),
        drafts=MTP if document.architecture.mtp is not None else None, load=named, trains=trains,
        longest=load.get("longest"),
        of_trace=bool(request.get("trace")),
        statistics=tuple(statistics_of([request.get("ttft"), request.get("tpot")])),
        predicted=_predicted(entry), holds=entry.get("holds"),
    )  # fmt: skip


def _predicted(entry: Mapping[str, Any]) -> str:
    """Return the times of a plan's entry, and its rent."""
    metrics = entry.get("metrics") or {}
    shown = [name for name in _SHOWN if metrics.get(name) is not None]
    parts = [f"{name} {render(float(f'{metrics[name]:.3g}'), 'time')}" for name in shown]
    rent = entry.get("cost_rate")
    return ", ".join([*parts, *([] if rent is None else [f"{rent:.4g} $/h"])])


def _with_cache(settings: Settings, search_path: tuple[str, ...]) -> Settings:
    """Return settings with the format of the KV cache that their precision implies, where it is not 16 bits."""
    name = settings.get("precision.compute")
    if name is None or "precision.kv_cache" in settings:
        return settings
    cache = load_document("precisions", f"precisions/{name}", search_path)["kv_cache"]
    return settings if cache in ("bf16", "fp16") else {**settings, "precision.kv_cache": cache}


def settings_of(entry: Mapping[str, Any]) -> Settings:
    """Return the settings that a plan's entry or a pool of it states."""
    settings = {f"parallel.{name}": value for name, value in (entry.get("parallel") or {}).items()}
    precision = entry.get("precision")
    named = precision if isinstance(precision, Mapping) else {"compute": precision}
    settings |= {f"precision.{name}": value for name, value in named.items()}
    for part in _SETTINGS:
        settings |= {f"{part}.{name}": value for name, value in (entry.get(part) or {}).items()}
    settings |= {name: entry.get(name) for name in _TRAINING}
    settings.setdefault("optimizer.zero", entry.get("zero"))
    return {path: _whole(value) for path, value in settings.items() if value is not None}


def checkpoint(model: str, search_path: tuple[str, ...] = ()) -> str:
    """Return the id on Hugging Face of a model by its name, file or folder."""
    return checkpoint_of(model, read_model(model, search_path).document.get("aliases", ()))


def checkpoint_of(model: str, aliases: Iterable[str]) -> str:
    """Return the id on Hugging Face that a catalogue's model has as an alias, the one of its name first."""
    ids = [alias for alias in aliases if "/" in alias]
    name = model.rpartition("/")[2].lower()
    if "/" in model and not model.startswith("models/"):
        return model
    return next((each for each in ids if name in each.lower()), ids[0] if ids else model)


def framework_of(entry: Mapping[str, Any]) -> str:
    """Return the name of an entry's framework."""
    framework = entry.get("framework")
    named = framework.get("name") if isinstance(framework, Mapping) else framework
    if not named:
        raise InputError.single("the plan names no framework", hint="plan with one, such as vllm", field="--emit")
    return str(named)


def described(deployment: Deployment) -> Iterator[str]:
    """Yield a line for each pool: what runs where."""
    for pool in deployment.pools:
        layout = " x ".join(
            f"{name.upper()} {pool.settings[f'parallel.{name}']}"
            for name in ("tp", "pp", "dp", "ep", "cp")
            if pool.settings.get(f"parallel.{name}", 1) != 1 or (name == "tp" and f"parallel.{name}" in pool.settings)
        )
        nodes = f"{pool.all_nodes} node{'s' if pool.all_nodes != 1 else ''}"
        kind = "" if pool.role == BOTH else f"{pool.role}: "
        yield (
            f"{kind}{pool.engines} x {layout or 'one device'} = {pool.engines * pool.devices} "
            f"{pool.cluster.device.name} on {nodes} of {pool.cluster_name}"
        )


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_REQUESTS = 1000  # of a benchmark
_SGLANG = ("mean", "p50", "p99")  # that SGLang's own client prints
_MEDIANS = ("mean", "p50")  # that vLLM's client prints beside percentiles


def benchmark(
    key: str, checkpoint: str, load: Mapping[str, Any], statistics: Sequence[str] = (), *, drafts: bool = False,
    port: int | None = None,
) -> list[str]:  # fmt: skip
    """Return the words of the command that measures an engine.

    key: of engines.yaml. load: `isl`, `osl` [tokens], `rate` [1/s] or `users` of the engine; statistics: of limits.
    drafts: texts of the user's own, since drafts of random tokens are hardly ever accepted.
    SGLang's client where it prints the statistics, else vLLM's, which talks to any server of OpenAI's interface.
    """
    own = "sglang" in key and set(statistics) <= {*_SGLANG}
    output = str(int(load["osl"])) if "osl" in load else None
    if own:
        words = ["python3", "-m", "sglang.bench_serving", "--backend", "sglang"]
    else:
        words = ["vllm", "bench", "serve", "--backend", "vllm" if "vllm" in key else "openai"]
        words += [] if "vllm" in key else ["--endpoint", "/v1/completions"]
    words += ["--model", checkpoint, *([] if port is None else ["--port", str(port)])]
    if drafts:
        lengths = ("--sharegpt-output-len" if own else "--custom-output-len", output)
        words += ["--dataset-name", "custom", "--dataset-path", "texts.jsonl"]
        words += [lengths[0], output] if output is not None else []
    else:
        words += ["--dataset-name", "random", *(["--random-range-ratio", "1.0"] if own else [])]
        for name, option in (("isl", "--random-input-len"), ("osl", "--random-output-len")):
            words += [option, str(int(load[name]))] if name in load else []
    words += ["--num-prompts", str(_REQUESTS)]
    words += ["--request-rate", f"{load['rate']:.4g}"] if "rate" in load else []
    words += ["--max-concurrency", str(max(round(load["users"]), 1))] if "users" in load else []
    if not own:
        shares = sorted({each.removeprefix("p") for each in statistics if each not in _MEDIANS}, key=float) or ["99"]
        words += [
            "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", ",".join(shares), "--ignore-eos",
        ]  # fmt: skip
    return words


def caveats(*, drafts: bool, of_trace: bool) -> Iterator[str]:
    """Yield what a benchmark does not measure of a plan."""
    if drafts:
        yield 'texts.jsonl has your own prompts, a line {"prompt": "..."} each: of random tokens no draft is kept'
    if of_trace:
        yield "prompts have the trace's mean lengths and rate: its bursts and longest requests are not sent"


def statistics_of(limits: Sequence[object]) -> list[str]:
    """Return the statistics of limits written as `1 s@p95`."""
    found = (re.search(r"@(\w+)$", str(limit)) for limit in limits if limit is not None)
    return list(dict.fromkeys(each[1] for each in found if each))
