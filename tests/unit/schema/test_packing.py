"""Records as bytes: equal in every type and shared object, and nothing but data."""

from __future__ import annotations

import contextlib
import pickle
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.errors import Location
from costmodel.records import Record, fields
from costmodel.schema.catalogue import UnpackableError, pack, unpack

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.binary(max_size=20)
)
THINGS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.text(), inner), st.frozensets(SCALARS)
    ),
)


def same(one: Any, other: Any) -> bool:
    """Tell whether two things are equal in value and type, numbers bit by bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, msgspec.Struct):
        return all(same(getattr(one, name), getattr(other, name)) for name in fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return (isinstance(one, frozenset) and len(one) == len(other)) or one == other


@given(THINGS)
def test_data_come_back(thing: Any) -> None:
    assert same(unpack(pack(thing)), thing)


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(2.5), np.zeros((0, 3)),
     np.array([True, False]), np.arange(12.0)[::2]],
)  # fmt: skip
def test_arrays_come_back(array: np.ndarray[Any, Any]) -> None:
    again = unpack(pack(array))
    assert same(again, array)
    assert again.flags.f_contiguous == array.flags.f_contiguous or not array.flags.c_contiguous
    assert again.flags.writeable
    assert type(unpack(pack(np.float64(3)))) is np.float64


def test_records_come_back_and_shared_ones_are_shared() -> None:
    place = Location("file.yaml", 3, 4)
    first, second, third = unpack(pack([place, place, Location("file.yaml", 3, 4)]))
    assert first == place
    assert first is second
    assert first is not third


def test_what_does_something_is_refused() -> None:
    class Local(Record):
        value: int

    for thing in (len, lambda: 1, object(), Location, np.array([object()])):
        with pytest.raises(UnpackableError):
            pack(thing)
    with pytest.raises(UnpackableError):  # a class that no module has
        unpack(pack(Local(1)))


@pytest.mark.parametrize(
    ("module", "name", "names"),
    [("os", "system", ["command"]), ("costmodel.errors", "InputError", []), ("costmodel.errors", "Nothing", []),
     ("costmodel.errors", "Location", ["source", "line"]), ("costmodel.nothing", "Location", [])],
)  # fmt: skip
def test_other_classes_are_refused(module: str, name: str, names: list[str]) -> None:
    """Nothing that is no record of ours is called, and none whose fields have changed is made."""
    data = msgspec.msgpack.encode(([[module, name, *names]], ["echo", 1], [[7, 0, 1][: 1 + len(names)], [0, 2]]))
    with pytest.raises(UnpackableError):
        unpack(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_data(data: bytes) -> None:
    with contextlib.suppress(UnpackableError):
        unpack(data)


def test_a_pickle_is_refused() -> None:
    with pytest.raises(UnpackableError):
        unpack(pickle.dumps({"a": 1}))
