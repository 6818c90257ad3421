"""Files that are there whole or not at all, and the folder of a study."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from costmodel.errors import InputError, Location
from costmodel.records import fields, is_record
from costmodel.schema.references import FOLDERS
from costmodel.schema.whole_files import reporting_os_errors

if TYPE_CHECKING:
    from costmodel.study.sweep import Sweep

STUDY, POINTS = "study.json", "points"
DIGITS = 16  # of a digest that are kept
_OF_A_RUN = ("version", "form", "parts", "inputs", "digests")  # of its answers; all else of a study is its question


def check_folder(folder: Path, document: Mapping[str, Any]) -> None:
    """Raise InputError unless a study may be written to a folder: it is new, empty, or holds the same study."""
    location = Location(str(folder))
    if not folder.exists():
        if folder.suffix in (".csv", ".parquet", ".json"):
            hint = f"write --output {folder.stem}, whose `{POINTS}` are CSV with COSTMODEL_TABLE=csv"
            raise InputError.single("is the name of a file, and a study is a folder", hint=hint, location=location)
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise InputError.single(f"cannot be made: {above} is not writable", hint="name another", location=location)
        return
    if not folder.is_dir():
        raise InputError.single("is no folder", hint="name one for --output", location=location)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError.single("is not writable", hint="name another folder", location=location)
    with reporting_os_errors(folder):
        content = sorted(name for name in os.listdir(folder) if not name.endswith(".part"))
    if not content or (content == [POINTS] and not any((folder / POINTS).iterdir())):  # it had begun, no more
        return
    if STUDY not in content:
        others = f"{content[0]}, …" if len(content) > 1 else content[0]
        raise InputError.single(f"holds other files: {others}", hint="name a new or an empty folder", location=location)
    if not _same_study(folder / STUDY, document):
        raise InputError.single(
            "holds another study", hint="name another folder, or remove this one first", location=location
        )


def part_path(folder: Path, number: int, form: str) -> Path:
    """Return where a part of the table stands."""
    return folder / POINTS / f"part-{number:05d}.{form}"


def found_form(folder: Path) -> str | None:
    """Return the form of the table that a folder of the same study holds, null where it holds none."""
    study = folder / STUDY
    if not study.exists():
        return None
    from costmodel.schema.results import read_head  # workers load no pydantic

    return read_head(study).form


def digest(data: bytes) -> str:
    """Return the digest by which a part is known."""
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def as_json(document: object) -> bytes:
    """Return a document as a JSON file holds it: the same document gives the same bytes."""
    return (json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def _same_study(path: Path, document: Mapping[str, Any]) -> bool:
    """Tell whether a file asks what `document` asks. Which version answers, and in which form, does not matter."""
    from costmodel.schema.results import read_head, read_json

    read_head(path)  # raises what is wrong with it
    present = read_json(path, "remove the folder, or name another")
    requested = json.loads(as_json(document))
    return {**present, **dict.fromkeys(_OF_A_RUN)} == {**requested, **dict.fromkeys(_OF_A_RUN)}


# ---- A digest of everything that a sweep's answers depend on, so that parts of other inputs are not taken for its own.


def fingerprint(sweep: Sweep) -> str:
    """Return the digest of a sweep's scenarios and of all calibrations on its search path."""
    digest = hashlib.sha256()
    for structure in sweep.structures:
        digest.update(structure.reason.encode())
        if structure.workload is not None:
            for piece in _pieces(structure.workload.scenario(structure.scenario)):
                digest.update(piece)
    for root in sweep.workload.roots:
        folder = root / FOLDERS["calibrations"] / "calibrations"
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:DIGITS]


def _pieces(value: Any) -> Iterator[bytes]:
    """Yield a tree of records, mappings, sets and numbers as bytes, the same in every process."""
    yield f"{type(value).__name__}(".encode()
    if isinstance(value, np.ndarray):
        yield value.tobytes()
    elif is_record(value):
        for name in fields(value):
            yield name.encode()
            yield from _pieces(getattr(value, name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield repr(key).encode()
            yield from _pieces(item)
    elif isinstance(value, frozenset | set):
        yield repr(sorted(map(repr, value))).encode()
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()
    yield b")"
