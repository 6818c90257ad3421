"""Whatever a file holds, the answer is a list of problems: never an exception of ours or of a library."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from small_world import FILES, write

from costmodel.schema.files import validate

ODD = [
    None, True, "", "x", "10 GB", "./nowhere", "-", "{}", 0, -1, 1e300, float("nan"), float("inf"), [], [1], [None], {},
    {"x": 1}, {"extends": 1}, {"extends": "x/y"}, [[]], [{"name": "x"}], "nodes/box", "devices/chip",
]  # fmt: skip


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return the paths of all values in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@pytest.mark.parametrize("name", list(FILES))
def test_any_value_replaced_by_an_odd_one_is_reported_as_problems(world: Path, name: str, long: bool) -> None:
    document = yaml.load(FILES[name], Loader=yaml.CSafeLoader)
    chosen = random.Random(0)
    for place in places(document)[1:]:
        for odd in chosen.sample(ODD, 6 if long else 2):
            changed = yaml.load(FILES[name], Loader=yaml.CSafeLoader)
            *way, last = place
            inside = changed
            for part in way:
                inside = inside[part]
            inside[last] = odd
            write(world, name, yaml.safe_dump(changed))
            for problem in validate(world / "workloads/small.yaml", [world]) + validate(world / name, [world]):
                text = str(problem)
                assert "pydantic" not in text
                assert "Error" not in text
                assert problem.message


def test_any_misspelt_key_is_reported(world: Path) -> None:
    for name, text in FILES.items():
        for place in places(yaml.load(text, Loader=yaml.CSafeLoader))[1:]:
            if not isinstance(place[-1], str) or place[-1] in ("train", "decode", "fast"):
                continue
            changed = yaml.load(text, Loader=yaml.CSafeLoader)
            inside = changed
            for part in place[:-1]:
                inside = inside[part]
            inside[place[-1] + "x"] = inside.pop(place[-1])
            write(world, name, yaml.safe_dump(changed))
            assert validate(world / name, [world]), place
        write(world, name, text)
