"""Mappings of files that follow from the records that they state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from costmodel.declared import Latency, Nullable, Number, Size
from costmodel.records import Record, asdict
from costmodel.schema.records import Declared, file_of


class Part(Record):
    """A part."""

    size: Annotated[Size, "of the part"]
    delay: Annotated[Latency | None, "until it moves; null: unknown"] = None


class Machine(Record, kw_only=True):
    """A machine of parts."""

    name: Annotated[str, "in references"]
    count: Annotated[Number, "machines"] = 1.0
    first: Annotated[Part | None, "the first part; null: none"] = None
    others: Annotated[tuple[Part, ...], "the parts behind it"] = ()
    named: Annotated[Mapping[str, Part], "parts by name"] = {}
    speed: float = 2.0  # of the program, not of a file


def made(**stated: Any) -> dict[str, Any]:
    return asdict(file_of(Machine).model_validate(stated).made())


def test_a_record_is_made_of_what_a_file_states_and_its_own_defaults() -> None:
    part = {"size": "1 KiB"}
    built = {"size": 1024.0, "delay": None}
    assert made(name="a", others=[part, part], named={"b": part}) == {
        "name": "a", "count": 1.0, "first": None, "others": (built, built), "named": {"b": built}, "speed": 2.0,
    }  # fmt: skip
    assert made(name="a", first=part | {"delay": "2 us"})["first"] == {"size": 1024.0, "delay": 2e-6}


@pytest.mark.parametrize(
    "stated",
    [{}, {"name": "a", "count": 0}, {"name": "a", "speed": 1.0}, {"name": "a", "first": {"size": "1 s"}},
     {"name": "a", "others": [{"delay": "1 s"}]}],
)  # fmt: skip
def test_what_a_record_does_not_declare_is_an_error(stated: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        made(**stated)


def test_keys_have_the_meaning_type_and_default_of_the_fields() -> None:
    fields = file_of(Machine).model_fields
    assert list(fields) == ["name", "count", "first", "others", "named"]
    assert (fields["count"].description, fields["count"].default) == ("machines", 1.0)
    assert fields["others"].annotation == list[file_of(Part)]  # type: ignore[misc]


def test_a_mapping_may_state_a_key_in_its_own_way() -> None:
    class OtherFile(Declared, of=Machine):
        """A machine with a kind."""

        kind: str = Field(description="of machine")
        count: Number | None = Field(default=None, description="machines; null: two")

        def made(self) -> Machine:
            return Machine(name=self.name, count=2.0 if self.count is None else self.count)

    other = OtherFile.model_validate({"name": "a", "kind": "x"})
    assert list(OtherFile.model_fields) == ["name", "kind", "count", "first", "others", "named"]
    assert other.made().count == 2.0


def test_null_means_the_default_of_a_nullable_key() -> None:
    class Boiler(Record):
        """A boiler."""

        power: Annotated[Number, Nullable(), "power; null: three"] = 3.0

    assert file_of(Boiler).model_fields["power"].default is None
    for stated, power in (({}, 3.0), ({"power": None}, 3.0), ({"power": 5}, 5.0)):
        assert file_of(Boiler).model_validate(stated).made().power == power
