"""The facts of one config.json, in our words, each checked at its own key."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticCustomError

from costmodel.errors import InputError, Location, Problem
from costmodel.schema.fields import NumberType, field_error
from costmodel.schema.hugging_face.families import REQUIRED, Family, Key, keys_of
from costmodel.schema.quantity import Measure, Whole
from costmodel.schema.tree import Tree, to_python

BY_HAND = "write the model as YAML: `costmodel init model` prints one to start from"


class Config:
    """The facts of a config.json by its family's table; raises InputError if a required key is missing."""

    def __init__(self, tree: Tree, family: Family) -> None:
        self._tree, self._family = tree, family
        self._default = (tree.child("model_type") or tree).location
        missing = [key for key in keys_of(family) if key.default is REQUIRED and self._entry(key) is None]
        if missing:
            raise InputError([Problem(tree.location, key.name, "is missing", "add it") for key in missing])
        self._check_variant()

    @property
    def location(self) -> Location | None:
        """Return where the file begins."""
        return self._tree.location

    def has(self, fact: str) -> bool:
        """Tell whether the family's table has a fact."""
        return fact in self._family

    def value(self, fact: str) -> Any:
        """Return a fact: the file's value, or else the family's."""
        source = self._family.get(fact)
        if not isinstance(source, Key):
            return source
        entry = self._entry(source)
        return source.default if entry is None else to_python(entry)

    def count(self, fact: str, low: int = 1) -> int | None:
        """Return a fact that is a whole number, None without one."""
        value = self.value(fact)
        return None if value is None else int(self._checked(fact, Whole(low, single=True), value))

    def size(self, fact: str) -> int:
        """Return a fact that is a whole number and that every file of the family has."""
        count = self.count(fact)
        assert count is not None, fact
        return count

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

    def drops_out(self) -> bool:
        """Tell whether any dropout rate is above zero."""
        entries = [(key, self._entry(key)) for key in self._family.get("dropout", ())]
        rates = [key.default if entry is None else entry.value for key, entry in entries]
        return any(isinstance(rate, int | float) and rate > 0 for rate in rates)

    def name_of(self, fact: str) -> str:
        """Return the key of a fact."""
        source = self._family.get(fact)
        return source.name if isinstance(source, Key) else fact

    def leaf(self, value: Any, fact: str) -> Tree:
        """Return a value at the location of the fact that it comes from."""
        source = self._family.get(fact)
        entry = self._entry(source) if isinstance(source, Key) else None
        return Tree(value, self._default if entry is None else entry.location)

    def error(self, fact: str, message: str, hint: str) -> InputError:
        """Return the error of a fact, at its key."""
        return InputError.single(message, hint=hint, field=self.name_of(fact), location=self.leaf(None, fact).location)

    def _entry(self, key: Key) -> Tree | None:
        for name in (key.name, key.older_name):
            entry = self._tree.at(name.split(".")) if name else None
            if entry is not None and entry.value is not None:
                return entry
        return None

    def _checked(self, fact: str, number: NumberType, value: Any) -> Any:
        try:
            return number.check(value)
        except PydanticCustomError as error:
            raise field_error(error, self.name_of(fact), self.leaf(None, fact).location) from None

    def _check_variant(self) -> None:
        """Raise InputError if the file is a variant of its family that a model file cannot express."""
        for name, required in self._family.get("must", {}).items():
            entry = self._tree.at(name.split("."))
            other = self._tree.child(required) if isinstance(required, str) else None
            expected = other.value if other is not None else required
            if entry is not None and entry.value is not None and entry.value != expected:
                raise InputError.single(
                    f"this variant cannot be imported: {json.dumps(to_python(entry))}", hint=BY_HAND, field=name,
                    location=entry.location,
                )  # fmt: skip
