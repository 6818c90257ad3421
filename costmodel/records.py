"""Frozen dataclasses with slots as `dataclasses` makes them, for a quarter of the time at each start.

Before Python 3.13 the standard library compiles five functions of each such class whenever it is imported, a fifth of a
cold `simulate`. Here only the constructor is compiled; the others are shared. Everything else is a dataclass:
`fields`, `replace`, `asdict`, pickles, FrozenInstanceError. What no module here needs (`__post_init__`, InitVar,
fields without a parameter) is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # to a reader of types they are the same
else:

    def dataclass(*, slots: bool = False, frozen: bool = False, eq: bool = True, **options: bool) -> Callable:
        """Return the decorator `dataclasses.dataclass` of the same options; other kinds are the standard library's."""
        if not (slots and frozen):
            return dataclasses.dataclass(slots=slots, frozen=frozen, eq=eq, **options)

        def wrap(cls: type) -> type:
            shared = {name: each for name, each in _SHARED.items() if name not in vars(cls)}
            hashed = eq and "__hash__" not in vars(cls)
            made = dataclasses.dataclass(init=False, repr=False, slots=True, eq=eq, unsafe_hash=hashed, **options)(cls)
            for name, function in shared.items():
                setattr(made, name, function)
            made.__init__ = _constructor(made)
            return made

        return wrap


def _constructor(cls: Any) -> Callable[..., None]:
    """Return the constructor of a class with slots: it writes each slot, which is faster than setting an attribute."""
    names: dict[str, Any] = {"MISSING": MISSING}
    lines = []
    for each in fields(cls):
        names[f"set_{each.name}"] = getattr(cls, each.name).__set__
        value = each.name
        if each.default_factory is not MISSING:
            names[f"make_{each.name}"] = each.default_factory
            value = f"make_{each.name}() if {each.name} is MISSING else {each.name}"
        lines.append(f" set_{each.name}(self, {value})")
    in_order = [_parameter(each, names) for each in fields(cls) if not each.kw_only]
    by_name = [_parameter(each, names) for each in fields(cls) if each.kw_only]
    parameters = ", ".join(["self", *in_order, *(["*", *by_name] if by_name else [])])
    exec("\n".join([f"def __init__({parameters}):", *(lines or [" pass"])]), names)
    constructor: Callable[..., None] = names["__init__"]
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    return constructor


def _parameter(field: Field[Any], names: dict[str, Any]) -> str:
    """Return a parameter of a constructor; its default goes to the names that the constructor sees."""
    if field.default_factory is not MISSING:
        return f"{field.name}=MISSING"
    if field.default is MISSING:
        return field.name
    names[f"default_{field.name}"] = field.default
    return f"{field.name}=default_{field.name}"


def _shown(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse(_: Any, name: str, *_value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for each, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


_SHARED = {
    "__repr__": _shown, "__setattr__": _refuse, "__delattr__": _refuse,
    "__getstate__": _state, "__setstate__": _restore,
}  # fmt: skip
