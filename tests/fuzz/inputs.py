"""Mutations of files that commands read besides the shipped kinds, and of flags: traces, tables, results, checkpoints.

A mutation is its kind and a seed: the same pair gives the same bytes and words on every machine. `{file}` in the words
of a kind is the mutated file, `{folder}` an empty folder that holds it.
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, "", "x", -1, 0, 0.5, 1e-300, 1e300, 2**31, 2**63, 2**70, 10**400, float("nan"), float("inf"), [], [[]],
    {}, {"x": 1}, [None, "x", 1], "\ud800", "\x1b[31m", "1" * 5000, "\uff11", "2023-03-26 02:30:00", "NaN", "1e400",
)  # fmt: skip
WORDS = (
    "", " ", "-", "x", "0", "-1", "1e400", "nan", "inf", "9" * 400, "-" * 990, "(" * 500, "[" * 5000, "{", "}", ":",
    "=", "1..1000000000:1000000000", "1,1", ",", "a" * 100_000, "\x1b[31m", "\ud800", "\uff11", "../../etc/passwd",
    "/dev/zero", "/dev/stdin", "/proc/self/mem", "hf:x/y", "1 GB", "1 s", "1e300 GB/s", "true", "null", "*", "&a", "!x",
    "scenarios", "scenarios.s.", ".", "$(x)", "%s%n", "{0}", "1" * 20, "tpot**9999", "1/0", "not " * 200 + "fits",
)  # fmt: skip
WORKLOAD = """schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  s: {phase: serving, cluster: nodes/rtx-4090-x1, input_tokens: 64, output_tokens: 16, rate: 4 /s,
      requests: {count: 20}}
  d: {phase: decode, cluster: nodes/rtx-4090-x1, input_tokens: 64, batch_per_device: 4}
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A file that a command reads. text: a good one; words: of the command; name: of the file."""

    name: str
    text: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Input:
    """A mutated file and the command that reads it. change: kind of the mutation."""

    kind: str
    seed: int
    change: str
    name: str
    data: bytes
    words: tuple[str, ...]


def _jsonl(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


SIMULATE = ("simulate", "{folder}/workload.yaml", "--scenario", "s", "--engine", "event", "--json")
TRACE = (*SIMULATE, "--set", "scenarios.s.requests={trace: {file}}", "--set", "scenarios.s.rate=null")
DECODE = ("simulate", "{folder}/workload.yaml", "--scenario", "d", "--json")
SWEEP = ("sweep", "{folder}/workload.yaml", "--scenario", "d", "--output", "{folder}/out", "--vary")
SEARCH = ("search", "{folder}/workload.yaml", "--scenario", "d")
HEAD = "arrival_s,input_tokens,output_tokens"
GEMM = "device,op,m,n,k,dtype_in,dtype_out,time_us\n" + "".join(
    f"RTX_4090,gemm,{2**power},4096,4096,bf16,bf16,{60 + 2**power / 3:.2f}\n" for power in range(2, 13)
)
MOONCAKE = [{"timestamp": 500 * i, "input_length": 64, "output_length": 8, "hash_ids": [0, i]} for i in range(4)]
AGENTIC = [
    {"request_id": f"r{i}", "timestamp": 100 * i, "input_length": 64, "output_length": 8, "hash_ids": [0, i],
     "wait_for": [f"r{i - 1}"] if i else [], "delay": 5, "priority": 0}
    for i in range(4)
]  # fmt: skip
DYNAMO = [
    {"event_type": "request_end", "event_time_unix_ms": 1000 * i, "agent_context": {"session_id": "a"},
     "request": {"total_time_ms": 10, "output_tokens": 8, "replay": {
         "input_length": 64, "input_sequence_hashes": [0, i], "trace_block_size": 32}}}
    for i in range(1, 4)
]  # fmt: skip
WEKA = {
    "id": 1, "block_size": 32, "hash_id_scope": "global",
    "requests": [
        {"t": 0, "type": "n", "in": 64, "out": 8, "hash_ids": [1, 2], "api_time": 1, "think_time": 0.5},
        {"t": 3, "type": "subagent", "requests": [{"t": 3, "type": "n", "in": 64, "out": 8, "hash_ids": [1, 3]}]},
        {"t": 5, "type": "n", "in": 64, "out": 8, "hash_ids": [1, 2]},
    ],
}  # fmt: skip
OPENAI = [
    {"timestamp": i, "session_id": "a", "messages": [{"role": "user", "content": "word " * (20 + i)}],
     "usage": {"prompt_tokens": 40, "completion_tokens": 8}, "latency_ms": 100,
     "choices": [{"message": {"role": "assistant", "content": "yes"}}]}
    for i in range(4)
]  # fmt: skip
VLLM = {
    "model_id": "meta-llama/Meta-Llama-3-8B", "mean_ttft_ms": 60, "mean_tpot_ms": 18.5, "completed": 20,
    "num_prompts": 20, "total_input_tokens": 1280, "total_output_tokens": 320, "request_rate": 4.0,
    "request_throughput": 3.9,
}  # fmt: skip
PERF = {
    "time_to_first_token": {"avg": 60, "unit": "ms"}, "inter_token_latency": {"avg": 18.5, "unit": "ms"},
    "input_config": {"loadgen": {"request_rate": 4.0}}, "input_sequence_length": {"avg": 64, "unit": "tokens"},
    "output_sequence_length": {"avg": 16, "unit": "tokens"},
}  # fmt: skip
METRICS = "".join(
    f'vllm:{name}_{end}{{engine="0"}} {value}\n'
    for name, total in (("time_to_first_token_seconds", 1.2), ("time_per_output_token_seconds", 0.37))
    for end, value in (("sum", total), ("count", 20))
)
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False, "max_position_embeddings": 8192,
    "rope_scaling": {"type": "linear", "factor": 2.0},
}  # fmt: skip
KINETO = {
    "traceEvents": [
        {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "GPU 0"}},
        {"ph": "X", "cat": "kernel", "name": "ampere_bf16_s16816gemm", "ts": 1.0, "dur": 90.0, "pid": 0, "tid": 7,
         "args": {"device": 0, "stream": 7, "External id": 5, "correlation": 5}},
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 0.0, "dur": 5.0, "pid": 1, "tid": 1,
         "args": {"External id": 5, "Input Dims": [[64, 4096], [4096, 4096]],
                  "Input type": ["c10::BFloat16", "c10::BFloat16"]}},
    ],
    "deviceProperties": [{"id": 0, "name": "NVIDIA GeForce RTX 4090"}],
}  # fmt: skip
NCCL = """# nThread 1 nGpus 1 minBytes 8 maxBytes 128 step: 2(factor)
#  Rank  0 Group  0 Pid  1 on node device  0 [0x07] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid  1 on node device  1 [0x0f] NVIDIA H100 80GB HBM3
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
     1048576        262144     float     sum      -1    40.12   26.14   26.14      0    39.98   26.23   26.23      0
     2097152        524288     float     sum      -1    55.12   38.05   38.05      0    54.98   38.14   38.14      0
"""
KINDS: dict[str, Kind] = {
    "trace": Kind("t.csv", f"{HEAD},priority\n" + "".join(f"{i},64,16,0\n" for i in range(5)), TRACE),
    "blocks": Kind("t.csv", f"{HEAD},block_ids\n" + "".join(f"{i},64,16,1 2 3 {i + 4}\n" for i in range(5)), TRACE),
    "azure": Kind(
        "t.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:15:4{i}.5000000,64,16\n" for i in range(5)),
        TRACE,
    ),
    "burstgpt": Kind(
        "t.csv", "Timestamp,Model,Request tokens,Response tokens\n1,a,64,16\n2,a,64,0\n3,a,64,16\n", TRACE
    ),
    "mooncake": Kind("t.jsonl", _jsonl(*MOONCAKE), TRACE),
    "agentic": Kind("t.jsonl", _jsonl(*AGENTIC), TRACE),
    "dynamo": Kind("t.jsonl", _jsonl(*DYNAMO), TRACE),
    "weka": Kind("t.json", json.dumps(WEKA), TRACE),
    "openai": Kind("t.jsonl", _jsonl(*OPENAI), TRACE),
    "bench": Kind(
        "t.json", json.dumps({"start_times": [1.0, 2.0], "input_lens": [64, 64], "output_lens": [8, 0]}), TRACE
    ),
    "pairs": Kind(
        "p.csv", f"{HEAD}\n0,64,16\n1,32,8\n", (*SIMULATE, "--set", "scenarios.s.requests={count: 9, pairs: {file}}")
    ),
    "vllm": Kind("b.json", json.dumps(VLLM), ("simulate", "{folder}/workload.yaml", "--scenario", "s", "--anchor",
                                              "{file}", "--json")),
    "genai-perf": Kind("b.json", json.dumps(PERF), ("simulate", "{folder}/workload.yaml", "--scenario", "s", "--anchor",
                                                    "{file}", "--json")),
    "metrics": Kind("m.txt", METRICS, ("simulate", "{folder}/workload.yaml", "--scenario", "s", "--anchor", "{file}",
                                       "--json")),
    "config": Kind("config.json", json.dumps(LLAMA), ("simulate", "{file}", "--cluster", "nodes/rtx-4090-x1",
                                                      "--phase", "decode", "--json")),
    "measured": Kind("m.csv", GEMM, ("predict", "{file}", "--output", "{folder}/out.csv")),
    "calibrated": Kind("m.csv", GEMM, ("calibrate", "{file}", "--device", "rtx-4090", "--output", "{folder}/f.yaml")),
    "kineto": Kind("k.json", json.dumps(KINETO), ("predict", "{file}", "--output", "{folder}/out.csv")),
    "nccl": Kind("all_reduce_perf.txt", NCCL, ("predict", "{file}", "--output", "{folder}/out.csv")),
    "study": Kind("out/study.json", "{}", (*SWEEP, "scenarios.d.batch_per_device=1,2")),
    "checkpoint": Kind("state.npz", "x", (*SIMULATE, "--checkpoint", "{file}")),
    "result": Kind("r.json", "{}", ("compare", "{folder}/good.json", "{file}")),
    "timeline": Kind("k.json", json.dumps(KINETO), ("compare", "{file}", "{file}", "--trace", "{folder}/both.json")),
}  # fmt: skip
FLAGS: tuple[tuple[str, ...], ...] = (
    (*DECODE, "--set", "{}"),
    (*DECODE, "--set", "scenarios.d.batch_per_device={}"),
    (*DECODE, "--set", "hardware.memory.hbm.bandwidth={}"),
    (*SIMULATE, "--set", "scenarios.s.requests={}"),
    (*SIMULATE, "--set", "scenarios.s.requests.count={}"),
    (*SIMULATE, "--set", "scenarios.s.replicas={count: {}}"),
    ("simulate", "{}"),
    ("simulate", "{folder}/workload.yaml", "--cluster", "{}"),
    ("simulate", "{folder}/workload.yaml", "--scenario", "{}"),
    ("simulate", "{folder}/workload.yaml", "--anchor", "{}"),
    ("simulate", "llama-3-8b", "--cluster", "nodes/rtx-4090-x1", "--phase", "{}"),
    (*SEARCH, "--objective", "{}"),
    (*SEARCH, "--objective", "minimise {}"),
    (*SEARCH, "--objective", "minimise tpot", "--constraint", "{}"),
    (*SEARCH, "--devices", "{}"),
    (*SWEEP, "{}"),
    (*SWEEP, "scenarios.d.batch_per_device={}"),
    (*SWEEP, "hardware.memory.hbm.bandwidth={}"),
    ("explain", "{folder}/workload.yaml", "--scenario", "d", "--op", "{}"),
    ("validate", "{}"),
    ("compare", "{}", "{}"),
    ("collective", "{}", "--cluster", "nodes/dgx-h100", "--ranks", "8", "--size", "1 MB"),
    ("collective", "all_reduce", "--cluster", "nodes/dgx-h100", "--ranks", "{}", "--size", "1 MB"),
    ("collective", "all_reduce", "--cluster", "nodes/dgx-h100", "--ranks", "8", "--size", "{}"),
    ("topology", "{}"),
    ("hardware", "show", "{}"),
    ("model", "show", "{}"),
    ("schema", "{}"),
    ("what-if", "{folder}/workload.yaml", "--scenario", "d", "--levers", "{}"),
    ("predict", "{}", "--output", "{folder}/out.csv"),
    ("{}",),
)


def inputs() -> list[str]:
    """Return the kinds of inputs, flags last."""
    return [*KINDS, "flags"]


def mutate_input(kind: str, seed: int, good: dict[str, bytes]) -> Input:
    """Return one mutation of an input. good: bytes of files that a run has to write first, by kind."""
    chosen = random.Random(f"{kind}:{seed}")
    if kind == "flags":
        words, word = chosen.choice(FLAGS), chosen.choice(WORDS)
        return Input(kind, seed, f"{' '.join(words)[:80]} <- {word[:40]!r}", "", b"", tuple(
            each.replace("{}", word) for each in words
        ))  # fmt: skip
    own = KINDS[kind]
    data = good.get(kind, own.text.encode())
    change, data = _changed(data, own.name, chosen)
    return Input(kind, seed, change, own.name, data, own.words)


def _changed(data: bytes, name: str, chosen: random.Random) -> tuple[str, bytes]:
    """Return the kind of a change, and the changed bytes."""
    draw = chosen.random()
    if draw < 0.45 and name.endswith((".json", ".jsonl")):
        return "odd value", _of_json(data, chosen)
    if draw < 0.45 and name.endswith(".csv"):
        return "odd cell", _of_table(data, chosen)
    kind = chosen.choice(sorted(BYTES))
    return kind, BYTES[kind](data, chosen)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _of_json(data: bytes, chosen: random.Random) -> bytes:
    """Return a document, or its lines, with another value at one or two places, or a key less."""
    lines = data.decode().splitlines() or ["{}"]
    documents = [json.loads(line) for line in lines] if len(lines) > 1 and data[:1] == b"{" and _is_lines(lines) else [
        json.loads(data)
    ]  # fmt: skip
    at = chosen.randrange(len(documents))
    document = copy.deepcopy(documents[at])
    for _ in range(chosen.choice((1, 1, 2))):
        places = list(_places(document))
        if not places:
            break
        path = chosen.choice(places)
        inside = document
        for key in path[:-1]:
            inside = inside[key]
        if chosen.random() < 0.2 and isinstance(inside, dict):
            del inside[path[-1]]
        else:
            inside[path[-1]] = chosen.choice(ODD)
    documents[at] = document
    return "\n".join(json.dumps(each) for each in documents).encode()


def _is_lines(lines: list[str]) -> bool:
    return all(line.startswith("{") and line.endswith("}") for line in lines)


def _of_table(data: bytes, chosen: random.Random) -> bytes:
    """Return a table with another cell, a column less, or one more."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    row, column = chosen.randrange(len(rows)), chosen.randrange(len(rows[0]))
    how = chosen.random()
    if how < 0.7:
        rows[row][column] = str(chosen.choice(ODD))
    elif how < 0.85:
        rows = [[*each[:column], *each[column + 1 :]] for each in rows]
    else:
        rows = [[*each, str(chosen.choice(ODD))] for each in rows]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _flip(data: bytes, chosen: random.Random) -> bytes:
    at = chosen.randrange(max(len(data), 1))
    return data[:at] + bytes([chosen.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, chosen: random.Random) -> bytes:
    return data[: chosen.randrange(len(data) + 1)]


def _twice(data: bytes, chosen: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    at = chosen.randrange(len(lines))
    return b"".join([*lines[: at + 1], *lines[at:]])


def _numbers(data: bytes, chosen: random.Random) -> bytes:
    digits = [at for at, sign in enumerate(data) if chr(sign).isdigit()] or [0]
    at = chosen.choice(digits)
    return data[:at] + chosen.choice((b"9" * 400, b"9" * 5000, b"1e400", b"-", b"0.", b"Infinity")) + data[at:]


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": _flip, "cut": _cut, "line twice": _twice, "digits": _numbers,
    "returns": lambda data, _: data.replace(b"\n", b"\r"),
    "utf-16": lambda data, _: data.decode("latin-1").encode("utf-16"),
    "nested": lambda data, chosen: data + chosen.choice((b"[", b'{"a":')) * 50_000,
    "long cell": lambda data, _: data + b'"' + b"x" * 300_000,
    "zeros": lambda data, _: data + b"\0" * 1000,
    "packed": lambda data, _: gzip.compress(data),
    "empty": lambda _, __: b"",
    "many lines": lambda data, _: data + b"\n" * 500_000,
    "many columns": lambda data, _: b",".join(b"c%d" % number for number in range(100_000)) + b"\n" + data,
}  # fmt: skip
