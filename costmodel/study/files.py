"""Files that are there whole or not at all, and the folder of a study."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from costmodel.errors import InputError, Location

STUDY, POINTS = "study.json", "points.csv"


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file beside its place, flush it to the disk, and then give it its name: no reader sees half of it.

    Raises InputError where the disk or the folder does not let it be written; nothing is left then.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _told(path):
        try:
            with aside.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:  # an interrupt, too, leaves nothing half written
            aside.unlink(missing_ok=True)
            raise


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there; raise InputError where it cannot be."""
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_folder(folder: Path, document: Mapping[str, Any]) -> None:
    """Raise InputError unless a study may be written to a folder: it is new, empty, or holds the same study."""
    place = Location(str(folder))
    if not folder.exists():
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise InputError.single(f"cannot be made: {above} is not writable", hint="name another", location=place)
        return
    if not folder.is_dir():
        raise InputError.single("is no folder", hint="name one for --output", location=place)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError.single("is not writable", hint="name another folder", location=place)
    with _told(folder):
        content = sorted(name for name in os.listdir(folder) if not name.endswith(".part"))
    if not content:
        return
    if STUDY not in content:
        others = f"{content[0]}, …" if len(content) > 1 else content[0]
        raise InputError.single(f"holds other files: {others}", hint="name a new or an empty folder", location=place)
    if not _same_study(folder / STUDY, document):
        raise InputError.single(
            "holds another study", hint="name another folder, or remove this one first", location=place
        )


def as_json(document: object) -> bytes:
    """Return a document as a JSON file holds it: the same document gives the same bytes."""
    return (json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def _same_study(path: Path, document: Mapping[str, Any]) -> bool:
    """Tell whether a file asks what `document` asks; which version answers does not matter."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {**found, "version": None} == json.loads(as_json({**document, "version": None}))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what the system does not allow as an error at the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError.single(
            f"cannot be written: {reason}", hint="name another --output, or make room", location=Location(str(path))
        ) from None
