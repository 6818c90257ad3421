"""What becomes of a mutated file: a clear error, a refusal, or an answer, which is judged.

Each one runs in a process of its own, forked with everything imported, under a limit of memory and of time.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from fuzz.inputs import DECODE, KINDS, WORKLOAD, Input
from fuzz.mutations import Mutation

import costmodel
from costmodel.analytic.model_start import start_workload
from costmodel.cli.main import main
from costmodel.errors import CostModelError, InputError
from costmodel.schema.files import load_topology
from costmodel.schema.references import Library
from costmodel.study.checking import check_file
from costmodel.study.levers import levers_of, switches

SECONDS, BYTES = 10.0, 2 * 2**30
LONGEST = 20.0  # seconds of the processor of a command
SLOW = 60.0  # seconds by the clock for each of work: the machine may be shared, and only a wait takes so long
CLEAR, REFUSED, ACCEPTED, WARNED = "clear error", "refused", "accepted", "accepted with a warning"
TRACEBACK, HANG, MEMORY, IMPOSSIBLE, SILENT = "traceback", "hang", "memory", "impossible", "absurd in silence"
BAD = (TRACEBACK, HANG, MEMORY, IMPOSSIBLE, SILENT)
ABSURD = 1e3  # a hardware number scaled by so much, or more, is no variant of a device
PROBE = """schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  prefill: {phase: prefill, cluster: CLUSTER, FRAMEWORK input_tokens: 512, tokens_per_device: 512}
  decode: {phase: decode, cluster: CLUSTER, FRAMEWORK input_tokens: 512, batch_per_device: 8}
  train: {phase: training, cluster: CLUSTER, FRAMEWORK global_batch: 4, sequence: 512}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutation. kind: one of the above; told: the first line that was said."""

    file: str
    seed: int
    change: str
    place: str
    kind: str
    told: str
    seconds: float


def warm() -> None:
    """Read and evaluate once what every mutation needs, so that forked processes find it in memory."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.yaml"
        probe.write_text(PROBE.replace("CLUSTER", "nodes/h100-x1").replace("FRAMEWORK", ""))
        costmodel.load(probe).simulate()


def judge(mutation: Mutation, folder: Path) -> Outcome:
    """Return what becomes of a mutation in a process of its own. folder: an empty one, which is left empty."""
    started = time.monotonic()
    kind, told = limited(lambda: attempt(mutation, folder), SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(
        mutation.file, mutation.seed, mutation.kind, mutation.place, kind, told[:300], time.monotonic() - started
    )


def judge_input(mutation: Input, folder: Path) -> Outcome:
    """Return what becomes of a mutated input or flag. folder: an empty one, which is left empty."""
    started = time.monotonic()
    kind, told = limited(lambda: attempt_input(mutation, folder), LONGEST)
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(mutation.kind, mutation.seed, mutation.change, "", kind, told[:600], time.monotonic() - started)


def limited(action: Callable[[], tuple[str, str]], seconds: float) -> tuple[str, str]:
    """Return what an action does in a process of its own, under limits of memory and of the processor's time."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        os.close(read)
        _child(action, write, seconds)
    os.close(write)
    return _answer(read, process)


def _answer(read: int, process: int) -> tuple[str, str]:
    """Return what the process says, or that it hung. Its own time counts: a busy machine is no hang.

    What it started itself may hold the pipe open for longer: its end is the end of what it says.
    """
    deadline, ended, status = time.monotonic() + SECONDS * SLOW, 0, 0
    parts: list[bytes] = []
    while time.monotonic() < deadline:
        if select.select([read], [], [], 0.0 if ended else 0.2)[0]:
            data = os.read(read, 65536)
            if not data:
                break
            parts.append(data)
        elif ended:
            break
        else:
            ended, status = os.waitpid(process, os.WNOHANG)
    else:
        os.kill(process, signal.SIGKILL)
    os.close(read)
    if not ended:
        _, status = os.waitpid(process, 0)
    if parts:
        kind, told = json.loads(b"".join(parts))
        return str(kind), str(told)
    return (HANG, "") if os.WIFSIGNALED(status) else (TRACEBACK, f"ended with {status}")


def _child(action: Callable[[], tuple[str, str]], write: int, seconds: float) -> None:
    """Try an action, write what came of it, and end the process."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES + 2**30, BYTES + 2**30))  # a gigabyte of it is code and reserve
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    os.environ["COSTMODEL_TABLE"] = "csv"  # after a fork polars waits forever for threads that the parent had
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    try:
        kind, told = action()
    except MemoryError:
        kind, told = MEMORY, "MemoryError"
    except BaseException as error:  # whatever it is, it is what the suite is for
        kind, told = TRACEBACK, "".join(traceback.format_exception(error)[-3:])
    os.write(write, json.dumps([kind, told]).encode())
    os._exit(0)


def attempt(mutation: Mutation, folder: Path) -> tuple[str, str]:
    """Return the kind of outcome and what was said first."""
    path = folder / mutation.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mutation.text, encoding="utf-8", errors="surrogatepass")
    try:
        problems = check_file(str(path), [str(folder)])
        if problems:
            return _clear([str(problem) for problem in problems])
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            documents = list(_answers(mutation, path, folder))
    except InputError as error:
        return _clear([str(problem) for problem in error.problems])
    except CostModelError as error:
        return REFUSED, str(error).splitlines()[0]
    for document in documents:
        broken = next(impossible(document), None)
        if broken is not None:
            return IMPOSSIBLE, broken
    own = [warning for warning in warned if issubclass(warning.category, costmodel.errors.ImplausibleInput)]
    if own:
        return WARNED, str(own[0].message)
    hardware = mutation.file.startswith(("hardware/devices", "hardware/nodes", "hardware/clusters"))
    factor = mutation.factor
    if hardware and factor is not None and not 1 / ABSURD < abs(factor) < ABSURD and "price" not in mutation.place:
        return SILENT, f"{mutation.place} x {factor:g}"
    return ACCEPTED, ""


def attempt_input(mutation: Input, folder: Path) -> tuple[str, str]:
    """Return the kind of outcome of a command that reads a mutated input, and what was said first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.yaml").write_text(WORKLOAD)
    file = folder / (mutation.name or "none")
    file.parent.mkdir(exist_ok=True)
    if mutation.name:
        file.write_bytes(mutation.data)
    if "{folder}/good.json" in mutation.words:
        (folder / "good.json").write_bytes(good_files()["result"])
    words = [word.replace("{folder}", str(folder)).replace("{file}", str(file)) for word in mutation.words]
    output = folder / "output"
    for number, path in ((1, output), (2, folder / "errors")):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = run_command(words)
    said = (folder / "errors").read_text(errors="replace").replace(str(folder), "…").splitlines()
    if code == 2:
        return _clear(said or ["exit 2 without a word"])
    if code in (3, 4):
        return REFUSED, (said or [""])[0]
    if code:
        return TRACEBACK, "\n".join([*said[-2:], f"exit {code}"])
    text = output.read_bytes()
    document = json.loads(text) if text[:1] == b"{" and mutation.words[-1] == "--json" else {}
    for broken in impossible(document) if "scenarios" in document else ():
        return IMPOSSIBLE, broken
    warned = [line for line in said if line.startswith("warning")]
    return (WARNED, warned[0]) if warned else (ACCEPTED, "")


def run_command(words: list[str]) -> int:
    """Return the exit code of the command line with some words, in this process."""
    sys.argv = ["costmodel", *words]
    try:
        main()
    except SystemExit as end:
        code = end.code
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code if isinstance(code, int) else 0


@cache
def good_files() -> dict[str, bytes]:
    """Return files that only a run can write, by the kind of input: a result, a study, a checkpoint."""
    files = {"result": ("r.json", DECODE), "study": ("out/study.json", KINDS["study"].words),
             "checkpoint": ("state.npz", KINDS["checkpoint"].words)}  # fmt: skip
    made = {}
    for kind, (name, words) in files.items():
        with tempfile.TemporaryDirectory() as folder:
            written = Input(kind, 0, "", "", b"", tuple(word.replace("{file}", f"{{folder}}/{name}") for word in words))
            outcome, told = limited(partial(attempt_input, written, Path(folder)), LONGEST)
            assert outcome == ACCEPTED, told
            made[kind] = Path(folder, "output" if kind == "result" else name).read_bytes()
    return made


def _clear(told: list[str]) -> tuple[str, str]:
    """Return a clear error, or what is unclear about it."""
    for line in told:
        for word in ("pydantic", "Traceback", "<class", "object at 0x"):
            if word in line:
                return TRACEBACK, f"unclear: {line}"
        if re.search(r"[a-z]Error:", line):  # of Python, not click's word
            return TRACEBACK, f"unclear: {line}"
        if "\x1b" in line or "\x00" in line:
            return TRACEBACK, f"control characters: {line!r}"
        if len(line) > 4000:
            return TRACEBACK, f"{len(line)} characters: {line[:200]}"
    return CLEAR, told[0]


def _answers(mutation: Mutation, path: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the results of what a file is for: as few as it takes to run everything that it says."""
    folder_of, name = mutation.file.rpartition("/")[0], path.stem
    search = [str(folder)]
    if folder_of in ("workloads", "workloads/systems"):
        workload = costmodel.load(path, search_path=search)
        for scenario in workload.scenarios[mutation.seed % len(workload.scenarios) :][:1]:
            yield workload.simulate([scenario])
    elif folder_of == "workloads/models":
        start = start_workload(f"{name}", ["nodes/hgx-b200"], ("prefill", "decode"), search)
        yield costmodel.load(start.tree, search_path=search).simulate()
    elif folder_of == "hardware/topologies":
        load_topology(name, search)
    elif folder_of == "workloads/levers":
        switches(levers_of(str(path), search))
    elif folder_of in ("hardware/nodes", "hardware/clusters", "hardware/devices", "hardware/frameworks") or (
        folder_of.startswith("hardware/calibrations/")
    ):
        kind = folder_of.rpartition("/")[2]
        cluster = f"{kind}/{name}" if kind in ("nodes", "clusters") else "nodes/h100-x1"
        if kind == "devices":
            library = Library(search)
            links = library.read(path, "device").at(["links"])  # none where a file is cut
            link = next(iter(links.value if links is not None and isinstance(links.value, dict) else ()), "pcie")
            cluster = f"{{count: 1, node: {{device: devices/{name}, count: 1, intra: {link}}}}}"
            node = f"schema: costmodel/node@1\nname: probe\ndevice: devices/{name}\ncount: 1\nintra: {link}\n"
            (folder / "hardware/nodes").mkdir(parents=True, exist_ok=True)
            (folder / "hardware/nodes/probe.yaml").write_text(f"{node}host: {{link: {link}}}\n")
            cluster = "nodes/probe"
        framework = f"framework: {name}," if kind == "frameworks" else ""
        probe = folder / "probe.yaml"
        probe.write_text(PROBE.replace("CLUSTER", cluster).replace("FRAMEWORK", framework))
        workload = costmodel.load(probe, search_path=search)
        yield workload.simulate([("prefill", "decode", "train")[mutation.seed % 3]])


def impossible(document: dict[str, Any]) -> Iterator[str]:
    """Yield what no result can be: numbers that are none, negative times, more than the peak, broken sums."""
    json.dumps(document, allow_nan=False)
    for name, scenario in document["scenarios"].items():
        for metric, value in scenario["metrics"].items():
            if value is not None and (not math.isfinite(value) or value < 0):
                yield f"{name}: {metric} is {value}"
            ends = scenario["intervals"].get(metric)
            if (
                value is not None
                and ends is not None
                and not (ends[0] <= value * 1.0000001 and value <= ends[1] * 1.0000001)
            ):
                yield f"{name}: {metric} {value} outside {ends}"
        for metric in ("mfu", "mfu_noncausal"):
            if (scenario["metrics"].get(metric) or 0.0) > 1.001 and metric == "mfu":
                yield f"{name}: {metric} is {scenario['metrics'][metric]}"
        for line in scenario["breakdown"]:
            if not math.isfinite(line["time"]) or line["time"] < 0:
                yield f"{name}: {line['name']} takes {line['time']}"
        basis = sum(scenario["basis"].values())
        if scenario["memory"]["fits"] and scenario["breakdown"] and not math.isclose(basis, 1.0, rel_tol=1e-6):
            yield f"{name}: basis sums to {basis}"
        yield from (f"{name}: memory {key} is {value}" for key, value in scenario["memory"].items() if value < 0)


def record(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as a report holds it."""
    return asdict(outcome)
