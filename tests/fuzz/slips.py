"""Slips of units: each quantity of each kind of file in the units that it is mistaken for, and what a user is told.

A slip is refused, warned of, without effect (no number of the answer moves by more than MOVED), or silent though one
does. Of files that ship, each quantity is taken from one of those that state it, drawn by a seed; files' own
exceptions (`plausible`) are left out.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, reduce
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from fuzz.inputs import GEMM, KINDS, WORKLOAD
from fuzz.mutations import QUANTITY, ROOT

from costmodel.cli.main import main

MOVED = 0.01
REFUSED, WARNED, UNMOVED, SILENT, NO_ANSWER = "refused", "warned", "unmoved", "silent", "no answer before"
LENGTHS_OF = {
    "64": "1155",
    "32": "1155",
    "16": "211",
    "8": "211",
}  # of probes -> means of Azure's conversations of 2023
THINK = 7  # seconds of thought between turns for one of a probe: the mean of TPC-W
USUAL = {  # of probes in JSON: their lengths, blocks and moments -> such as are
    "input_length": 1024, "output_length": 211, "in": 1152, "out": 211, "output_tokens": 211, "prompt_tokens": 1155,
    "completion_tokens": 211, "block_size": 576, "trace_block_size": 576, "start_times": [1.0, 9.0], "delay": 5000,
    "input_lens": [1155, 1155], "output_lens": [211, 211],
}  # fmt: skip
UNITS: Mapping[str, tuple[str, ...]] = {
    "GB/s": ("Gbit/s", "TB/s", "MB/s"), "TB/s": ("GB/s", "Tbit/s"), "Gbit/s": ("GB/s", "Mbit/s"),
    "ns": ("us",), "us": ("ms", "ns"), "ms": ("s", "us"), "s": ("ms", "us"), "d": ("h",), "h": ("s",), "min": ("s",),
    "KiB": ("B", "MiB"), "MiB": ("KiB", "GiB"), "GiB": ("MiB", "TiB"), "TiB": ("GiB",), "kB": ("MB", "B"),
    "MB": ("kB", "GB"), "GB": ("MB", "TB"), "TB": ("GB",), "B": ("kB",), "MHz": ("kHz", "GHz"), "GHz": ("MHz",),
    "TFLOP/s": ("GFLOP/s", "PFLOP/s"), "PFLOP/s": ("TFLOP/s",), "GFLOP/s": ("TFLOP/s",), "W": ("kW", "mW"),
    "kW": ("W",), "/s": ("/min", "/h"), "/min": ("/s",), "/h": ("/s",),
}  # fmt: skip
FACTORS = {"$/h": (100.0, 0.01), "$": (100.0, 0.01), "$/kWh": (100.0, 0.01), "years": (12.0, 365.0), "%": (100.0, 0.01)}
THOUSANDS = (1e3, 1e-3)
WORDS_OF = ("sources", "cite", "note", "title", "aliases", "fit", "schema")
PROBE = """schema: costmodel/workload@1
model: models/mpt-350m
scenarios:
  decode: {{phase: decode, cluster: {cluster}, {more}input_tokens: 512, batch_per_device: 8}}
  serving: {{phase: serving, cluster: {cluster}, {more}input_tokens: 512, output_tokens: 64, rate: 1 /s}}
  train: {{phase: training, cluster: {cluster}, {more}global_batch: {devices}, sequence: 512,
          parallel: {{dp: {devices}}}}}
"""
NODE = """schema: costmodel/node@1
name: slipped
device: ./device.yaml
count: 2
intra: {link}
"""
PRICES = {
    "rent": {"h100-sxm": "2.5 $/h"}, "purchase": {"h100-sxm": "27000 $"}, "host": {"h100-x1": "32000 $"},
    "api": {"input": "0.5 $", "cached": "0.05 $", "output": "1.5 $"}, "electricity": "0.12 $/kWh",
    "amortisation": "4 years",
}  # fmt: skip
ANCHORS = {"tpot": "18 ms", "ttft": "60 ms", "latency": "400 ms", "tokens_per_second": 256,
           "requests_per_second": 4, "tokens_per_second_per_user": 55}  # fmt: skip
TRACES = ("trace", "azure", "burstgpt", "mooncake", "agentic", "dynamo", "weka", "openai", "bench", "pairs")
BENCHMARKS = ("vllm", "genai-perf", "metrics")

Path_ = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A slip. kind: of file; place: path there; files: name -> text in a folder; before: the same without the slip."""

    kind: str
    place: str
    slip: str
    files: Mapping[str, str]
    before: Mapping[str, str]
    words: tuple[str, ...]


def quantities(document: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Yield the path and the value of every quantity, and of every count of tokens."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        if key in WORDS_OF:
            continue
        own = (*path, key)
        if isinstance(value, dict | list):
            yield from quantities(value, own)
        elif (isinstance(value, str) and unit_of(value)) or (is_tokens(own) and type(value) in (int, float) and value):
            yield own, value


def unit_of(text: str) -> str:
    """Return the unit of a quantity, empty where it is none that is mistaken for another."""
    number, _, unit = text.partition(" ")
    return unit if QUANTITY.fullmatch(f"{number} x") and (unit in UNITS or unit in FACTORS) else ""


def is_tokens(path: Path_) -> bool:
    """Tell whether a value of a file counts tokens."""
    return any(
        str(key).endswith(("tokens", "sequence", "input", "output", "token_budget", "mean")) for key in path[-2:]
    )


def slipped(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (what is written, the value) of each slip of a quantity."""
    if isinstance(value, str):
        number, unit = value.split(" ", 1)
        for other in UNITS.get(unit, ()):
            yield f"{unit} as {other}", f"{number} {other}"
        for factor in FACTORS.get(unit, ()):
            yield f"{unit} x {factor:g}", f"{float(number) * factor:.12g} {unit}"
    else:
        for factor in THOUSANDS:
            changed = type(value)(value * factor)
            if changed:
                yield f"x {factor:g}", changed


def changed(document: Any, path: Path_, value: Any) -> Any:
    """Return a copy of a document with another value at a path."""
    own = copy.deepcopy(document)
    inside = own
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return own


def shipped(folder: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the document of every shipped file of a folder."""
    files = sorted((ROOT / folder).glob("*.yaml"))
    return [(file.stem, yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)) for file in files]


def drawn(folder: str, seed: int) -> Iterator[tuple[dict[str, Any], Path_, Any]]:
    """Yield (document, path, value) of one file, drawn, for each quantity that files of a folder state."""
    by_place: dict[str, list[tuple[dict[str, Any], Path_, Any]]] = {}
    for _, document in shipped(folder):
        for path, value in quantities(document):
            if any(_dotted(path).startswith(meant) for meant in document.get("plausible", ())):
                continue
            general = (path[0], "*", *path[2:]) if path[0] == "scenarios" else path
            place = ".".join("*" if isinstance(key, int) else str(key) for key in general)
            by_place.setdefault(place, []).append((document, path, value))
    chance = random.Random(seed)
    yield from (chance.choice(by_place[place]) for place in sorted(by_place))


def cases(kind: str, seed: int) -> Iterator[Case]:
    """Yield every slip of a kind of files."""
    yield from {"device": _hardware, "node": _hardware, "cluster": _hardware, "framework": _hardware,
                "scenario": _scenarios, "prices": _prices, "anchors": _anchors, "traces": _traces,
                "measured rows": _rows}[kind](kind, seed)  # fmt: skip


KINDS_OF_FILES = (
    "device", "node", "cluster", "framework", "scenario", "prices", "anchors", "traces", "measured rows",
)  # fmt: skip


def _hardware(kind: str, seed: int) -> Iterator[Case]:
    for document, path, value in drawn(f"hardware/{kind}s", seed):
        for slip, other in slipped(value):
            before, files = (_folder(kind, each) for each in (document, changed(document, path, other)))
            yield Case(kind, f"{document['name']}: {_dotted(path)} = {value}", slip, files, before,
                       ("simulate", "probe.yaml", "--json"))  # fmt: skip


def _folder(kind: str, document: dict[str, Any]) -> dict[str, str]:
    """Return the files by which a device, node, cluster or framework is asked about."""
    text = yaml.safe_dump(document, sort_keys=False)
    files, cluster, framework, devices = {f"{kind}.yaml": text}, f"./{kind}.yaml", "", 1
    if kind == "device":
        links = document.get("links", {})
        link = next((name for name in ("nvlink", "xgmi", "ici") if name in links), next(iter(links), "pcie"))
        files["node.yaml"], cluster, devices = NODE.format(link=link), "./node.yaml", 2
    elif kind == "framework":
        cluster, framework = "nodes/h100-x1", "framework: ./framework.yaml, "
    else:
        devices = _count(kind, document)
    precision = "precision: {compute: fp16, fallback: fp16}, " if kind == "device" and _is_old(document) else ""
    probe = PROBE.format(cluster=cluster, devices=devices, more=framework + precision)
    return files | {"probe.yaml": probe}


def _is_old(document: dict[str, Any]) -> bool:
    """Tell whether a device has no BF16."""
    return "bf16" not in document.get("math", {"bf16": {}})


def _count(kind: str, document: dict[str, Any]) -> int:
    """Return the number of devices of a node or a cluster."""
    parent = {} if "extends" not in document else _shipped_document(document["extends"])
    own = parent | document
    count = int(own.get("count", 1))
    return count if kind == "node" else count * _count("node", _shipped_document(own["node"]))


@cache
def _shipped_document(name: str) -> dict[str, Any]:
    return dict(yaml.load((ROOT / "hardware" / f"{name}.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader))


def _scenarios(kind: str, seed: int) -> Iterator[Case]:
    for document, path, value in drawn("workloads", seed):
        if path[0] != "scenarios":
            continue
        for slip, other in slipped(value):
            before, files = (
                {"w.yaml": yaml.safe_dump(each, sort_keys=False)} for each in (document, changed(document, path, other))
            )
            yield Case(kind, f"{_dotted(path)} = {value}", slip, files, before,
                       ("simulate", "w.yaml", "--scenario", path[1], "--json"))  # fmt: skip


def _prices(kind: str, _: int) -> Iterator[Case]:
    words = ("plan", "llama-3-8b", "--cluster", "nodes/h100-x1", "--rate", "2/s", "--isl", "200", "--osl", "20",
             "--prices", "p.yaml", "--json")  # fmt: skip
    for path, value in quantities(PRICES):
        for slip, other in slipped(value):
            files = {"p.yaml": yaml.safe_dump(changed(PRICES, path, other))}
            yield Case(kind, f"{_dotted(path)} = {value}", slip, files, {"p.yaml": yaml.safe_dump(PRICES)}, words)


def _anchors(kind: str, _: int) -> Iterator[Case]:
    words = ("simulate", "workload.yaml", "--scenario", "s", "--json")
    good, own = yaml.safe_load(WORKLOAD), ("scenarios", "s", "anchor")
    closed = changed(changed(good, (*own[:2], "rate"), None), (*own[:2], "concurrency"), 8)
    closed = changed(closed, (*own[:2], "requests"), {"arrivals": "closed_loop", "count": 20})
    for metric, value in ANCHORS.items():
        document = closed if metric == "tokens_per_second" else good  # an open loop's do not follow the engine
        for slip, other in slipped(value):
            before, files = (
                {"workload.yaml": json.dumps(changed(document, own, {"metric": metric, "value": each}))}
                for each in (value, other)
            )
            yield Case(kind, f"{metric} = {value}", slip, files, before, words)
    for name in BENCHMARKS:
        for place, text in _scaled(KINDS[name].text, ("ttft", "tpot", "avg", "_sum", "rate", "tokens", "throughput")):
            yield Case(kind, f"{name}: {place}", text[0], {"workload.yaml": WORKLOAD, KINDS[name].name: text[1]},
                       {"workload.yaml": WORKLOAD, KINDS[name].name: KINDS[name].text},
                       _words(KINDS[name].words, KINDS[name].name))  # fmt: skip


def _traces(kind: str, _: int) -> Iterator[Case]:
    for name in TRACES:
        own = KINDS[name]
        usual = _usual(own.text)
        for place, text in _scaled(usual, ()):
            yield Case(kind, f"{name}: {place}", text[0], {"workload.yaml": WORKLOAD, own.name: text[1]},
                       {"workload.yaml": WORKLOAD, own.name: usual}, _words(own.words, own.name))  # fmt: skip


def _usual(text: str) -> str:
    """Return a probe of a trace with lengths as they are published."""
    if text.lstrip()[:1] != "{":
        return re.sub(r"(?<=,)(64|32|16|8)(?=[,\n])", lambda found: LENGTHS_OF[found[0]], text)

    def set_usual(part: dict[str, Any]) -> dict[str, Any]:
        own = {key: USUAL.get(key, value) for key, value in part.items()}
        return own | {key: THINK * own[key] for key in ("t", "timestamp", "event_time_unix_ms") if key in own}

    return "\n".join(json.dumps(json.loads(line, object_hook=set_usual)) for line in text.splitlines())


def _rows(kind: str, _: int) -> Iterator[Case]:
    words = ("calibrate", "m.csv", "--device", "rtx-4090", "--output", "f.yaml")
    for place, (slip, text) in _scaled(GEMM, ("time_us",)):
        yield Case(kind, place, slip, {"m.csv": text}, {"m.csv": GEMM}, words)
    for place, (slip, text) in _scaled(KINDS["kineto"].text, ("dur",)):
        yield Case(kind, f"kineto: {place}", slip, {"k.json": text}, {"k.json": KINDS["kineto"].text},
                   ("predict", "k.json", "--output", "f.csv"))  # fmt: skip


def _words(words: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(word.replace("{folder}/", "").replace("{file}", name) for word in words)


def _scaled(text: str, only: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (column or key, (slip, text)) with the numbers of one of them times and by a thousand."""
    if text.lstrip()[:1] == "{":
        is_lines = "\n" in text.strip()
        documents = [json.loads(line) for line in text.splitlines()] if is_lines else [json.loads(text)]
        keys = dict.fromkeys(key for document in documents for key in _keys(document))
        named: dict[str, list[str]] = {}  # a column of a trace has one name wherever it stands
        for key in keys:
            named.setdefault(key if only else key.rpartition(".")[2], []).append(key)
        for name, paths in named.items():
            if not only or any(part in name for part in only):
                for factor in THOUSANDS:
                    scaled = [reduce(lambda each, path: _times(each, path, factor), paths, one) for one in documents]
                    yield name, (f"x {factor:g}", "\n".join(map(json.dumps, scaled)))
        return
    head, *rows = text.splitlines()
    if "," not in head:
        lines = [line.rpartition(" ") for line in (head, *rows)]
        for factor in THOUSANDS:
            own = [f"{a} {float(c) * factor if '_sum' in a else c}" for a, _, c in lines]
            yield "sums", (f"x {factor:g}", "\n".join(own) + "\n")
        return
    for column, name in enumerate(head.split(",")):
        if (only and name not in only) or name in ("priority", "block_ids", "Model"):
            continue
        for factor in THOUSANDS:
            cells = [row.split(",") for row in rows]
            with_slip = [[*row[:column], _cell(row[column], factor), *row[column + 1 :]] for row in cells]
            if all(row[column] for row in with_slip):
                yield name, (f"x {factor:g}", "\n".join([head, *map(",".join, with_slip)]) + "\n")


def _cell(text: str, factor: float) -> str:
    try:
        value = float(text) * factor
    except ValueError:
        return ""
    return f"{value:.12g}"


def _keys(document: Any) -> Iterator[str]:
    for key, value in document.items() if isinstance(document, dict) else ():
        if isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in _keys(value))
        elif isinstance(value, list):
            yield from dict.fromkeys(f"{key}.{inner}" for each in value for inner in _keys(each))
            if value and type(value[0]) in (int, float) and "hash" not in key:
                yield key
        elif type(value) in (int, float) and value and key not in ("id", "priority", "block_size", "trace_block_size"):
            yield key


def _times(document: Any, key: str, factor: float) -> Any:
    if isinstance(document, list):
        return [_times(each, key, factor) for each in document]
    if not isinstance(document, dict):
        return document
    first, _, rest = key.partition(".")
    scaled = dict(document)
    for name, value in document.items():
        if name == first and not rest and type(value) in (int, float):
            scaled[name] = type(value)(value * factor) or value
        elif name == first and not rest and isinstance(value, list):
            scaled[name] = [type(each)(each * factor) or each for each in value]
        elif name == first and rest:
            scaled[name] = _times(value, rest, factor)
    return scaled


def _dotted(path: Path_) -> str:
    return ".".join(map(str, path))


def judge_slip(case: Case, folder: Path) -> tuple[str, str]:
    """Return what becomes of a slip, and what is said or which number moved."""
    folder.mkdir(parents=True, exist_ok=True)
    before, told, code_before = _run(tuple(case.before.items()), case.words, folder)
    if code_before not in (0, 3):
        return NO_ANSWER, told[-300:]
    after, said, code = _run(tuple(case.files.items()), case.words, folder)
    if code not in (0, code_before):  # a layout that no longer fits is said, too
        return REFUSED, said.strip().splitlines()[-1] if said.strip() else ""
    warned = [line for line in said.splitlines() if line.startswith("warning")]
    new = [line for line in warned if line not in told.splitlines()]
    if new:
        return WARNED, new[0]
    moves = {
        name: abs(after.get(name, 0.0) / value - 1.0) if value else float(after.get(name, 0.0) != 0.0)
        for name, value in before.items()
    }
    worst = max(moves, key=lambda name: moves[name], default="")
    if not moves or moves[worst] <= MOVED:
        return UNMOVED, ""
    return SILENT, f"{worst} {before[worst]:.4g} -> {after.get(worst, 0.0):.4g}"


@cache
def _run(files: tuple[tuple[str, str], ...], words: tuple[str, ...], folder: Path) -> tuple[dict[str, float], str, int]:
    """Return the numbers that a command answers with, what it says besides, and its exit code."""
    for name, text in files:
        (folder / name).write_text(text, encoding="utf-8")
    output, errors, at = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(folder)
    arguments, sys.argv = sys.argv, ["costmodel", *words]
    try:
        with redirect_stdout(output), redirect_stderr(errors), warnings.catch_warnings():  # each run warns anew
            main()
        code: Any = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = arguments
        os.chdir(at)
    return dict(_numbers_of(output.getvalue(), folder, words)), errors.getvalue(), int(code)


def _numbers_of(text: str, folder: Path, words: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Yield the name and the value of each number of an answer: metrics and memory, the best plan, a fit."""
    if words[0] in ("calibrate", "predict"):
        path = folder / words[-1]
        fit = path.read_text(encoding="utf-8") if path.exists() else ""
        yield "file", float(int.from_bytes(sha256(fit.encode()).digest()[:4]))
        return
    document = json.loads(text) if text[:1] == "{" else {}
    for name, scenario in document.get("scenarios", {}).items():
        for metric, value in scenario["metrics"].items():
            if isinstance(value, int | float):
                yield f"{name}.{metric}", float(value)
        yield f"{name}.memory", float(scenario["memory"].get("total", 0.0) or 0.0)
    for plan in document.get("plans", [])[:1]:
        for metric in ("cost_rate", "energy_per_million"):
            yield metric, float(plan[metric] or 0.0)
        for metric, value in (plan["cost_per_million"] or {}).items():
            yield f"cost {metric}", float(value or 0.0)
