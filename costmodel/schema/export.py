"""The file formats for other tools (JSON Schema) and for people (`docs/formats.md`)."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from costmodel.declared import DType
from costmodel.errors import InputError, suggest
from costmodel.schema.case import CaseReferenceFile, EntryFile, TableFile
from costmodel.schema.device import Source
from costmodel.schema.files import FILES
from costmodel.schema.strict import Strict
from costmodel.schema.tree import ALIASES
from costmodel.schema.workload import PHASES, ScenarioFile

_HEADER = """# File formats

Generated from the file models by `costmodel.schema.export.formats_markdown`; change the models, not this page.

Every file begins with `schema: costmodel/KIND@1`. It may extend one other file with `extends: kind/name`: mappings
merge, lists whose entries have a `name` merge by that name, other lists and values replace. A quantity is text with a
unit (`3.35 TB/s`, `80 GiB`, `400 Gbit/s`); `GB` is 10^9 and `GiB` 2^30 bytes, peaks are dense, bandwidths are one
direction. A reference is `kind/name`, or `./path.yaml` relative to the referring file. Unknown keys are errors.

Some keys have a second name, *alias* below, which files and `--set` accept as well; both at once is an error. Results
and messages use the first name.

Number formats (dtype) are {dtypes}.
"""
_CASES: dict[str, type[Strict]] = {
    "case": EntryFile, "case from a workload: `scenario`": CaseReferenceFile, "table": TableFile,
}  # fmt: skip
_SHARED = {"sources": Source}  # mappings that every file may have: described once


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of file: `device`, `workload`, `case` …"""
    if kind not in FILES:
        raise InputError.single(f"unknown kind of file {kind!r}", hint=suggest(kind, list(FILES)))
    schema = FILES[kind].model_json_schema()
    head = {"schema": {"const": f"costmodel/{kind}@1"}, "extends": {"type": "string"}}
    properties = head | schema["properties"]
    if kind == "workload":
        scenarios, shared = _scenario_schema()
        properties["scenarios"] = {"type": "object", "additionalProperties": scenarios}
        schema["$defs"] = schema.get("$defs", {}) | shared
    # a base may hold any other key, so only the schema line is required
    schema |= {"properties": properties, "required": ["schema"], "title": f"costmodel {kind}"}
    _add_aliases(schema, kind, schema.get("$defs", {}))
    return schema


def _scenario_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    shared: dict[str, Any] = {}
    options = []
    for model in PHASES.values():
        schema = model.model_json_schema()
        shared |= schema.pop("$defs", {})
        if "precision" in schema["properties"]:
            schema["properties"]["precision"] = {"anyOf": [{"type": "string"}, schema["properties"]["precision"]]}
        options.append(schema)
    return {"oneOf": options}, shared


def _add_aliases(schema: Any, mapping: str, definitions: dict[str, Any]) -> None:
    """Add the aliases of a schema's keys, and of the mappings inside it, in place.

    mapping: the key of the schema's mapping.
    definitions: the document's `$defs`.
    """
    if isinstance(schema, list):
        for part in schema:
            _add_aliases(part, mapping, definitions)
        return
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties", {})
    for (parent, alias), key in ALIASES.items():
        if parent == mapping and key in properties and alias not in properties:
            properties[alias] = properties[key]
    for key, part in list(properties.items()):
        _add_aliases(part, key, definitions)
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        if not target.get("properties", {}).keys() & {alias for parent, alias in ALIASES if parent == mapping}:
            _add_aliases(target, mapping, definitions)
    for word in ("anyOf", "oneOf", "items", "additionalProperties"):
        _add_aliases(schema.get(word), mapping, definitions)


LONG = 40  # rows of a mapping that a table shows once


def formats_markdown() -> str:
    """Return the page that describes every kind of file: key, type or unit, default, meaning."""
    sections = [_HEADER.format(dtypes=_type_text(DType, whole=True))]
    sections.extend(f"## {key}\n\n{_summary(model)}\n\n{_table(model)}" for key, model in _SHARED.items())
    for kind, file in FILES.items():
        sections.append(f"## {kind}\n\n{_summary(file)}\n\n{_table(file, kind)}")
        if kind == "workload":
            sections.append(f"### scenario, every phase\n\n{_summary(ScenarioFile)}\n\n{_table(ScenarioFile)}")
            sections.extend(
                f"### scenario, phase {phase}\n\n{_summary(scenario)}\n\n{_table(scenario, base=ScenarioFile)}"
                for phase, scenario in PHASES.items()
            )
        if kind == "case":
            sections.extend(f"### {title}\n\n{_summary(part)}\n\n{_table(part)}" for title, part in _CASES.items())
    return "\n".join(sections)


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").split("\n\n")[0].strip()


def _table(model: type[Strict], kind: str = "", base: type[Strict] = Strict) -> str:
    """Return a row for every field that `model` adds to `base`."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    rows = _rows(model, "", kind, base, shown={})
    lines.extend(f"| `{key}` | {type_text} | {default} | {meaning} |" for key, type_text, default, meaning in rows)
    return "\n".join(lines) + "\n"


def _rows(
    model: type[Strict], prefix: str, mapping: str, base: type[Strict] = Strict,
    above: tuple[type[Strict], ...] = (), *, shown: dict[type[Strict], str],
) -> Iterator[tuple[str, str, str, str]]:  # fmt: skip
    """Yield (key, type, default, meaning) of every field.

    above: mappings whose rows contain these.
    shown: long mappings of the table, each with where its rows are.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in base.model_fields}
    second_names = {(parent, ours): alias for (parent, alias), ours in ALIASES.items()}
    for name, field in fields.items():
        key = field.alias or name
        nested, path = _nested(field.annotation, f"{prefix}{key}")
        alias = second_names.get((mapping, key))
        meaning = f"{field.description or ''}{f'; alias `{alias}`' if alias else ''}"
        yield path, _type(field), _default(field), meaning
        for part in nested if model in _SHARED.values() or name not in _SHARED else ():
            if part in above:
                continue
            if len(nested) > 1:
                tag_key, tag_field = next(iter(part.model_fields.items()))
                tags = " or ".join(f"`{tag_key}: {tag}`" for tag in _literals(tag_field.annotation))
                yield path, f"with {tags}" if tags else "mapping", "", _summary(part)
            if part in shown:
                yield path, "mapping", "", f"keys as those of `{shown[part]}`"
                continue
            rows = list(_rows(part, f"{path}.", key, above=(*above, *nested), shown=shown))
            if len(rows) > LONG:
                shown[part] = path
            yield from rows


def _nested(annotation: Any, key: str) -> tuple[list[type[Strict]], str]:
    """Return the mappings inside a type, and `key` as it is addressed: `key[]` for a list, `key.NAME` for names."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        return _nested(arguments[0], f"{key}[]")
    if origin is dict:
        return _nested(arguments[1], f"{key}.NAME")
    if origin is typing.Annotated:
        return _nested(arguments[0], key)
    if origin in (typing.Union, types.UnionType):
        models = [part for argument in arguments for part in _nested(argument, key)[0]]
        return models, next((path for a in arguments if (path := _nested(a, key)[1]) != key), key)
    is_mapping = isinstance(annotation, type) and issubclass(annotation, Strict)
    return ([annotation] if is_mapping else []), key


def _type(field: FieldInfo) -> str:
    notes = [note.describe() for note in field.metadata if hasattr(note, "describe")]
    text = notes[0] if notes else _type_text(field.annotation)
    optional = type(None) in typing.get_args(field.annotation)
    return f"{text}, or null" if optional else text


def _type_text(annotation: Any, *, whole: bool = False) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation == DType and not whole:
        return "dtype"
    if origin is typing.Literal:
        return ", ".join(f"`{word}`" for word in arguments)
    if origin is typing.Annotated:
        notes = [note.describe() for note in arguments[1:] if hasattr(note, "describe")]
        return notes[0] if notes else _type_text(arguments[0])
    if origin is list:
        return f"list of {_type_text(arguments[0])}"
    if origin is dict:
        return "mapping of names"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_text(member) for member in arguments if member is not type(None)))
    return {str: "text", bool: "true or false", int: "whole number", float: "number"}.get(annotation, "mapping")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "none" if field.default_factory is dict else "as below"
    value = field.default
    if isinstance(value, (list, dict, frozenset)):
        return "none"
    text = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    return "null" if value is None else f"`{text}`"


def _literals(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
