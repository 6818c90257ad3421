"""Records are the standard library's dataclasses, but for the time that they take to make."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, fields, is_dataclass, replace
from typing import Any

import pytest

from costmodel import records


@records.dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Sizes of which two have defaults."""

    rows: int
    columns: int = 1
    names: list[str] = field(default_factory=list, repr=False)


@records.dataclass(frozen=True, slots=True, kw_only=True)
class Block(Shape):
    """More of the same, by name."""

    depth: int
    unit: str = "B"


def makers() -> list[Callable[..., Any]]:
    return [dataclasses.dataclass, records.dataclass]


def made(dataclass: Callable[..., Any], **options: bool) -> Any:
    """Return a class of two fields, made by one of both."""

    class Pair:
        """Two numbers."""

        first: float
        second: float = 2.0

    return dataclass(frozen=True, slots=True, **options)(Pair)


@pytest.mark.parametrize("options", [{}, {"eq": False}, {"kw_only": True}, {"eq": False, "weakref_slot": True}])
def test_a_record_has_the_fields_and_the_text_of_a_dataclass(options: dict[str, bool]) -> None:
    theirs, ours = (made(each, **options) for each in makers())
    assert [each.name for each in fields(ours)] == [each.name for each in fields(theirs)]
    assert ours.__slots__ == theirs.__slots__
    assert ours.__match_args__ == theirs.__match_args__
    assert repr(ours(first=1.0)) == repr(theirs(first=1.0))
    assert asdict(ours(first=1.0)) == {"first": 1.0, "second": 2.0}


@pytest.mark.parametrize("dataclass", makers())
def test_equal_values_are_equal_where_that_is_asked(dataclass: Callable[..., Any]) -> None:
    by_value, by_identity = made(dataclass), made(dataclass, eq=False)
    assert by_value(1.0) == by_value(1.0)
    assert hash(by_value(1.0)) == hash(by_value(1.0))
    assert by_value(1.0) != by_value(3.0)
    assert by_identity(1.0) != by_identity(1.0)


@pytest.mark.parametrize("dataclass", makers())
def test_nothing_is_set_or_deleted_afterwards(dataclass: Callable[..., Any]) -> None:
    pair = made(dataclass)(1.0)
    for change in (lambda: setattr(pair, "first", 2.0), lambda: delattr(pair, "first")):
        with pytest.raises(FrozenInstanceError, match="'first'"):
            change()
    assert pair.first == 1.0


def test_defaults_are_made_anew_and_inherited() -> None:
    assert Shape(2).names is not Shape(2).names
    block = Block(2, depth=3)
    assert (block.rows, block.columns, block.names, block.depth, block.unit) == (2, 1, [], 3, "B")
    assert repr(block) == "Block(rows=2, columns=1, depth=3, unit='B')"
    with pytest.raises(TypeError, match="depth"):
        Block(2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown"):
        Shape(2, unknown=1)  # type: ignore[call-arg]


def test_records_are_replaced_copied_and_pickled() -> None:
    block = Block(2, names=["one"], depth=3)
    assert is_dataclass(block)
    assert replace(block, rows=5).rows == 5
    for same in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert asdict(same) == asdict(block)


def test_a_method_of_its_own_stays() -> None:
    @records.dataclass(frozen=True, slots=True)
    class Named:
        name: str

        def __repr__(self) -> str:
            return self.name

        def __hash__(self) -> int:
            return 7

    assert repr(Named("one")) == "one"
    assert hash(Named("one")) == 7
