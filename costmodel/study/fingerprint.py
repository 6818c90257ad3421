"""A digest of everything that a sweep's answers depend on, so that parts of other inputs are not taken for its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from costmodel.records import fields, is_record
from costmodel.schema.references import FOLDERS
from costmodel.study.files import DIGITS
from costmodel.study.sweep import Sweep


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
