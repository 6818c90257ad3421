"""What a result rests on outside the program: files that were read or looked for, and folders that were listed.

Each question has an answer: the digest of a file's content, whether there is one, the digest of the names in a folder.
A result whose questions are recorded can be kept until one has another answer: a file that changes, that goes, or that
now comes first on the search path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import source_hash
from pathlib import Path
from typing import TypeAlias

from costmodel.reading import open_regular

Answer: TypeAlias = "bytes | bool | str | None"
Answers: TypeAlias = "dict[tuple[str, str], Answer]"

CONTENT, IS_FILE, EXISTS, NAMES, NAMES_BELOW, FOLDER = "content", "is_file", "exists", "names", "names_below", "folder"
_ENDING = ".yaml"
_open: list[Answers] = []  # that are being recorded


@contextmanager
def recorded(answers: Answers) -> Iterator[None]:
    """Record all questions that are asked inside, with their answers."""
    _open.append(answers)
    try:
        yield
    finally:
        _open.pop()


def record_content(path: Path, content: bytes | None) -> None:
    """Record what was read of a file; null where it could not be read."""
    if _open:
        _record(CONTENT, os.fspath(path), None if content is None else source_hash(content))


def record_folder() -> None:
    """Record the working folder, which paths in a result are relative to."""
    _record(FOLDER, "", os.getcwd())


def is_file(path: Path) -> bool:
    """Tell whether a path leads to a regular file."""
    return bool(_asked(IS_FILE, path))


def exists(path: Path) -> bool:
    """Tell whether a path leads to anything."""
    return bool(_asked(EXISTS, path))


def yaml_names(folder: Path, *, deep: bool) -> set[str]:
    """Return the names of the YAML files in a folder, and in those below it if `deep`."""
    names = set(_yaml_names(os.fspath(folder), deep=deep))
    if _open:
        _record(NAMES_BELOW if deep else NAMES, os.fspath(folder), _digest(names))
    return names


def are_unchanged(answers: Mapping[tuple[str, str], Answer]) -> bool:
    """Tell whether all questions still have these answers."""
    return all(_ANSWERS[question](path) == answer for (question, path), answer in answers.items())


def _asked(question: str, path: Path) -> Answer:
    answer = _ANSWERS[question](os.fspath(path))
    _record(question, os.fspath(path), answer)
    return answer


def _record(question: str, path: str, answer: Answer) -> None:
    for answers in _open:
        answers[question, path] = answer


def _content(path: str) -> bytes | None:
    try:
        with open_regular(Path(path)) as file:
            return source_hash(file.read())
    except OSError:
        return None


def _digest(names: set[str]) -> bytes:
    return source_hash("\n".join(sorted(names)).encode())


def _yaml_names(folder: str, prefix: str = "", *, deep: bool) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # none, or not ours to read
        return
    for entry in entries:
        if deep and entry.is_dir(follow_symlinks=False):
            yield from _yaml_names(entry.path, f"{prefix}{entry.name}/", deep=True)
        elif entry.name.endswith(_ENDING):
            yield prefix + entry.name.removesuffix(_ENDING)


_ANSWERS: dict[str, Callable[[str], Answer]] = {
    CONTENT: _content,
    IS_FILE: os.path.isfile,
    EXISTS: os.path.exists,
    NAMES: lambda folder: _digest(set(_yaml_names(folder, deep=False))),
    NAMES_BELOW: lambda folder: _digest(set(_yaml_names(folder, deep=True))),
    FOLDER: lambda _: os.getcwd(),
}
