"""Changes of formulas, each of which a test has to notice: the share that is noticed without the goldens.

python -m benchmarks.mutations                  all; python -m benchmarks.mutations 3 17    some, by their numbers
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 300  # seconds of CPU time that the tests of a mutation may take
COPIED = ("costmodel", "tests", "hardware", "workloads", "reports", "benchmarks", "docs", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of a formula. module: under `costmodel/`; tests: the files that should notice, under `tests/`."""

    module: str
    old: str
    new: str
    tests: str


def mutations() -> list[Mutation]:
    """Return the changes of the list beside this program."""
    rows = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return [Mutation(row["module"], row["old"], row["new"], " ".join(row["tests"])) for row in rows]


def mutated(text: str, mutation: Mutation) -> str:
    """Return a module with a changed formula, whose docstring may state it as well.

    Raises ValueError where the code does not have the formula exactly once.
    """
    parts = re.split(r'(""".*?""")', text, flags=re.DOTALL)
    count = sum(part.count(mutation.old) for part in parts[::2])
    if count != 1:
        raise ValueError(f"the code of {mutation.module} has {count} of {mutation.old!r}, not one")
    parts[::2] = [part.replace(mutation.old, mutation.new) for part in parts[::2]]
    return "".join(parts)


def main(numbers: Sequence[str]) -> int:
    """Print which mutations no test notices, and the share that one does."""
    listed = mutations()
    chosen = [int(each) for each in numbers] or list(range(len(listed)))
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_to(copy)
        for number in chosen:
            began, mutation = time.perf_counter(), listed[number]
            text = (copy / "costmodel" / mutation.module).read_text(encoding="utf-8")
            killed = is_killed(copy, mutation.module, mutated(text, mutation), mutation.tests)
            if not killed:
                missed.append(number)
            told = "killed" if killed else "SURVIVED"
            print(f"{number:2} {mutation.module}: {told} in {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} killed; survived: {missed}")
    return int(bool(missed))


def copy_to(copy: Path) -> None:
    """Copy what tests need of the checkout."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)


def is_killed(copy: Path, module: str, changed: str, tests: str) -> bool:
    """Tell whether a test fails in a copy of the checkout with a changed module, under `costmodel/`."""
    path = copy / "costmodel" / module
    text = path.read_text(encoding="utf-8")
    stamp = path.stat().st_mtime + 10.0  # compiled files are told apart by time
    try:
        path.write_text(changed, encoding="utf-8")
        os.utime(path, (stamp, stamp))
        process = multiprocessing.get_context("spawn").Process(target=_tested, args=(str(copy), tests))
        process.start()
        process.join()
        return process.exitcode != 0
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, (stamp + 10.0, stamp + 10.0))


def _tested(copy: str, tests: str) -> None:
    """Exit with one where a test fails in a copy of the checkout; a test that does not end is stopped, and noticed."""
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
    os.chdir(copy)
    sys.path[:] = [copy, *(each for each in sys.path if Path(each or ".").resolve() != ROOT)]
    os.environ["PYTHONPATH"] = copy
    import pytest

    arguments = [
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--timeout=0",
        *(f"tests/{each}" for each in tests.split()),
    ]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = int(pytest.main(arguments))
    if code not in (0, 1):
        sys.stderr.write(f"{tests}: pytest ended with {code}\n")
    sys.exit(code == 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
