"""Mutations of shipped files: of their text, which break the syntax, and of their values, which change the sense.

A mutation is its file and a seed: the same pair gives the same text on every machine.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from costmodel.schema.references import package_root

ROOT = package_root()
FOLDERS = (
    "hardware/devices", "hardware/nodes", "hardware/clusters", "hardware/topologies", "hardware/frameworks",
    "hardware/fit_plans", "hardware/anchors", "hardware/calibrations/h100-sxm", "workloads", "workloads/models",
    "workloads/precisions", "workloads/levers", "workloads/systems", "workloads/what_ifs", "workloads/studies",
    "workloads/validations",
)  # fmt: skip
ODD = [
    None, True, "", "x", "yes", "010", "1_000", "-", "./nowhere", "models/none", "\uff1d1", "\u202e", 0, -1, 0.5,
    1e-300, 1e300, 2**63, 4194304, float("nan"), float("inf"), [], [[]], {}, {"x": 1}, {"extends": "x"}, "10", "10 GB",
    "1e300 GB/s", "0 s", "9" * 400,
]  # fmt: skip
CHARACTERS = "\x00\x1b[31m\t\r:{}[]#&*!|>'\"%@`,?-~ \u2028\ufeff\uff19=+"
UNITS = [
    "B",
    "GB",
    "GiB",
    "TB/s",
    "GB/s",
    "Gbit/s",
    "ms",
    "us",
    "ns",
    "s",
    "W",
    "kW",
    "MHz",
    "kHz",
    "TFLOP/s",
    "$",
    "$/h",
    "%",
    "",
]
QUANTITY = re.compile(r"([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*([A-Za-z%$/]+)")


@dataclass(frozen=True, slots=True)
class Mutation:
    """A changed file. kind: of the change; place: where; factor: of a number that was scaled, else null."""

    file: str
    seed: int
    kind: str
    place: str
    text: str
    factor: float | None = None


def files() -> list[str]:
    """Return every file that is mutated, relative to the folder of the data."""
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.yaml"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def mutate(file: str, seed: int) -> Mutation:
    """Return one mutation of a file."""
    chosen = random.Random(f"{file}:{seed}")
    text = (ROOT / file).read_text(encoding="utf-8")
    if chosen.random() < 0.3:
        kind = chosen.choice(sorted(TEXTS))
        return Mutation(file, seed, kind, "", TEXTS[kind](text, chosen))
    document = yaml.load(text, Loader=yaml.CSafeLoader)
    kind = chosen.choice(sorted(VALUES))
    place, factor = VALUES[kind](document, chosen)
    return Mutation(file, seed, kind, place, yaml.safe_dump(document, sort_keys=False, allow_unicode=True), factor)


def _cut(text: str, chosen: random.Random) -> str:
    return text[: chosen.randrange(len(text))]


def _insert(text: str, chosen: random.Random) -> str:
    at = chosen.randrange(len(text))
    return text[:at] + chosen.choice(CHARACTERS) * chosen.choice((1, 1, 3, 1000)) + text[at:]


def _delete(text: str, chosen: random.Random) -> str:
    at = chosen.randrange(len(text))
    return text[:at] + text[at + chosen.choice((1, 1, 2, 10)) :]


def _twice(text: str, chosen: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = chosen.randrange(len(lines))
    return "".join([*lines[: at + 1], *lines[at:]])


def _swap(text: str, chosen: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    one, two = chosen.randrange(len(lines)), chosen.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    return "".join(lines)


def _indent(text: str, chosen: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = chosen.randrange(len(lines))
    lines[at] = chosen.choice((" ", "  ", "\t")) + lines[at]
    return "".join(lines)


def _nest(text: str, chosen: random.Random) -> str:  # noqa: ARG001
    return text + "\nx: " + "[" * 5000


def _alias(text: str, chosen: random.Random) -> str:  # noqa: ARG001
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    return text + "\n" + "\n".join(lines) + "\n"


TEXTS: dict[str, Callable[[str, random.Random], str]] = {
    "cut": _cut, "insert": _insert, "delete": _delete, "line twice": _twice, "lines swapped": _swap, "indent": _indent,
    "nested": _nest, "aliases": _alias,
}  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key in ("sources", "cite", "note", "title", "description"):
            continue
        yield (*path, key)
        yield from _places(item, (*path, key))


def _inside(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        document = document[key]
    return document


def _any(
    document: Any, chosen: random.Random, wanted: Callable[[Any], bool] = lambda _: True
) -> tuple[Any, ...] | None:
    found = [path for path in _places(document) if wanted(_inside(document, path)[path[-1]])]
    return chosen.choice(found) if found else None


def _shown(path: tuple[Any, ...] | None) -> str:
    return ".".join(map(str, path or ()))


def _odd(document: Any, chosen: random.Random) -> tuple[str, None]:
    path = _any(document, chosen)
    if path is not None:
        _inside(document, path)[path[-1]] = chosen.choice(ODD)
    return _shown(path), None


def _scale(document: Any, chosen: random.Random) -> tuple[str, float | None]:
    def is_number(value: Any) -> bool:
        return (isinstance(value, int | float) and not isinstance(value, bool)) or (
            isinstance(value, str) and QUANTITY.fullmatch(value) is not None
        )

    path = _any(document, chosen, is_number)
    if path is None:
        return "", None
    factor = chosen.choice((1e3, 1e-3, 1e6, 1e-6, 8.0, 1 / 8, 1e9, -1.0, 0.0, 2.0**22))
    inside, key = _inside(document, path), path[-1]
    if isinstance(inside[key], str):
        number, unit = QUANTITY.fullmatch(inside[key]).groups()  # type: ignore[union-attr]
        inside[key] = f"{float(number) * factor:g} {unit}"
    else:
        inside[key] = type(inside[key])(inside[key] * factor)
    return _shown(path), factor


def _unit(document: Any, chosen: random.Random) -> tuple[str, None]:
    path = _any(document, chosen, lambda value: isinstance(value, str) and QUANTITY.fullmatch(value) is not None)
    if path is not None:
        inside = _inside(document, path)
        inside[path[-1]] = f"{QUANTITY.fullmatch(inside[path[-1]])[1]} {chosen.choice(UNITS)}"  # type: ignore[index]
    return _shown(path), None


def _rename(document: Any, chosen: random.Random) -> tuple[str, None]:
    path = _any(document, chosen)
    if path is not None and isinstance(path[-1], str):
        inside = _inside(document, path)
        inside[path[-1] + chosen.choice(("x", "_", " ", "s"))] = inside.pop(path[-1])
    return _shown(path), None


def _misspell(document: Any, chosen: random.Random) -> tuple[str, None]:
    path = _any(document, chosen, lambda value: isinstance(value, str) and len(value) > 3)
    if path is not None:
        inside = _inside(document, path)
        at = chosen.randrange(len(inside[path[-1]]))
        inside[path[-1]] = inside[path[-1]][:at] + chosen.choice("xqz") + inside[path[-1]][at + 1 :]
    return _shown(path), None


def _drop(document: Any, chosen: random.Random) -> tuple[str, None]:
    path = _any(document, chosen)
    if path is not None:
        del _inside(document, path)[path[-1]]
    return _shown(path), None


def _move(document: Any, chosen: random.Random) -> tuple[str, None]:
    one, two = _any(document, chosen), _any(document, chosen)
    if one is not None and two is not None and one[: len(two)] != two and two[: len(one)] != one:
        first, second = _inside(document, one), _inside(document, two)
        first[one[-1]], second[two[-1]] = second[two[-1]], first[one[-1]]
    return f"{_shown(one)} <-> {_shown(two)}", None


VALUES: dict[str, Callable[[Any, random.Random], tuple[str, float | None]]] = {
    "odd value": _odd, "scaled": _scale, "other unit": _unit, "key renamed": _rename, "misspelt": _misspell,
    "dropped": _drop, "exchanged": _move,
}  # fmt: skip
