"""The compiled catalogue: what was read of files, as records, until any file that it rests on is another one.

An entry is a file in the cache folder, named by its question: what was asked for, on which search path, by which
program. It holds what the answer rests on (`inputs`), the answer (`packing`), and a digest of both. One that is damaged
or of another program answers nothing, and is made again. Without a folder that can be written nothing is kept; all that
is lost is time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import source_hash
from pathlib import Path
from typing import Any

from costmodel.errors import InputError
from costmodel.records import Record, ValueRecord
from costmodel.schema.inputs import Answers, are_unchanged
from costmodel.schema.packing import UnpackableError, pack, unpack
from costmodel.schema.references import package_root
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.version import __version__

VARIABLE = "COSTMODEL_CACHE"
MOST = 512  # entries that are kept, the newest ones
_ENDING = ".compiled"
_DIGEST = 8  # bytes
_SHIPPED = "<shipped>/"


class Question(ValueRecord):
    """What is asked for. kind: of answer; words: what names it; roots: the search path, the shipped data last."""

    kind: str
    words: tuple[object, ...]
    roots: tuple[Path, ...]

    def text(self, program: str) -> str:
        """Return the question as text. program: that is asked."""
        return repr((program, self.kind, self.words, [os.fspath(root) for root in self.roots[:-1]]))


def folder() -> Path | None:
    """Return the folder of entries: `$COSTMODEL_CACHE`, null where it is blank; else one in the user's cache."""
    stated = os.environ.get(VARIABLE)
    if stated is not None:
        return Path(stated) if stated else None
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "costmodel"


class Kept(Record):
    """An answer to a question, and what it rests on."""

    answer: Any
    rests_on: Answers


def recall(question: Question) -> Kept | None:
    """Return the kept answer to a question, null where none is kept or what it rests on has changed."""
    path = _place(question)
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return _kept(data, question.text(program()))


def keep(question: Question, rests_on: Answers, answer: object) -> None:
    """Keep the answer to a question, which holds data alone, and what it rests on.

    Nothing is kept where the folder cannot be written, or where the answer holds more than data.
    """
    path = _place(question)
    if path is None:
        return
    with suppress(InputError, UnpackableError):
        body = pack((question.text(program()), _moved(rests_on, _root(), _SHIPPED), pack(answer)))
        make_folder(path.parent)
        write_whole(path, [source_hash(body), body])
        for oldest in entries(path.parent)[:-MOST]:
            oldest.unlink(missing_ok=True)


@cache
def program() -> str:
    """Return what tells this program from others: its version, and the sizes and times of its modules."""
    package = Path(__file__).parents[1]
    return f"{__version__} {source_hash(repr(sorted(_modules(package))).encode()).hex()}"


def _modules(folder: Path) -> Iterator[tuple[str, int, int]]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _modules(Path(entry.path))
        elif entry.name.endswith(".py"):
            state = entry.stat()
            yield entry.path, state.st_size, state.st_mtime_ns


def _place(question: Question) -> Path | None:
    """Return the file of the entry of a question."""
    kept = folder()
    return None if kept is None else kept / f"{source_hash(question.text(program()).encode()).hex()}{_ENDING}"


def _kept(data: bytes, asked: str) -> Kept | None:
    """Return the answer of an entry, null where it is damaged, of another question, or rests on what has changed."""
    digest, body = data[:_DIGEST], data[_DIGEST:]
    if source_hash(body) != digest:
        return None
    try:
        question, noted, answer = unpack(body)
        rests_on = _moved(noted, _SHIPPED, _root()) if question == asked else {}
        return Kept(unpack(answer), rests_on) if question == asked and are_unchanged(rests_on) else None
    except UnpackableError:
        return None


def _moved(answers: Answers, before: str, after: str) -> Answers:
    """Return answers with another beginning of the paths that begin so."""
    return {
        (question, f"{after}{path.removeprefix(before)}" if path.startswith(before) else path): answer
        for (question, path), answer in answers.items()
    }


def _root() -> str:
    """Return the beginning of paths of the shipped data, which an entry has as `_SHIPPED`: it holds in any place."""
    return f"{package_root()}{os.sep}"


def entries(kept: Path) -> list[Path]:
    """Return the entries in a folder, the oldest first."""
    by_age: dict[Path, int] = {}
    for path in kept.glob(f"*{_ENDING}"):
        with suppress(FileNotFoundError):  # another process has just deleted it
            by_age[path] = path.stat().st_mtime_ns
    return sorted(by_age, key=lambda path: by_age[path])
