"""Records: named, typed fields."""

from __future__ import annotations

import pickle
from typing import ClassVar

import numpy as np
import pytest

from costmodel.records import MutableRecord, Record, ValueRecord, asdict, field, fields, is_record, replace


class Link(Record):
    """A record."""

    bandwidth: float
    names: dict[str, int] = field(default_factory=dict)
    kind: ClassVar[str] = "wire"


class Wide(Link, kw_only=True):
    """A record with fields of its own behind those of its base."""

    lanes: int = 1


class Size(ValueRecord):
    """A value."""

    rows: int
    columns: int = 1


class Count(MutableRecord):
    """A record that changes."""

    seen: int = 0


def test_records_are_equal_to_themselves_only_and_values_by_their_fields() -> None:
    grid = np.arange(3.0)
    link = Link(grid)  # type: ignore[arg-type]
    assert link == link
    assert link != Link(grid)  # type: ignore[arg-type]
    assert {Size(1, 2): "known"}[Size(1, 2)] == "known"
    assert Size(1, 2) != Size(2, 1)


@pytest.mark.parametrize("one", [Link(1.0), Size(1)])
def test_records_and_values_stay_as_they_are(one: Record | ValueRecord) -> None:
    with pytest.raises(AttributeError):
        setattr(one, fields(one)[0], 2.0)
    assert replace(one) is not one


def test_mutable_records_change() -> None:
    count = Count()
    count.seen += 1
    assert count == Count(1)


def test_fields_are_those_of_the_bases_first_without_what_belongs_to_the_class() -> None:
    assert fields(Wide) == fields(Wide(1.0)) == ("bandwidth", "names", "lanes")
    assert replace(Wide(1.0, lanes=2), bandwidth=3.0).lanes == 2
    with pytest.raises(TypeError):
        replace(Size(1), depth=2)


def test_a_default_is_made_anew_for_each_record() -> None:
    assert Link(1.0).names is not Link(1.0).names


def test_a_dictionary_has_the_records_within() -> None:
    assert asdict(Wide(1.0, {"a": 1})) == {"bandwidth": 1.0, "names": {"a": 1}, "lanes": 1}

    class Node(Record):
        links: tuple[Link, ...]
        sizes: dict[str, Size]

    node = Node((Link(2.0),), {"of": Size(3)})
    expected = {"links": ({"bandwidth": 2.0, "names": {}},), "sizes": {"of": {"rows": 3, "columns": 1}}}
    assert asdict(node) == expected


def test_records_and_no_other_things_are_records() -> None:
    assert all(map(is_record, (Link(1.0), Size(1), Count())))
    assert not any(map(is_record, (Link, 1.0, {"bandwidth": 1.0})))


def test_other_processes_get_records_as_they_are() -> None:
    assert pickle.loads(pickle.dumps(Size(1, 2))) == Size(1, 2)
