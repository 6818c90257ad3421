"""Records of the request engine: rows of arrays where its loops are compiled, objects where Python runs them.

The loops read and change fields, as in `progress[request].computed += 16`. Numba takes that of a structured array. Of
one Python would make an object at every such line, which takes several times as long as the arithmetic: so it gets
objects that are made once, and their fields go back into the array at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

Records: TypeAlias = npt.NDArray[np.void]  # an array of rows
Short: TypeAlias = int  # of 32 bits
KINDS = {"float": np.float64, "int": np.int64, "Short": np.int32}  # by what a field is annotated with


class Row:
    """A record, whose fields are annotated with `float`, `int` or `Short`."""

    dtype: ClassVar[np.dtype[Any]]
    of_dtype: ClassVar[dict[np.dtype[Any], type[Row]]] = {}

    def __init_subclass__(cls) -> None:
        fields = [(name, KINDS[kind]) for name, kind in cls.__annotations__.items()]
        cls.dtype = np.dtype(fields, align=True)
        cls.of_dtype[cls.dtype] = cls

    def __init__(self, *values: Any) -> None:
        for name, value in zip(self.__annotations__, values, strict=True):
            setattr(self, name, value)

    @classmethod
    def zeros(cls, *shape: int) -> Records:
        """Return an array of records whose fields are 0."""
        return np.zeros(shape, cls.dtype)


Of = TypeVar("Of", covariant=True)


class Rows(Protocol[Of]):
    """An array of records, or what stands for it in Python."""

    @overload
    def __getitem__(self, index: int, /) -> Of: ...

    @overload
    def __getitem__(self, index: str, /) -> Any: ...

    def __getitem__(self, index: int | str, /) -> Any:
        """Return a record, whose fields can be changed, or a field of all."""

    def __len__(self) -> int:
        """Return the number of records."""


class Objects(dict[int, Row]):
    """Rows of an array as objects, each made when it is first asked for."""

    def __init__(self, array: Records) -> None:
        super().__init__()
        self._kind, self._array = Row.of_dtype[array.dtype], array

    def __missing__(self, index: int | str) -> Any:
        if isinstance(index, str):
            return [getattr(self[each], index) for each in range(len(self))]
        row = self[index] = self._kind(*self._array[index].item())
        return row

    def __len__(self) -> int:
        return len(self._array)

    def write_back(self) -> None:
        """Put the fields of the objects into the array."""
        for index, row in self.items():
            self._array[index] = tuple(vars(row).values())


Group = TypeVar("Group")


@contextmanager
def as_objects(group: Group) -> Iterator[Group]:
    """Give a named tuple of arrays as lists and objects, and put what has changed back at the end."""
    objects = _converted(group)
    yield objects
    _write_back(group, objects)


def _converted(value: Any) -> Any:
    if isinstance(value, tuple):
        parts = [_converted(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if not isinstance(value, np.ndarray) or value.ndim > 2:
        return value
    if value.dtype.names is None:
        return value.tolist()
    return Objects(value) if value.ndim == 1 else [Objects(each) for each in value]


def _write_back(value: Any, objects: Any) -> None:
    if isinstance(value, tuple):
        for each, own in zip(value, objects, strict=True):
            _write_back(each, own)
    elif isinstance(objects, Objects):
        objects.write_back()
    elif isinstance(objects, list) and objects and isinstance(objects[0], Objects):
        for each in objects:
            each.write_back()
    elif isinstance(objects, list) and value.flags.writeable:
        value[...] = objects
