"""The physical forms of kernels as a calibration file states them: models made from what the forms declare."""

from __future__ import annotations

import functools
import operator
import typing
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import UNSET
from pydantic import Field, create_model

from costmodel import quantities
from costmodel.cost.form_registry import FORMS
from costmodel.cost.parameter import Constant, Declaration, declarations
from costmodel.declared import Integer, Measure, Wrong
from costmodel.quantities import Quantity
from costmodel.schema.strict import Strict

_PLAIN_UNITS = ("1", "count", "s", "B", "B/s")  # no number that stands bare has to name these
_Tile = Annotated[list[Integer], Field(min_length=2, max_length=2)]


class _FormFile(Strict):
    """A form with its parameters and constants side by side."""

    form: ClassVar[type]

    def _check_mechanisms(self) -> None:
        """Raise what is wrong where some keys of a mechanism are stated, but not all that it needs."""
        needed: dict[str, dict[str, bool]] = {}
        for each in declarations(self.form).values():
            if each.mechanism and each.default is UNSET:
                needed.setdefault(each.mechanism, {})[each.name] = getattr(self, each.name) is not None
        for stated in needed.values():
            missing = [name for name, is_stated in stated.items() if not is_stated]
            if missing and len(missing) < len(stated):
                names = ", ".join(stated)
                raise Wrong(f"{names} are stated together: {', '.join(missing)} is missing", "state all, or none")


def _model(kind: str, form: type) -> type[Strict]:
    fields: dict[str, Any] = {name: _field(each) for name, each in declarations(form).items()}
    summary = (form.__doc__ or "").split("\n\n")[0]
    tag: Any = (Literal[kind], Field(description="this form"))
    model = create_model(f"{form.__name__}File", __base__=_FormFile, __doc__=summary, kind=tag, **fields)
    model.form = form
    return model


def _field(declaration: Declaration) -> tuple[Any, Any]:
    kind, default = declaration.kind, declaration.default
    unit = "" if kind.unit in _PLAIN_UNITS or not kind.unit else f" [{kind.unit}]"
    described: dict[str, Any] = {"description": kind.meaning + unit}
    type_ = _type(declaration)
    if declaration.is_required:
        return type_, Field(**described)
    if isinstance(default, str) or default == ():
        return type_, Field(default=list(default) if default == () else default, **described)
    return type_ | None, Field(default=None, **described)


@functools.cache
def _type_hints(form: type) -> dict[str, Any]:
    return typing.get_type_hints(form, localns=vars(quantities))


def _type(declaration: Declaration) -> Any:
    kind = declaration.kind
    if isinstance(kind, Constant) and kind.unit == "count":
        return Integer
    if kind.dimension is not None:
        return Annotated[Quantity, Measure(kind.dimension)]
    annotation = _type_hints(declaration.owner)[declaration.path[-1]]
    if typing.get_origin(annotation) is not tuple:
        return annotation  # a truth value, or one of some words
    parts = typing.get_args(annotation)
    if parts == (int, int):
        return _Tile
    entries: Any = list[Integer] if parts[0] is int else list[_Tile]
    return Annotated[entries, Field(min_length=1)] if declaration.is_required else entries


FORM_FILES: dict[str, type[Strict]] = {kind: _model(kind, form) for kind, form in FORMS.items()}

if TYPE_CHECKING:

    class FormFile(Strict):
        """Any of the forms."""

        kind: str
else:
    FormFile = Annotated[functools.reduce(operator.or_, FORM_FILES.values()), Field(discriminator="kind")]
