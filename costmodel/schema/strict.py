"""The base of all file models, and pydantic's errors in the words of the file's author."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, ClassVar, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Tag, ValidationError

from costmodel.declared import Measure, Positive, Whole, Wrong
from costmodel.errors import InputError, Location, Problem, kind_of, suggest
from costmodel.schema.loader import parse_tree
from costmodel.schema.tree import PathPart, Tree, to_python

Model = TypeVar("Model", bound="Strict")
FieldPath: TypeAlias = "Sequence[PathPart]"

_MAX_PROBLEMS = 200  # of a document: nobody reads more, and hints for a million keys take minutes
OUR_NAMES = {
    "tensor_parallel": "tp", "pipeline_parallel": "pp", "data_parallel": "dp", "expert_parallel": "ep",
    "context_parallel": "cp", "virtual_stages": "virtual", "d_model": "hidden", "hidden_size": "hidden",
    "vocab": "vocabulary", "vocab_size": "vocabulary", "d_ff": "intermediate", "num_experts": "experts",
    "seq_len": "sequence", "sequence_length": "sequence", "micro_batch_size": "micro_batch", "sms": "processors",
    "batch": "batch_per_device", "batch_size": "batch_per_device", "users": "concurrency", "lora": "adapters",
    "context": "input_tokens", "context_length": "input_tokens",
    "max_num_seqs": "concurrency", "max_concurrency": "concurrency", "chunk_size": "chunk_tokens",
    "isl": "input_tokens", "osl": "output_tokens", "input_len": "input_tokens", "output_len": "output_tokens",
    "global_batch_size": "global_batch", "kv_lora_rank": "kv_lora", "q_lora_rank": "q_lora", "num_nodes": "count",
    "gpu": "device", "gpus": "devices", "throttle": "sustained_slowdown", "contention": "moe_comm_slowdown",
    "scheduler_recv_interval": "look_steps", "unfused_elementwise": "training.eager", "eager_loss": "training.eager",
    "tensor_overlap": "training.tensor_overlap", "accumulation": "training.accumulation",
    "weight_exchange": "training.weight_exchange", "not_on": "unsupported.architectures",
    "not_formats": "unsupported.formats", **{each: f"parallel.{each}" for each in ("tp", "pp", "dp", "ep")},
    "max_num_batched_tokens": "token_budget", "chunked_prefill_size": "token_budget", "max_num_tokens": "token_budget",
    "max_running_requests": "max_num_seqs", "gpu_memory_utilization": "utilization",
    "mem_fraction_static": "utilization", "kv_cache": "precision.kv_cache",
}  # fmt: skip
"""Key of other tools or of earlier versions -> ours, for hints; keys that are accepted are in `aliases`."""
_EXPECTED = {
    "model_type": "a mapping", "model_attributes_type": "a mapping", "dict_type": "a mapping", "list_type": "a list",
    "string_type": "text", "bool_type": "true or false", "none_required": "null",
}  # fmt: skip
"""pydantic's error type -> what is expected."""


class Strict(BaseModel):
    """A mapping of a file: unknown keys are errors. Built on first use, which keeps start-up short.

    What keys ask of one another stands in methods `_check_…`, each of which raises `Wrong`. They run in their order
    once every key is valid by itself, those of a base first.
    """

    checks: ClassVar[tuple[str, ...]] = ()
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, protected_namespaces=())

    def __init_subclass__(cls, **options: Any) -> None:
        """Note the checks of a mapping."""
        super().__init_subclass__(**options)
        names = (name for base in reversed(cls.__mro__) if base not in BaseModel.__mro__ for name in vars(base))
        cls.checks = tuple(dict.fromkeys(name for name in names if name.startswith("_check_")))

    @classmethod
    def lacks(cls, raw: Mapping[str, Any]) -> Iterator[Wrong]:  # noqa: ARG003
        """Yield what a mapping lacks besides its keys, to be said together with what is wrong in these."""
        return iter(())

    def model_post_init(self, _: Any, /) -> None:
        """Run the checks: pydantic calls this with a valid mapping."""
        for name in self.checks:
            getattr(self, name)()


_VALID: WeakKeyDictionary[Tree, dict[type[Strict], Strict]] = WeakKeyDictionary()
"""What documents were found to be: files are read often, and kept."""


def validate_tree(model: type[Model], tree: Tree, problems: list[Problem], prefix: str = "") -> Model | None:
    """Return `tree` as a `model`, quantities in SI. On failure append every problem and return None.

    prefix: the field below which the tree's own fields are, for messages.
    """
    known = _VALID.setdefault(tree, {})
    if model in known:
        return known[model]  # type: ignore[return-value]
    raw = to_python(tree)
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if key not in ("schema", "extends")}
    try:
        known[model] = document = model.model_validate(raw)
        return document
    except ValidationError as error:
        every = error.errors(include_url=False)
        findings = [dict(finding) for finding in every[:_MAX_PROBLEMS]]
        misnamed = _misnamed(findings)
        problems.extend(
            _problem(finding, model, tree, prefix)
            for finding in findings
            if not (finding["type"] == "missing" and finding["loc"] in misnamed)
        )
        lacking = [Problem(tree.location, prefix, one.message, one.hint) for one in model.lacks(raw)]
        problems.extend(one for one in lacking if one not in problems)
        if len(every) > len(findings):
            more = f"and {len(every) - len(findings):,} more problems"
            problems.append(Problem(tree.location, prefix, more, "mend these first"))
        return None


def checked(model: type[Model], tree: Tree, field: str = "") -> Model:
    """Return `tree` as a `model`. Raises InputError with every problem."""
    problems: list[Problem] = []
    file = validate_tree(model, tree, problems, field)
    if file is None:
        raise InputError(problems)
    return file


def _misnamed(findings: list[dict[str, Any]]) -> set[tuple[PathPart, ...]]:
    """Return the paths of missing keys that are present under another name: the unknown key is problem enough."""
    missing = [finding["loc"] for finding in findings if finding["type"] == "missing"]
    misnamed: set[tuple[PathPart, ...]] = set()
    for path in (finding["loc"] for finding in findings if finding["type"] == "extra_forbidden"):
        siblings = [str(other[-1]) for other in missing if other[:-1] == path[:-1]]
        key = str(path[-1])
        ours = OUR_NAMES.get(key)
        meant = [ours] if ours in siblings else difflib.get_close_matches(key, siblings, n=1)
        misnamed.update((*path[:-1], str(name)) for name in meant)
    return misnamed


def _problem(finding: dict[str, Any], model: type[Strict], tree: Tree, prefix: str) -> Problem:
    kind: str = finding["type"]
    at_key = kind == "extra_forbidden" or finding["loc"][-1:] == ("[key]",)
    path = _without_tags(model, [part for part in finding["loc"] if part != "[key]"])
    stated = finding.get("ctx", {}).get("error")
    path = (*path, *(stated.at if isinstance(stated, Wrong) else ()))
    if kind == "extra_forbidden":
        known = keys_at(model, path[:-1])
        ours = OUR_NAMES.get(str(path[-1]))
        near = deeper(tree.at(path[:-1]), str(path[-1])) or suggest(str(path[-1]), known)
        hint = f"write `{ours}`" if ours and ours.partition(".")[0] in known else near
        message = "unknown key"
    elif kind == "missing":
        message, hint = "is missing", "add it" + _what_to_add(model, path)
    else:
        message, hint = _message_and_hint(kind, finding)
    field, location = _locate(tree, path, at_key=at_key)
    return Problem(location, ".".join(part for part in (prefix, field) if part), message, hint)


def _message_and_hint(kind: str, finding: dict[str, Any]) -> tuple[str, str]:
    value, context = finding["input"], finding.get("ctx", {})
    if isinstance(context.get("error"), Wrong):
        return context["error"].message, context["error"].hint
    given = repr(value) if isinstance(value, (str, bool, int, float)) else kind_of(value)
    if kind == "literal_error":
        return f"unknown value {given}", suggest(str(value), _listed(context["expected"].replace(" or ", ", ")))
    if kind == "union_tag_invalid":
        return f"unknown {_key(context)} {context['tag']!r}", suggest(context["tag"], _listed(context["expected_tags"]))
    if kind == "union_tag_not_found":
        return f"{_key(context)} is missing", "add it to select the kind"
    if kind in _EXPECTED:
        hint = "put it in quotes" if kind == "string_type" and not isinstance(value, (dict, list)) else ""
        return f"must be {_EXPECTED[kind]}, not {given}", hint or f"write {_EXPECTED[kind]}"
    if kind == "too_short":
        return "is empty", "add at least one entry"
    return f"{given} is not valid here", finding["msg"].lower()


def _listed(words: str) -> list[str]:
    """Return the words of pydantic's `'a', 'b'`."""
    return [word.strip("'") for word in words.split(", ")]


def _key(context: dict[str, Any]) -> str:
    return str(context["discriminator"]).strip("'")


def _what_to_add(model: type[Strict], path: FieldPath) -> str:
    """Return the type and meaning of a missing key, in brackets."""
    for owner in _owners(model, path[:-1]):
        for name, field in owner.model_fields.items():
            if (field.alias or name) == path[-1]:
                notes = [note.describe() for note in field.metadata if hasattr(note, "describe")]
                text = ", ".join(filter(None, (field.description, *notes)))
                return f" ({text})" if text else ""
    return ""


def deeper(tree: Tree | None, part: str) -> str:
    """Return a hint with the sections of a mapping or list that have the key which it has not, empty for none."""
    if tree is None or not isinstance(tree.value, dict | list):
        return ""
    parts = list(tree.value) if tree.is_mapping else [name or str(at) for at, name in enumerate(tree.names())]
    inside = [f"`{name}.{part}`" for name in parts if (below := tree.child(name)) is not None and below.child(part)]
    return f"did you mean {' or '.join(inside[:3])}?" if inside else ""


def keys_at(model: type[Strict], path: FieldPath) -> list[str]:
    """Return the keys that the mapping at `path` may have."""
    return [field.alias or name for owner in _owners(model, path) for name, field in owner.model_fields.items()]


def _owners(model: type[Strict], path: FieldPath) -> list[type[Strict]]:
    """Return the file models that the mapping at `path` may be of."""
    current: Any = model
    for part in path:
        current = _inside(current, part)
    return file_models(current)


def _inside(annotation: Any, part: PathPart) -> Any:
    """Return the type below `part`: a key, an index, or the tag by which pydantic chose a member of a union."""
    for owner in file_models(annotation):
        for name, field in owner.model_fields.items():
            if (field.alias or name) == part:
                return field.annotation
    for member in union_members(annotation):
        arguments = typing.get_args(member)
        if typing.get_origin(member) in (list, tuple) and isinstance(part, int):
            return arguments[0]
        if typing.get_origin(member) is dict:
            return arguments[1]
    return next((owner for owner in file_models(annotation) if part in _literals(owner)), None)


def _without_tags(model: type[Strict], path: FieldPath) -> tuple[PathPart, ...]:
    """Return an error's path without the tags of unions that no key of the file discriminates."""
    current: Any = model
    parts: list[PathPart] = []
    for part in path:
        if part in _member_tags(current):
            continue
        parts.append(part)
        current = _inside(current, part)
    return tuple(parts)


def _member_tags(annotation: Any) -> list[str]:
    """Return the tags that a union itself gives its members (pydantic's `Tag`)."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        tags = [note.tag for note in arguments[1:] if isinstance(note, Tag)]
        return tags or _member_tags(arguments[0])
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [tag for argument in arguments for tag in _member_tags(argument)]
    return []


def union_members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the type itself, without annotations."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return union_members(typing.get_args(annotation)[0])
    if origin in (typing.Union, UnionType):
        return [member for argument in typing.get_args(annotation) for member in union_members(argument)]
    return [annotation]


def file_models(annotation: Any) -> list[type[Strict]]:
    """Return the file models that a type may be."""
    return [member for member in union_members(annotation) if isinstance(member, type) and issubclass(member, Strict)]


def _literals(owner: type[Strict]) -> list[Any]:
    return [word for field in owner.model_fields.values() for word in typing.get_args(field.annotation)]


def _locate(tree: Tree, path: FieldPath, *, at_key: bool) -> tuple[str, Location | None]:
    """Return the dotted field and the location of `path`. Parts that are no keys (pydantic's union tags) drop out."""
    current, names = tree, []
    for i, part in enumerate(path):
        is_last = i == len(path) - 1
        below = current.child(part)
        if below is None and not is_last:
            continue
        if not is_last and part in _tag_values(current) and not isinstance(below and below.value, dict | list):
            continue  # the tag of a kind that has a key of its own name, such as `window`
        name = str(part)
        if below is not None and isinstance(current.value, list):
            item_names = list(current.names())
            item = item_names[int(part)]
            name = item if item and item_names.count(item) == 1 else name
        if below is not None or name not in _tag_values(current):
            names.append(name)
        current = below or current
    location = (current.key if at_key else None) or current.location or current.key
    return ".".join(names), location


def _tag_values(tree: Tree) -> list[str]:
    """Return the values by which a union may have been chosen at this mapping."""
    return [tag for key in ("type", "phase", "kind") if (tag := tree.text(key)) is not None]


# ---- The number type of a field: which quantity or count the file model has at a path --------------------------------

NumberType: TypeAlias = Measure | Whole | Positive


def number_at(root: type[Strict], path: Sequence[str]) -> NumberType | None:
    """Return the type of the number at `path`, null for text, a switch, a list or a mapping.

    Items of a list and entries of a mapping of names share one type, so their names and positions do not matter.
    """
    current: Any = root
    notes: Sequence[Any] = ()
    for part in path:
        models = file_models(current)
        fields = [
            field for model in models for name, field in model.model_fields.items() if part == (field.alias or name)
        ]
        if fields:
            current, notes = fields[0].annotation, fields[0].metadata
            continue
        containers = [member for member in union_members(current) if typing.get_origin(member) in (list, dict)]
        if not containers:
            return None
        current, notes = typing.get_args(containers[0])[-1], ()
    return next((note for note in (*notes, *_notes(current)) if isinstance(note, NumberType)), None)


def read_number(number: NumberType, text: str, label: Location, field: str) -> float:
    """Return a number in SI, written as for `--set`. Raises InputError with its location and fix."""
    try:
        return float(number.check(to_python(parse_tree(text, label.source, label=label))))
    except Wrong as error:
        raise field_error(error, field, label) from None


def field_error(error: Wrong, field: str, location: Location | None) -> InputError:
    """Return what a field's check found, at its place in a file."""
    return InputError.single(error.message, hint=error.hint, field=field, location=location)


def _notes(annotation: Any) -> list[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return list(annotation.__metadata__)
    is_union = origin in (typing.Union, UnionType)
    return [note for argument in arguments for note in _notes(argument)] if is_union else []
