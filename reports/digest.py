"""What every shipped input predicts, so that a change which should move nothing shows that it does not.

python -m reports.digest MEASUREMENTS --output before.json [--part NAME …]      some 8 CPU minutes
python -m reports.digest --compare before.json after.json [--tolerance 1e-9]    exit code 1 where something moved

Parts: `scenarios` (each workload and system, closed form and by events), `rows` (every tenth row of the tables),
`messages` (a thousand collectives and expert exchanges), `cases` (all published figures).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import costmodel
from costmodel.analytic.messages import COLLECTIVES, EXCHANGES
from costmodel.api import ENGINES
from costmodel.calibration.row_prediction import predict
from costmodel.errors import CostModelError
from costmodel.measurements.tables import read_tables
from costmodel.schema.references import package_root
from costmodel.schema.whole_files import write_whole
from costmodel.study.messages import answered, read_message
from costmodel.study.published.reproduce import load_cases, reproduce

Leaf: TypeAlias = "float | str | bool | None"
Digest: TypeAlias = "dict[str, Leaf]"

TOLERANCE = 1e-9  # relative
EVERY = 10  # rows of the tables
MESSAGES = 1000
MODEL = "deepseek-v3"  # whose experts are exchanged
FABRICS = (
    "h800-2048-mpft", "a100-superpod", "nodes/dgx-h100", "nodes/hgx-h20", "nodes/rtx-4090-x8", "nodes/gb200-nvl72",
)  # fmt: skip
RANKS = (2, 4, 8, 16, 32, 64)
LARGEST = 10  # moves of a part that are printed


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a digest or compare two; return 1 where they differ."""
    parser = argparse.ArgumentParser(prog="python -m reports.digest", description=__doc__)
    parser.add_argument("measurements", nargs="?", type=Path, help="folder of measurement tables, for the part `rows`")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="only this part; repeatable")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="digests to compare")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="relative; default %(default)s")
    chosen = parser.parse_args(arguments)
    if chosen.compare:
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in chosen.compare)
        return compare(before, after, chosen.tolerance)
    if not chosen.output:
        parser.error("write --output FILE, or --compare BEFORE AFTER")
    names = [name for name in chosen.part or PARTS if name != "rows" or chosen.measurements]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {name: dict(PARTS[name](chosen.measurements)) for name in names}
    write_whole(chosen.output, [json.dumps(parts, indent=0).encode()])
    for name, leaves in parts.items():
        sys.stdout.write(f"{name}: {len(leaves):,} values\n")
    return 0


def scenarios(_: Path) -> Iterator[tuple[str, Leaf]]:
    """Yield every leaf of the result of each workload and system, in both engines; the error where one has none."""
    folder = package_root() / "workloads"
    for file in [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("systems/*.yaml"))]:
        workload = costmodel.load(file)
        for name, engine in itertools.product(workload.scenarios, ENGINES):
            key = f"{file.stem}.{name}.{engine}"
            try:
                yield from _leaves(key, workload.points([name], engine)[name].document())
            except CostModelError as error:
                yield key, str(error)


def rows(measurements: Path) -> Iterator[tuple[str, Leaf]]:
    """Yield time, interval and basis of every tenth row of the measurement tables."""
    table = read_tables(measurements, timed=False)
    predicted = predict(table.take(np.arange(0, len(table), EVERY)))
    for number, values in enumerate(
        zip(predicted.seconds, predicted.low, predicted.high, predicted.basis, strict=True)
    ):
        for name, value in zip(("seconds", "low", "high", "basis"), values, strict=True):
            yield f"{number * EVERY}.{name}", value if isinstance(value, str) else _number(value)


def messages(_measurements: Path) -> Iterator[tuple[str, Leaf]]:
    """Yield the time of a thousand messages drawn from kinds, fabrics, ranks and sizes from 1 KiB to 1 GiB."""
    generator = np.random.default_rng(0)
    kinds = (*COLLECTIVES, *EXCHANGES)
    for _ in range(MESSAGES):
        kind, cluster = str(generator.choice(kinds)), str(generator.choice(FABRICS))
        ranks, size = int(generator.choice(RANKS)), f"{int(2 ** generator.uniform(10, 30))} B"
        key = f"{kind}.{cluster}.{ranks}.{size}"
        try:
            answer, _cluster = answered(read_message(kind, ranks, size, MODEL), cluster, "analytic", {})
        except CostModelError as error:
            yield key, str(error)
        else:
            yield from _leaves(key, answer.document())


def cases(_: Path) -> Iterator[tuple[str, Leaf]]:
    """Yield what all published cases predict, with intervals and verdicts."""
    chosen, _unread = load_cases(())
    for number, each in enumerate(reproduce(chosen)[0]):
        for name in ("predicted", "low", "high", "verdict", "reason"):
            yield f"{number}.{each.id}.{each.metric}.{name}", getattr(each, name)


PARTS: dict[str, Callable[[Path], Iterator[tuple[str, Leaf]]]] = {
    "scenarios": scenarios, "rows": rows, "messages": messages, "cases": cases,
}  # fmt: skip


def compare(before: Mapping[str, Digest], after: Mapping[str, Digest], tolerance: float) -> int:
    """Print, for each part of both, how many values moved and the largest moves; return 1 where any did."""
    moved = False
    for part in (name for name in before if name in after):
        old, new = before[part], after[part]
        moves = sorted(((_move(old.get(key), new.get(key)), key) for key in old.keys() | new.keys()), reverse=True)
        moves = [move for move in moves if move[0] > tolerance]
        sys.stdout.write(f"{part}: {len(moves):,} of {len(old.keys() | new.keys()):,} values moved\n")
        for size, key in moves[:LARGEST]:
            sys.stdout.write(f"  {100 * size:+.3g} %  {key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}\n")
        moved |= bool(moves)
    return int(moved)


def _move(before: Leaf, after: Leaf) -> float:
    """Return by what share of the larger one two values differ; infinity for texts that differ."""
    if isinstance(before, float | int) and isinstance(after, float | int):
        return abs(after - before) / max(abs(before), abs(after), sys.float_info.min)
    return 0.0 if before == after else math.inf


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Leaf]]:
    """Yield the leaves of a document by dotted key; items of a list by their `name`, or by their number."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(f"{key}.{name}", each)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            name = each.get("name", number) if isinstance(each, Mapping) else number
            yield from _leaves(f"{key}.{name}", each)
    else:
        yield key, _number(value) if isinstance(value, float | int) and not isinstance(value, bool) else value


def _number(value: float) -> float | None:
    """Return a number as JSON has it."""
    return float(value) if math.isfinite(value) else None


if __name__ == "__main__":
    raise SystemExit(main())
