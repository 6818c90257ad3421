"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from costmodel.errors import InputError, Location


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file beside its place, flush it to the disk, and then give it its name: no reader sees half of it.

    Raises InputError where the disk or the folder does not let it be written; nothing is left then.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with telling(path):
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
    with telling(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Tell what the system does not allow as an error at the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError.single(
            f"cannot be written: {reason}", hint="name another --output, or make room", location=Location(str(path))
        ) from None
