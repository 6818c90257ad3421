"""The facts of one config.json, in our words, each checked at its own key."""

from __future__ import annotations

import json
from typing import Any, Protocol

from pydantic_core import PydanticCustomError

from costmodel.errors import InputError, Location, Problem
from costmodel.schema.hugging_face.families import REQUIRED, Family, Key, keys_of
from costmodel.schema.quantity import Measure, Whole
from costmodel.schema.tree import Tree, to_python

BY_HAND = "write the model as YAML: `costmodel init model` prints one to start from"


class _Kind(Protocol):
    def check(self, value: Any) -> Any: ...


class Config:
    """The facts that a family's table finds in a config.json. Made only where all required keys are there."""

    def __init__(self, tree: Tree, family: Family) -> None:
        self._tree, self._family = tree, family
        self._default = (tree.child("model_type") or tree).location
        missing = [key for key in keys_of(family) if key.default is REQUIRED and self._stated(key) is None]
        if missing:
            raise InputError([Problem(tree.location, key.name, "is missing", "add it") for key in missing])
        self._refuse()

    @property
    def location(self) -> Location | None:
        """Return where the file begins."""
        return self._tree.location

    def has(self, fact: str) -> bool:
        """Tell whether the family's table has a fact."""
        return fact in self._family

    def value(self, fact: str) -> Any:
        """Return a fact as it is stated, or as the family has it where the file says nothing."""
        source = self._family.get(fact)
        if not isinstance(source, Key):
            return source
        stated = self._stated(source)
        return source.default if stated is None else to_python(stated)

    def count(self, fact: str, low: int = 1) -> int | None:
        """Return a fact that is a whole number, None where there is none."""
        value = self.value(fact)
        return None if value is None else int(self._checked(fact, Whole(low, single=True), value))

    def size(self, fact: str) -> int:
        """Return a fact that is a whole number and that every file of the family has."""
        found = self.count(fact)
        assert found is not None, fact
        return found

    def flag(self, fact: str, *, default: bool = False) -> bool:
        """Return a fact that holds or does not."""
        value = self.value(fact)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(fact, f"must be true or false, not {json.dumps(value)}", "write true or false")
        return value

    def share(self, fact: str) -> float | None:
        """Return a fact between zero and one, None where there is none."""
        value = self.value(fact)
        return None if value is None else float(self._checked(fact, Measure("ratio", high=1.0, zero=True), value))

    def items(self, fact: str) -> list[Any] | None:
        """Return a fact that is a list, None where there is none."""
        value = self.value(fact)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.wrong(fact, "must be a list", "write a list in brackets")
        return value

    def drops_out(self) -> bool:
        """Tell whether any dropout rate is above zero."""
        stated = [(key, self._stated(key)) for key in self._family.get("dropout", ())]
        rates = [key.default if found is None else found.value for key, found in stated]
        return any(isinstance(rate, int | float) and rate > 0 for rate in rates)

    def name_of(self, fact: str) -> str:
        """Return the key that a fact comes from."""
        source = self._family.get(fact)
        return source.name if isinstance(source, Key) else fact

    def leaf(self, value: Any, fact: str) -> Tree:
        """Return a value of ours at the place of the fact that it comes from."""
        source = self._family.get(fact)
        stated = self._stated(source) if isinstance(source, Key) else None
        return Tree(value, self._default if stated is None else stated.location)

    def wrong(self, fact: str, message: str, hint: str) -> InputError:
        """Return the error of a fact, told at its key."""
        return InputError.single(message, hint=hint, field=self.name_of(fact), location=self.leaf(None, fact).location)

    def _stated(self, key: Key) -> Tree | None:
        for name in (key.name, key.or_name):
            found = self._tree.at(name.split(".")) if name else None
            if found is not None and found.value is not None:
                return found
        return None

    def _checked(self, fact: str, kind: _Kind, value: Any) -> Any:
        try:
            return kind.check(value)
        except PydanticCustomError as error:
            told = error.context or {}
            raise self.wrong(fact, str(told.get("message")), str(told.get("hint"))) from None

    def _refuse(self) -> None:
        """Raise InputError where the file asks for a variant of its family that a model file cannot say."""
        for name, wanted in self._family.get("must", {}).items():
            stated = self._tree.at(name.split("."))
            other = self._tree.child(wanted) if isinstance(wanted, str) else None
            expected = other.value if other is not None else wanted
            if stated is not None and stated.value is not None and stated.value != expected:
                raise InputError.single(
                    f"{json.dumps(to_python(stated))} is a variant that cannot be imported", hint=BY_HAND, field=name,
                    location=stated.location,
                )  # fmt: skip
