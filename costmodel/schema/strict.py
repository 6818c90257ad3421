"""The base of all file models, and pydantic's findings told in the words of the file's author."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from types import UnionType
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Tag, ValidationError

from costmodel.errors import Location, Problem
from costmodel.schema.earlier_names import FORM_KINDS
from costmodel.schema.loader import kind_of
from costmodel.schema.references import suggest
from costmodel.schema.tree import Tree, plain

Model = TypeVar("Model", bound="Strict")

_OTHER_NAMES = {
    "tensor_parallel": "tp", "pipeline_parallel": "pp", "data_parallel": "dp", "expert_parallel": "ep",
    "context_parallel": "cp", "virtual_stages": "virtual", "d_model": "hidden", "hidden_size": "hidden",
    "vocab": "vocabulary", "vocab_size": "vocabulary", "d_ff": "intermediate", "num_experts": "experts",
    "seq_len": "sequence", "sequence_length": "sequence", "micro_batch_size": "micro_batch", "sms": "processors",
    "batch": "batch_per_device", "max_num_seqs": "concurrency", "chunk_size": "chunk_tokens", "isl": "input_tokens",
    "osl": "output_tokens", "input_len": "input_tokens", "output_len": "output_tokens",
    "global_batch_size": "global_batch", "kv_lora_rank": "kv_lora", "q_lora_rank": "q_lora", "num_nodes": "count",
    "gpu": "device", "gpus": "devices", "throttle": "sustained_slowdown", "contention": "moe_comm_slowdown",
    "interference": "dp_comm_slowdown", "eager": "unfused_elementwise",
}  # fmt: skip
"""Names that other tools or earlier versions use for a key -> ours."""


class Strict(BaseModel):
    """A mapping of a file: unknown keys are errors. Built when first used, which keeps start-up short.

    earlier: keys that it had before, each with the one of today.
    """

    earlier: ClassVar[dict[str, str]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, protected_namespaces=())


def checked(model: type[Model], tree: Tree, problems: list[Problem], prefix: str = "") -> Model | None:
    """Return `tree` as a `model` with its quantities in SI; on failure add every problem and return None."""
    raw = plain(tree)
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if key not in ("schema", "extends")}
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        findings = [dict(finding) for finding in error.errors(include_url=False)]
        renamed = _renamed(findings, model)
        problems.extend(
            _problem(finding, model, tree, prefix)
            for finding in findings
            if not (finding["type"] == "missing" and finding["loc"] in renamed)
        )
        return None


def _renamed(findings: list[dict[str, Any]], model: type[Strict]) -> set[tuple[str | int, ...]]:
    """Return the places of missing keys that stand there under another name: those need no problem of their own."""
    missing = [finding["loc"] for finding in findings if finding["type"] == "missing"]
    renamed: set[tuple[str | int, ...]] = set()
    for place in (finding["loc"] for finding in findings if finding["type"] == "extra_forbidden"):
        beside = [str(other[-1]) for other in missing if other[:-1] == place[:-1]]
        word = str(place[-1])
        ours = _earlier(model, place) or _OTHER_NAMES.get(word)
        meant = [ours] if ours in beside else difflib.get_close_matches(word, beside, n=1)
        renamed.update((*place[:-1], str(name)) for name in meant)
    return renamed


def _problem(finding: dict[str, Any], model: type[Strict], tree: Tree, prefix: str) -> Problem:
    kind: str = finding["type"]
    at_key = kind == "extra_forbidden" or finding["loc"][-1:] == ("[key]",)
    place = _without_tags(model, [part for part in finding["loc"] if part != "[key]"])
    if kind == "extra_forbidden":
        known = keys_at(model, place[:-1])
        today = _earlier(model, place)
        ours = today or _OTHER_NAMES.get(str(place[-1]))
        hint = f"write `{ours}`" if ours in known else suggest(str(place[-1]), known)
        message = f"is now `{today}`" if today else "unknown key"
    elif kind == "missing":
        message, hint = "is missing", "add it" + _what_to_add(model, place)
    else:
        message, hint = _told(kind, finding)
    field, location = _where(tree, place, at_key=at_key)
    return Problem(location, ".".join(part for part in (prefix, field) if part), message, hint)


def _told(kind: str, finding: dict[str, Any]) -> tuple[str, str]:
    """Return message and hint of a finding in plain words."""
    value, context = finding["input"], finding.get("ctx", {})
    if kind == "costmodel":
        return context["message"], context["hint"]
    given = repr(value) if isinstance(value, (str, bool, int, float)) else kind_of(value)
    if kind == "literal_error":
        known = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"{given} is no known choice", suggest(str(value), known)
    if kind == "union_tag_invalid":
        known = [word.strip("'") for word in context["expected_tags"].split(", ")]
        today = FORM_KINDS.get(context["tag"])
        if today in known:
            return f"`{context['tag']}` is now `{today}`", f"write `{today}`"
        return f"{_key(context)} {context['tag']!r} is no known choice", suggest(context["tag"], known)
    if kind == "union_tag_not_found":
        return f"{_key(context)} is missing", "add it to say which kind this is"
    wanted = {
        "model_type": "a mapping", "model_attributes_type": "a mapping", "dict_type": "a mapping",
        "list_type": "a list", "string_type": "text", "bool_type": "true or false", "none_required": "null",
    }  # fmt: skip
    if kind in wanted:
        hint = "put it in quotes" if kind == "string_type" and not isinstance(value, (dict, list)) else ""
        return f"must be {wanted[kind]}, not {given}", hint or f"write {wanted[kind]}"
    if kind == "too_short":
        return "is empty", "write at least one entry"
    return f"{given} does not fit here", finding["msg"].lower()


def _key(context: dict[str, Any]) -> str:
    return str(context["discriminator"]).strip("'")


def _what_to_add(model: type[Strict], place: Sequence[str | int]) -> str:
    parent: Any = model
    for part in place[:-1]:
        parent = _inside(parent, part)
    for owner in classes_of(parent):
        for name, field in owner.model_fields.items():
            if (field.alias or name) == place[-1]:
                notes = [note.describe() for note in field.metadata if hasattr(note, "describe")]
                text = ", ".join(filter(None, (field.description, *notes)))
                return f" ({text})" if text else ""
    return ""


def keys_at(model: type[Strict], place: Sequence[str | int]) -> list[str]:
    """Return the keys that the mapping at `place` may have."""
    return [field.alias or name for owner in _owners(model, place) for name, field in owner.model_fields.items()]


def _earlier(model: type[Strict], place: Sequence[str | int]) -> str | None:
    """Return the key of today where the one at `place` is what it was called before."""
    key = str(place[-1])
    return next((owner.earlier[key] for owner in _owners(model, place[:-1]) if key in owner.earlier), None)


def _owners(model: type[Strict], place: Sequence[str | int]) -> list[type[Strict]]:
    """Return the file models that the mapping at `place` may be of."""
    current: Any = model
    for part in place:
        current = _inside(current, part)
    return classes_of(current)


def _inside(annotation: Any, part: str | int) -> Any:
    """Return the type found under `part`: a key, an index, or the tag by which pydantic chose one of a union."""
    for owner in classes_of(annotation):
        for name, field in owner.model_fields.items():
            if (field.alias or name) == part:
                return field.annotation
    members = members_of(annotation)
    for member in members:
        arguments = typing.get_args(member)
        if typing.get_origin(member) in (list, tuple) and isinstance(part, int):
            return arguments[0]
        if typing.get_origin(member) is dict:
            return arguments[1]
    tagged = [owner for owner in classes_of(annotation) if part in _tags(owner)]
    return tagged[0] if tagged else None


def _without_tags(model: type[Strict], place: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return a finding's place without the names by which a union told its kinds apart where no key does."""
    current: Any = model
    kept: list[str | int] = []
    for part in place:
        if part in _kind_names(current):
            continue
        kept.append(part)
        current = _inside(current, part)
    return tuple(kept)


def _kind_names(annotation: Any) -> list[str]:
    """Return the names that a union gives its members itself (pydantic's `Tag`)."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        own = [note.tag for note in arguments[1:] if isinstance(note, Tag)]
        return own or _kind_names(arguments[0])
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [name for argument in arguments for name in _kind_names(argument)]
    return []


def members_of(annotation: Any) -> list[Any]:
    """Return the types that a union may be, those of a plain type alone, without what they are annotated with."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return members_of(typing.get_args(annotation)[0])
    if origin in (typing.Union, UnionType):
        return [member for argument in typing.get_args(annotation) for member in members_of(argument)]
    return [annotation]


def classes_of(annotation: Any) -> list[type[Strict]]:
    """Return the file models that a type may be."""
    return [one for one in members_of(annotation) if isinstance(one, type) and issubclass(one, Strict)]


def _tags(owner: type[Strict]) -> list[Any]:
    return [tag for field in owner.model_fields.values() for tag in typing.get_args(field.annotation)]


def _where(tree: Tree, place: Sequence[str | int], *, at_key: bool) -> tuple[str, Location | None]:
    """Return the dotted field and the location of `place`; parts that are no keys (pydantic's union tags) drop out."""
    current, names = tree, []
    for last, part in ((at == len(place) - 1, part) for at, part in enumerate(place)):
        below = current.child(part)
        if below is None and not last:
            continue
        if not last and part in _union_tags(current) and not isinstance(below and below.value, dict | list):
            continue  # the tag of a kind that has a key of its own name, such as `window`
        name = str(part)
        if below is not None and isinstance(current.value, list):
            listed = list(current.names())[int(part)]
            name = listed if listed and list(current.names()).count(listed) == 1 else name
        if below is not None or name not in _union_tags(current):
            names.append(name)
        current = below or current
    location = (current.key if at_key else None) or current.location or current.key
    return ".".join(names), location


def _union_tags(tree: Tree) -> list[str]:
    """Return the values by which a union may have been chosen at this mapping."""
    return [tag for key in ("type", "phase", "kind") if (tag := tree.text(key)) is not None]
