"""The numbers of a form, declared once with the form: schema, fit, docs and `explain` derive from the declaration.

A form is a dataclass whose fields are *parameters*, which a fit determines, *constants*, which a library's source
states, and *records* of both, one a mechanism. In files all of them stand side by side. An optional parameter, or the
record of a mechanism that a form may lack, is a *term*: the recipe of a fit adds it by its name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

_Form = TypeVar("_Form")
_DECLARED = "declared"
_DIMENSIONS = {"s": "time", "B": "size", "B/s": "bandwidth"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that a fit determines.

    unit: `s`, `B` and `B/s` are written with it in files; with any other unit the number stands bare.
    start: where a search starts.
    low, high: what it stays between. Wide on purpose: they keep a search on numbers that mean something.
    """

    unit: str
    start: float
    low: float
    high: float
    meaning: str

    @property
    def dimension(self) -> str:
        """Return the dimension that the number has in files."""
        return _DIMENSIONS.get(self.unit, "ratio")


@dataclass(frozen=True, slots=True)
class Constant:
    """What a library's source or the plan of a fit states, or the rows of the fit.

    unit: as of a `Parameter`; blank where it is no quantity. variable: of the links of a group, whose largest measured
    value it is; blank where no row says it.
    """

    meaning: str
    unit: str = ""
    variable: str = ""

    @property
    def dimension(self) -> str | None:
        """Return the dimension that the number has in files, null where it is no quantity."""
        return _DIMENSIONS.get(self.unit, "ratio") if self.unit else None


@dataclass(frozen=True, slots=True)
class _Record:
    """A field that holds a record of parameters and constants. prefix: of their names in files."""

    made: type
    prefix: str


@dataclass(frozen=True, slots=True)
class Declaration:
    """One key of a form in files.

    owner: the record that has it as a field.
    path: of attributes, from the form to it.
    default: of the field; `MISSING` where there is none.
    mechanism: name of the record that a form may lack, all of whose keys are stated together; else blank.
    """

    name: str
    kind: Parameter | Constant
    owner: type
    path: tuple[str, ...]
    default: Any
    mechanism: str

    @property
    def is_required(self) -> bool:
        """Tell whether every form has the key."""
        return self.default is MISSING and not self.mechanism

    @property
    def term(self) -> str:
        """Return the name by which a recipe adds the parameter; blank where every form has it."""
        return "" if self.is_required else self.mechanism or self.name


def fitted(unit: str, start: float, low: float, high: float, meaning: str) -> Any:
    """Return the field of a parameter."""
    return field(metadata={_DECLARED: Parameter(unit, start, low, high, meaning)})


def optional(unit: str, start: float, low: float, high: float, meaning: str) -> Any:
    """Return the field of a parameter that a form may lack: it is zero then, and without effect."""
    return field(default=0.0, metadata={_DECLARED: Parameter(unit, start, low, high, meaning)})


def constant(meaning: str, unit: str = "", default: Any = MISSING, variable: str = "") -> Any:
    """Return the field of a constant."""
    return field(default=default, metadata={_DECLARED: Constant(meaning, unit, variable)})


def record(made: type, prefix: str) -> Any:
    """Return the field of a record that every form has."""
    return field(metadata={_DECLARED: _Record(made, prefix)})


def mechanism(made: type, prefix: str = "") -> Any:
    """Return the field of a record that a form may lack: it is null then."""
    return field(default=None, metadata={_DECLARED: _Record(made, prefix)})


def like(form: type, name: str) -> Any:
    """Return a field that is declared as one of another form."""
    (same,) = (each for each in fields(form) if each.name == name)
    return field(default=same.default, metadata=same.metadata)


_declarations: dict[type, Mapping[str, Declaration]] = {}


def declarations(form: type) -> Mapping[str, Declaration]:
    """Return all keys of a form by name, in the order of its fields."""
    if form not in _declarations:
        _declarations[form] = {each.name: each for each in _declared(form, "", (), "")}
    return _declarations[form]


def _declared(form: type, prefix: str, path: tuple[str, ...], lacking: str) -> Iterator[Declaration]:
    for each in fields(form):
        if _DECLARED not in each.metadata:  # one that files do not state
            continue
        kind, here = each.metadata[_DECLARED], (*path, each.name)
        if isinstance(kind, _Record):
            within = lacking if each.default is MISSING else prefix + each.name
            yield from _declared(kind.made, prefix + kind.prefix, here, within)
        else:
            yield Declaration(prefix + each.name, kind, form, here, each.default, lacking)


def parameters(form: type, terms: Sequence[str] = ()) -> dict[str, Parameter]:
    """Return the parameters of a form that has some terms: those that every form has, then term by term."""
    by_term: dict[str, dict[str, Parameter]] = {}
    for each in declarations(form).values():
        if isinstance(each.kind, Parameter):
            by_term.setdefault(each.term, {})[each.name] = each.kind
    found: dict[str, Parameter] = {}
    for term in ("", *terms):
        found |= by_term[term]
    return found


def build(form: type[_Form], values: Mapping[str, Any]) -> _Form:
    """Return the form with the parameters and constants that a file states."""
    return _built(form, values, "")


def _built(form: type[_Form], values: Mapping[str, Any], prefix: str) -> _Form:
    given: dict[str, Any] = {}
    for each in fields(form):  # type: ignore[arg-type]
        kind, name = each.metadata.get(_DECLARED), prefix + each.name
        if not isinstance(kind, _Record):
            if name in values:
                given[each.name] = values[name]
        elif each.default is MISSING or any(prefix + key in values for key in _keys(kind)):
            given[each.name] = _built(kind.made, values, prefix + kind.prefix)
    return form(**given)


@functools.cache
def _keys(kind: _Record) -> tuple[str, ...]:
    return tuple(kind.prefix + name for name in declarations(kind.made))


def value(form: object, declaration: Declaration) -> Any:
    """Return what a form has under a key; null where it lacks the mechanism."""
    return functools.reduce(
        lambda holder, name: None if holder is None else getattr(holder, name), declaration.path, form
    )


def freeze(value: Any) -> Any:
    """Return a constant of a file as a form takes it: lists as tuples."""
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value
