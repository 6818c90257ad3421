"""The facts of one config.json, in our words, each checked at its own key."""

from __future__ import annotations

import json
from typing import Any

from costmodel.declared import Measure, Whole, Wrong
from costmodel.errors import InputError, Location, Problem
from costmodel.schema.hugging_face.tables import REQUIRED, Fact, Family, Key, Switch
from costmodel.schema.strict import NumberType, field_error
from costmodel.schema.tree import Tree, to_python

BY_HAND = "write the model as YAML: `costmodel init model` prints one to start from"


class Config:
    """The facts of a config.json by its family's table. Raises InputError if a required key is missing.

    kind: the kind of layer whose facts stand over those of the model (null: the model's own).
    """

    def __init__(self, tree: Tree, family: Family, *, kind: str | None = None) -> None:
        self._tree = tree
        self._base = family
        self._family = family | family.get("kinds", {}).get(kind, {}) if kind else family
        self._default = (tree.child("model_type") or tree).location
        if kind is None:
            self._check_required(family)
            self._check_variant()

    def of_kind(self, kind: str) -> Config:
        """Return the facts of one kind of layer."""
        config = Config(self._tree, self._base, kind=kind)
        config._check_required(self._base.get("kinds", {}).get(kind, {}))
        return config

    def _check_required(self, family: Family) -> None:
        """Raise InputError if a key is missing that every file of the family has."""
        missing = [
            fact for fact in family.values()
            if isinstance(fact, Key) and fact.default is REQUIRED and self._entry(fact) is None
        ]  # fmt: skip
        if missing:
            raise InputError([self._missing(key) for key in missing])

    def _missing(self, key: Key) -> Problem:
        hint = " or ".join(["add it", *(f"`{name}`" for name in key.names[1:])])
        return Problem(self._tree.location, key.names[0], "is missing", hint)

    @property
    def location(self) -> Location | None:
        """Return where the file begins."""
        return self._tree.location

    def has(self, fact: str) -> bool:
        """Tell whether the family's table has a fact."""
        return fact in self._family

    def value(self, fact: str) -> Any:
        """Return a fact: the file's value, or else the family's."""
        return self._value(self._family.get(fact), fact)

    def _value(self, source: Fact, fact: str) -> Any:
        if isinstance(source, Switch):
            stated = self._value(source.key, fact)
            if not isinstance(stated, bool | int | float | str) or stated not in source.values:
                raise self._unknown_variant(source.key, stated)
            return self._value(source.values[stated], fact)
        if not isinstance(source, Key):
            return source
        entry = self._entry(source)
        if entry is None and source.default is REQUIRED:
            raise InputError([self._missing(source)])
        return source.default if entry is None else to_python(entry)

    def _key(self, fact: str) -> Key | None:
        source = self._family.get(fact)
        key = source.key if isinstance(source, Switch) else source
        return key if isinstance(key, Key) else None

    def _name(self, key: Key) -> str:
        """Return the name that the file states, else the first."""
        return next((name for name in key.names if self._at(name) is not None), key.names[0])

    def _unknown_variant(self, key: Key, stated: Any) -> InputError:
        entry = self._entry(key)
        return InputError.single(
            f"this variant cannot be imported: {json.dumps(stated)}", hint=BY_HAND, field=self._name(key),
            location=self._default if entry is None else entry.location,
        )  # fmt: skip

    def count(self, fact: str, low: int = 1) -> int | None:
        """Return a fact that is a whole number, None without one."""
        value = self.value(fact)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]  # one number for each layer, all equal
        return None if value is None else int(self._checked(fact, Whole(low, single=True), value))

    def size(self, fact: str) -> int:
        """Return a fact that is a whole number; raise InputError without one."""
        count = self.count(fact)
        if count is None:
            raise self.error(fact, "is missing", "add it")
        return count

    def depth(self) -> int:
        """Return the layers: as many as the file states, else as it names one by one."""
        stated = self.count("depth")
        return len(self.names("types") or "") if stated is None else stated

    def flag(self, fact: str, *, default: bool = False) -> bool:
        """Return a fact that is true or false."""
        value = self.value(fact)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(fact, f"must be true or false, not {json.dumps(value)}", "write true or false")
        return value

    def share(self, fact: str) -> float | None:
        """Return a fact between zero and one, None without one."""
        value = self.value(fact)
        return None if value is None else float(self._checked(fact, Measure("ratio", high=1.0, zero=True), value))

    def items(self, fact: str) -> list[Any] | None:
        """Return a fact that is a list, None without one."""
        value = self.value(fact)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.error(fact, "must be a list", "write a list in brackets")
        return value

    def names(self, fact: str) -> list[Any] | str | None:
        """Return a fact that names layers one by one, in a list or by letters, None without one."""
        value = self.value(fact)
        return value if isinstance(value, str) else self.items(fact)

    def drops_out(self) -> bool:
        """Tell whether any dropout rate is above zero."""
        entries = [(key, self._entry(key)) for key in self._family.get("dropout", ())]
        rates = [key.default if entry is None else entry.value for key, entry in entries]
        return any(isinstance(rate, int | float) and rate > 0 for rate in rates)

    def name_of(self, fact: str) -> str:
        """Return the key of a fact."""
        key = self._key(fact)
        return fact if key is None else self._name(key)

    def leaf(self, value: Any, fact: str) -> Tree:
        """Return a value at the location of the fact that it comes from."""
        key = self._key(fact)
        entry = None if key is None else self._entry(key)
        return Tree(value, self._default if entry is None else entry.location)

    def error(self, fact: str, message: str, hint: str) -> InputError:
        """Return the error of a fact, at its key."""
        return self.leaf(None, fact).error(message, hint, self.name_of(fact))

    def _entry(self, key: Key) -> Tree | None:
        return next((entry for name in key.names if (entry := self._at(name)) is not None), None)

    def _at(self, name: str) -> Tree | None:
        """Return what the file states under a name; a null and an empty list state nothing."""
        entry = self._tree.at(name.split("."))
        return None if entry is None or entry.value is None or entry.value == [] else entry

    def _checked(self, fact: str, number: NumberType, value: Any) -> Any:
        try:
            return number.check(value)
        except Wrong as error:
            raise field_error(error, self.name_of(fact), self.leaf(None, fact).location) from None

    def _check_variant(self) -> None:
        """Raise InputError if the file is a variant of its family that a model file cannot express."""
        for name, required in self._family.get("must", {}).items():
            entry = self._tree.at(name.split("."))
            other = self._tree.child(required) if isinstance(required, str) else None
            expected = other.value if other is not None else required
            if entry is not None and entry.value is not None and entry.value != expected:
                raise entry.error(f"this variant cannot be imported: {json.dumps(to_python(entry))}", BY_HAND, name)
