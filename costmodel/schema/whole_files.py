"""Files written as a whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from costmodel.errors import InputError, Location

_OF_THE_KERNEL = ("dev", "proc")  # folders whose regular files are what somebody else has open, as `/dev/stdout`


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file atomically: it is flushed to the disk before it gets its name, so no reader sees half of it.

    After a kill nothing is left either, if the system has unnamed files (Linux; elsewhere a hidden one that ends in
    `.part` is left). A link stays: what it leads to is written. Devices and pipes are written to, never replaced.
    Raises InputError if the disk or the folder does not allow it, and then leaves nothing.
    """
    with reporting_os_errors(path):
        if _is_stream(path):
            with path.open("wb") as stream:
                stream.writelines(parts)
            return
        path = Path(os.path.realpath(path))
        temporary = _written_aside(path, parts)
        try:
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_aside(path: Path, parts: Iterable[bytes]) -> Path:
    """Write what a file will hold beside it and flush it to the disk. Return where it is, for `replace` to name.

    Raises InputError as `write_whole` does.
    """
    with reporting_os_errors(path):
        return _written_aside(path, parts)


def _written_aside(path: Path, parts: Iterable[bytes]) -> Path:
    """Return the hidden file that holds some bytes, whole and flushed. An interrupt leaves nothing half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _open_unnamed(temporary) as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            _link(file.fileno(), temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _is_stream(path: Path) -> bool:
    """Tell whether a path is a device or a pipe; raise OSError where it is a folder, or a link that leads to itself."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(mode) or path.absolute().parts[1] in _OF_THE_KERNEL


def _open_unnamed(temporary: Path) -> BinaryIO:
    """Open an unnamed file in the folder of `temporary`. `temporary` itself if the system has no unnamed files."""
    flag = getattr(os, "O_TMPFILE", 0)
    if flag:
        try:
            return os.fdopen(os.open(temporary.parent, flag | os.O_WRONLY, 0o666), "wb")
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise
    return temporary.open("wb")


def _link(descriptor: int, path: Path) -> None:
    """Give an open file a name unless it has one [open(2), O_TMPFILE]."""
    if os.fstat(descriptor).st_nlink:
        return
    root = os.open("/", os.O_RDONLY)  # with a folder given, Python follows the link to the file
    try:
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=root)
    finally:
        os.close(root)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises InputError if that is not possible."""
    with reporting_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def reporting_os_errors(path: Path) -> Iterator[None]:
    """Report an error of the operating system as InputError at the path."""
    try:
        yield
    except OSError as error:
        raise InputError.single(
            f"cannot be written: {error.strerror or error}", hint="choose another path, or free some space",
            location=Location(str(path)),
        ) from None  # fmt: skip
