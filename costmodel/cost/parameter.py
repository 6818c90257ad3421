"""The numbers of a form, declared once with the form: schema, fit, docs and `explain` derive from the declaration.

A form is a record whose fields are *parameters*, which a fit determines, *constants*, which a library's source
states, and *records* of both, one a mechanism. In files all of them stand side by side. An optional parameter, or the
record of a mechanism that a form may lack, is a *term*: the recipe of a fit adds it by its name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, dataclass_transform

from msgspec import UNSET

from costmodel.records import Immutable, Record, ValueRecord, fields

_Form = TypeVar("_Form")
_DIMENSIONS = {"s": "time", "B": "size", "B/s": "bandwidth"}


class Parameter(ValueRecord):
    """A number that a fit determines.

    unit: `s`, `B` and `B/s` are written with it in files. With any other unit the number stands bare.
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


class Constant(ValueRecord):
    """What a library's source or the plan of a fit states, or the rows of the fit.

    unit: as of a `Parameter`. Blank where it is no quantity. variable: of the links of a group, whose largest measured
    value it is. Blank where no row says it.
    """

    meaning: str
    unit: str = ""
    variable: str = ""

    @property
    def dimension(self) -> str | None:
        """Return the dimension that the number has in files, null where it is no quantity."""
        return _DIMENSIONS.get(self.unit, "ratio") if self.unit else None


class _Record(ValueRecord):
    """A field that holds a record of parameters and constants. prefix: of their names in files."""

    made: type[Any]
    prefix: str


class Declaration(ValueRecord):
    """One key of a form in files.

    owner: the record that has it as a field.
    path: of attributes, from the form to it.
    default: of the field. `UNSET` where there is none.
    mechanism: name of the record that a form may lack, all of whose keys are stated together. Else blank.
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
        return self.default is UNSET and not self.mechanism

    @property
    def term(self) -> str:
        """Return the name by which a recipe adds the parameter. Blank where every form has it."""
        return "" if self.is_required else self.mechanism or self.name


class _Field(ValueRecord):
    """What a class states of one of its fields. default: `UNSET` where there is none."""

    kind: Parameter | Constant | _Record
    default: Any = UNSET


@dataclass_transform(frozen_default=True, eq_default=False)
class _DeclaringClass(Immutable):
    """The class of records with declared fields: it keeps the declarations and leaves the defaults."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> _DeclaringClass:
        """Return the class. `declared` has what is stated of its fields by name, those of its bases included."""
        own = {key: value for key, value in namespace.items() if isinstance(value, _Field)}
        declared = {key: value for base in reversed(bases) for key, value in getattr(base, "declared", {}).items()}
        rest = {key: value for key, value in namespace.items() if key not in own}
        rest |= {key: value.default for key, value in own.items() if value.default is not UNSET}
        return super().__new__(cls, name, bases, rest | {"declared": declared | own}, **options)


class DeclaredRecord(Record, metaclass=_DeclaringClass):
    """A record whose fields are declared with unit, bounds and meaning."""


def fitted(unit: str, start: float, low: float, high: float, meaning: str) -> Any:
    """Return the field of a parameter."""
    return _Field(Parameter(unit, start, low, high, meaning))


def optional(unit: str, start: float, low: float, high: float, meaning: str) -> Any:
    """Return the field of a parameter that a form may lack: it is zero then, and without effect."""
    return _Field(Parameter(unit, start, low, high, meaning), 0.0)


def constant(meaning: str, unit: str = "", default: Any = UNSET, variable: str = "") -> Any:
    """Return the field of a constant."""
    return _Field(Constant(meaning, unit, variable), default)


def record(made: type[Any], prefix: str) -> Any:
    """Return the field of a record that every form has."""
    return _Field(_Record(made, prefix))


def mechanism(made: type[Any], prefix: str = "") -> Any:
    """Return the field of a record that a form may lack: it is null then."""
    return _Field(_Record(made, prefix), None)


def like(form: type[Any], name: str) -> Any:
    """Return a field that is declared as one of another form."""
    return form.declared[name]


_declarations: dict[type, Mapping[str, Declaration]] = {}


def declarations(form: type[Any]) -> Mapping[str, Declaration]:
    """Return all keys of a form by name, in the order of its fields."""
    if form not in _declarations:
        _declarations[form] = {each.name: each for each in _declared(form, "", (), "")}
    return _declarations[form]


def _declared(form: type[Any], prefix: str, path: tuple[str, ...], lacking: str) -> Iterator[Declaration]:
    for name in fields(form):
        if name not in form.declared:  # one that files do not state
            continue
        each, here = form.declared[name], (*path, name)
        if isinstance(each.kind, _Record):
            within = lacking if each.default is UNSET else prefix + name
            yield from _declared(each.kind.made, prefix + each.kind.prefix, here, within)
        else:
            yield Declaration(prefix + name, each.kind, form, here, each.default, lacking)


def parameters(form: type[Any], terms: Sequence[str] = ()) -> dict[str, Parameter]:
    """Return the parameters of a form that has some terms: those that every form has, then term by term."""
    by_term: dict[str, dict[str, Parameter]] = {}
    for each in declarations(form).values():
        if isinstance(each.kind, Parameter):
            by_term.setdefault(each.term, {})[each.name] = each.kind
    declared: dict[str, Parameter] = {}
    for term in ("", *terms):
        declared |= by_term[term]
    return declared


def build(form: type[_Form], values: Mapping[str, Any]) -> _Form:
    """Return the form with the parameters and constants that a file states."""
    return _built(form, values, "")


def _built(form: type[_Form], values: Mapping[str, Any], prefix: str) -> _Form:
    given: dict[str, Any] = {}
    declaring: Any = form
    for own in fields(declaring):
        declared, name = declaring.declared.get(own), prefix + own
        if declared is None or not isinstance(declared.kind, _Record):
            if name in values:
                given[own] = values[name]
        elif declared.default is UNSET or any(prefix + key in values for key in _keys(declared.kind)):
            given[own] = _built(declared.kind.made, values, prefix + declared.kind.prefix)
    return form(**given)


@functools.cache
def _keys(kind: _Record) -> tuple[str, ...]:
    return tuple(kind.prefix + name for name in declarations(kind.made))


def value(form: object, declaration: Declaration) -> Any:
    """Return what a form has under a key, null where it lacks the mechanism."""
    return functools.reduce(
        lambda holder, name: None if holder is None else getattr(holder, name), declaration.path, form
    )


def freeze(value: Any) -> Any:
    """Return a constant of a file as a form takes it: lists as tuples."""
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value
