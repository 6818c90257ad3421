"""The one gate through which files are opened: regular ones only, so that nothing waits for a pipe or a device.

Whoever reads tables comes by here, so that their cells may be as long as their files.
"""

from __future__ import annotations

import csv
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

csv.field_size_limit(2**26)  # characters of a cell, as many as the largest table has; Python's own is 131,072
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip
_folders: list[str] = []  # the only ones that are read, where a process answers others: blank for all


def confine(folders: Iterable[str | Path]) -> None:
    """Let this process read files in some folders alone, from now on."""
    _folders[:] = [os.path.join(os.path.realpath(folder), "") for folder in folders]


@contextmanager
def confined_to(folder: str | Path) -> Iterator[None]:
    """Read files in one more folder inside, where the process is confined."""
    before = _folders[:]
    if before:
        confine([*before, folder])
    try:
        yield
    finally:
        _folders[:] = before


def open_regular(path: Path) -> BinaryIO:
    """Return a regular file, opened for reading. Links to one are followed.

    Raises OSError whose `strerror` says why not: it does not exist, is a folder, a pipe, a device or a socket, has too
    long a name, is a link that leads to itself, may not be read, or is outside the folders that `confine` names.
    """
    if _folders and not os.path.realpath(path).startswith(tuple(_folders)):
        raise PermissionError(errno.EACCES, "it is outside the catalogue", str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait
    except ValueError as error:  # a null character in the name
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from None
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'no file')}, not a regular file", str(path))
    return os.fdopen(descriptor, "rb")
