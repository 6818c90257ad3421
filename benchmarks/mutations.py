"""Changes of formulas that an operator draws over all rooms: the share that tests notice, without the goldens.

`python -m benchmarks.mutations --number 200 --seed 1`: each exchanges + and -, * and /, < and <= or >= ..., minimum
and maximum, `and` and `or`, or adds one to a number, on a line that some function computes with. Tried are at most
MOST_TESTS files of tests, the likeliest of its room and of those that import its module or one that imports it, and
LAWS. `mutations.yaml` keeps the last draw, with what becomes of the survivors.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 900  # seconds of CPU time that the tests of a change may take
COPIED = ("costmodel", "tests", "hardware", "workloads", "reports", "benchmarks", "docs", "pyproject.toml")
LIBRARIES = ["numpy", "scipy.optimize", "scipy.stats", "networkx", "pydantic", "yaml", "pytest", "hypothesis"]
KILLED, SURVIVED, STOPPED = "killed", "SURVIVED", "stopped: its tests did not end in time"
MOST_TESTS = 10  # files
LAWS = "properties/test_scale.py"  # of all formulas
EXCHANGED: dict[type[ast.AST], str] = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.And: "or", ast.Or: "and",
    ast.Lt: "<= >=", ast.LtE: "< >", ast.Gt: ">= <=", ast.GtE: "> <",
}  # fmt: skip
NAMES = {"minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min", "ceil": "floor", "floor": "ceil"}
SKIPPED = ("cli", "report", "profiling", "app")  # rooms that compute nothing


@dataclass(frozen=True, slots=True)
class Change:
    """One change: bytes `begin` to `end` of a module, under `costmodel/`, become `new` in a function or a method."""

    module: str
    function: str
    line: int
    begin: int
    end: int
    new: str

    def of(self, text: bytes) -> bytes:
        """Return the changed module."""
        return text[: self.begin] + self.new.encode() + text[self.end :]


def changes(module: Path) -> Iterator[Change]:
    """Yield all changes of a module's functions, but for those of an error's words."""
    text = module.read_bytes()
    tree = ast.parse(text)
    starts = [0]
    for row in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    name = module.relative_to(ROOT / "costmodel").as_posix()
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    words = {inner for node in ast.walk(tree) if isinstance(node, ast.Raise) for inner in ast.walk(node)}
    inside = ((each, inner) for each in functions for part in each.body for inner in ast.walk(part))
    for function, node in ((each, inner) for each, inner in inside if inner not in words):
        for line, begin, end, new in _exchanges(node, text, starts):
            yield Change(name, function.name, line, begin, end, new)


def _exchanges(node: ast.AST, text: bytes, starts: list[int]) -> Iterator[tuple[int, int, int, str]]:
    """Yield (line, begin, end, new) of what may be exchanged in one node."""

    def span(part: ast.expr) -> tuple[int, int]:
        assert part.end_lineno is not None
        assert part.end_col_offset is not None
        return starts[part.lineno - 1] + part.col_offset, starts[part.end_lineno - 1] + part.end_col_offset

    if isinstance(node, ast.BinOp | ast.Compare | ast.BoolOp):
        left, operator, right = _operation(node)
        begin, end = span(left)[1], span(right)[0]
        between = text[begin:end].decode()
        sign = between.strip(" ()\n\\")
        for new in EXCHANGED.get(type(operator), "").split():
            if sign in ("+", "-", "*", "/", "<", "<=", ">", ">=", "and", "or"):
                yield left.end_lineno or left.lineno, begin, end, between.replace(sign, new)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
        yield node.lineno, *span(node.func), NAMES[node.func.id]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        yield node.lineno, *span(node), repr(node.value + 1)


def _operation(node: ast.BinOp | ast.Compare | ast.BoolOp) -> tuple[ast.expr, ast.AST, ast.expr]:
    """Return the first two operands of an operation, and the operator between them."""
    if isinstance(node, ast.BinOp):
        return node.left, node.op, node.right
    if isinstance(node, ast.Compare):
        return node.left, node.ops[0], node.comparators[0]
    return node.values[0], node.op, node.values[1]


@cache
def _imports(file: Path) -> frozenset[str]:
    """Return the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def _dotted(module: str) -> str:
    """Return the name by which a module is imported. module: its file under `costmodel/`."""
    return f"costmodel.{module.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"


@cache
def _words(file: Path) -> frozenset[str]:
    """Return the words of a file, those that names are joined of as well."""
    return frozenset(re.findall(r"[a-z]{4,}", file.read_text(encoding="utf-8").lower()))


@cache
def _tests() -> dict[Path, str]:
    """Return the files of tests that are no goldens, with their names under `tests/`."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return {file: file.relative_to(ROOT / "tests").as_posix() for file in files if "golden" not in file.parts}


@cache
def _rarity(word: str) -> float:
    """Return one over the number of files of tests with a word."""
    return 1.0 / max(sum(word in _words(file) for file in _tests()), 1)


def tests_of(module: str, function: str) -> list[str]:
    """Return the files of tests, under `tests/`, that are likeliest to notice a change of a function of a module.

    Of those in its room, and those that import the module or one that imports it: first those that have the function's
    name, then its module's, then those that share the rarest words with its lines.
    """
    dotted, package = _dotted(module), ROOT / "costmodel"
    users = {
        _dotted(file.relative_to(package).as_posix()) for file in package.rglob("*.py") if dotted in _imports(file)
    }
    text, stem = (package / module).read_text(encoding="utf-8"), dotted.rpartition(".")[2]
    own = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == function]
    words = set(re.findall(r"[a-z]{4,}", " ".join(ast.get_source_segment(text, node) or "" for node in own).lower()))
    mentions, room = re.compile(rf"\b{function}\b"), f"/{module.split('/')[0]}/"

    def key(file: Path) -> tuple[bool, bool, float, str]:
        said = mentions.search(file.read_text(encoding="utf-8"))
        likeness = sum(_rarity(word) for word in words & _words(file))
        return not said, file.stem != f"test_{stem}", -likeness * (1.0 + (dotted in _imports(file))), _tests()[file]

    chosen = (file for file in _tests() if {dotted, *users} & _imports(file) or room in _tests()[file])
    return [_tests()[file] for file in sorted(chosen, key=key)[:MOST_TESTS]]


def drawn(number: int, seed: int, only: str = "") -> list[Change]:
    """Return some changes, as many of each room, each of another line. only: begin of modules' paths."""
    rooms: dict[str, list[Change]] = {}
    for module in sorted((ROOT / "costmodel").rglob("*.py")):
        room, *_ = parts = module.relative_to(ROOT / "costmodel").parts
        if "/".join(parts).startswith(only) if only else room not in SKIPPED:
            rooms.setdefault(room if "." not in room else "", []).extend(changes(module))
    chance, chosen = random.Random(seed), []
    for which in range(number):
        room = sorted(rooms)[which % len(rooms)]
        if rooms[room]:
            chosen.append(rooms[room].pop(chance.randrange(len(rooms[room]))))
    return chosen


def copy_to(copy: Path) -> None:
    """Copy what tests need of the checkout."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)


def outcome(copy: Path, change: Change) -> str:
    """Return what becomes of a change in a copy of the checkout: KILLED where a test fails."""
    path = copy / "costmodel" / change.module
    text, stamp = path.read_bytes(), path.stat().st_mtime + 10.0  # compiled files are told apart by time
    tests = [*tests_of(change.module, change.function), LAWS]
    try:
        path.write_bytes(change.of(text))
        os.utime(path, (stamp, stamp))
        process = multiprocessing.get_context("forkserver").Process(target=_tested, args=(str(copy), tests))
        process.start()
        process.join()
    finally:
        path.write_bytes(text)
        os.utime(path, (stamp + 10.0, stamp + 10.0))
    if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
        return STOPPED
    return KILLED if process.exitcode else SURVIVED


def _tested(copy: str, tests: list[str]) -> None:
    """Exit with one where a test fails in a copy of the checkout."""
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
    os.chdir(copy)
    sys.path[:] = [copy, *(each for each in sys.path if Path(each or ".").resolve() != ROOT)]
    os.environ["PYTHONPATH"] = copy
    import pytest

    words = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--timeout=0", *(f"tests/{each}" for each in tests)]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = int(pytest.main(words))
    if code not in (0, 1, 2):
        sys.stderr.write(f"{tests}: pytest ended with {code}\n")
    os._exit(code in (1, 2))  # two where a file of tests cannot even be read


def main() -> int:
    """Print what becomes of every change, and the share that a test notices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="of those drawn, where an earlier run ended")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="no more than these")
    parser.add_argument(
        "--only", default="", help="begin of the modules' paths: planning, analytic/serving; else all rooms"
    )
    asked = parser.parse_args()
    chosen, ends = drawn(asked.number, asked.seed, asked.only)[asked.first :], time.monotonic() + 60.0 * asked.minutes
    counts: Counter[str] = Counter()
    multiprocessing.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_to(copy)
        for number, change in enumerate(chosen, asked.first):
            if time.monotonic() > ends:
                break
            became = outcome(copy, change)
            counts[became] += 1
            print(f"{number:3} {described(change)}: {became}", flush=True)
    tried = counts[KILLED] + counts[SURVIVED]
    print(f"{counts[KILLED]} of {tried} killed" + (f", {counts[STOPPED]} stopped" if counts[STOPPED] else ""))
    return int(counts[SURVIVED] > tried // 10)


def described(change: Change) -> str:
    """Return a change with its line, as it stands."""
    text = (ROOT / "costmodel" / change.module).read_bytes()
    old, line = text[change.begin : change.end].decode().strip(), text.decode().splitlines()[change.line - 1].strip()
    return f"{change.module}:{change.line}: {old} -> {change.new.strip()} in `{line}`"


if __name__ == "__main__":
    sys.exit(main())
