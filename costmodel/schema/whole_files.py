"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from costmodel.errors import InputError, Location


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file without a name, flush it to the disk, and then give it its name: no reader sees half of it.

    A kill in between leaves nothing either, where the system knows files without names (Linux; elsewhere a hidden one
    with `.part` at its end). Raises InputError where the disk or the folder does not let it be written; nothing is left
    then.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with reporting_os_errors(path):
        try:
            with _nameless(aside) as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
                _name(file.fileno(), aside)
            aside.replace(path)
        except BaseException:  # an interrupt, too, leaves nothing half written
            aside.unlink(missing_ok=True)
            raise


def _nameless(aside: Path) -> BinaryIO:
    """Open a file in a folder that has no name yet; `aside`, where the system has none without a name."""
    flag = getattr(os, "O_TMPFILE", 0)
    if flag:
        try:
            return os.fdopen(os.open(aside.parent, flag | os.O_WRONLY, 0o666), "wb")
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise
    return aside.open("wb")


def _name(number: int, aside: Path) -> None:
    """Give an open file a name unless it has one [open(2), O_TMPFILE]."""
    if os.fstat(number).st_nlink:
        return
    root = os.open("/", os.O_RDONLY)  # a folder makes Python follow the link to the file
    try:
        os.link(f"/proc/self/fd/{number}", aside, src_dir_fd=root)
    finally:
        os.close(root)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there; raise InputError where it cannot be."""
    with reporting_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def reporting_os_errors(path: Path) -> Iterator[None]:
    """Tell what the system does not allow as an error at the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError.single(
            f"cannot be written: {reason}", hint="name another one, or make room", location=Location(str(path))
        ) from None
