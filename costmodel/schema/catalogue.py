"""The compiled catalogue: what was read of files, as records, until any file that it rests on is another one.

An entry is a file in the cache folder, named by its question: what was asked for, on which search path, by which
program. It holds what the answer rests on (`inputs`), the answer (`packing`), and a digest of both. One that is damaged
or of another program answers nothing, and is made again. Without a folder that can be written nothing is kept; all that
is lost is time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import source_hash
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from costmodel.errors import InputError
from costmodel.records import MutableRecord, Record, ValueRecord, fields, is_record, replace
from costmodel.schema.inputs import Answers, are_unchanged
from costmodel.schema.references import Library, package_root
from costmodel.schema.resolved import Documents, ResolvedWorkload
from costmodel.schema.tree import Tree
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


# ---- Records as bytes and back: what they hold and no code, so that bytes of any origin can do no harm ---------------
#
# The bytes are a msgpack array of three:
# - classes: module, name and fields of each,
# - leaves: numbers, texts, nulls,
# - nodes: a class or a kind of container, and the places of what it holds among the leaves and the nodes before it.
#
# The last node holds the whole. What was one object is one object again.

_LEAVES = (type(None), bool, int, float, str, bytes)
_PACKAGE = "costmodel."


class UnpackableError(ValueError):
    """What is to be packed holds more than data, or bytes are not those of records of this program."""


def pack(thing: object) -> bytes:
    """Return a thing as bytes; raise UnpackableError where it holds functions or objects of other programs."""
    packer = _Packer()
    packer.add((thing,))
    count = len(packer.leaves)
    nodes = [[kind, *(index if index >= 0 else count + ~index for index in places)] for kind, places in packer.nodes]
    return msgspec.msgpack.encode((list(packer.classes), list(packer.leaves.values()), nodes))


def unpack(data: bytes) -> Any:
    """Return the thing that bytes were made of; raise UnpackableError where its classes are others today."""
    try:
        classes, known, nodes = msgspec.msgpack.decode(data, type=tuple[list[list[str]], list[Any], list[list[int]]])
        makers = (*_CONTAINERS.values(), *(_maker(*each) for each in classes))
        for kind, *places in nodes:
            known.append(makers[kind]([known[index] for index in places]))
        return known[-1][0]
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise UnpackableError(str(error)) from None


class _Packer:
    """Gives every leaf a place from zero on, and every node one from -1 down."""

    def __init__(self) -> None:
        self.classes: dict[tuple[str, ...], int] = {}
        self.leaves: dict[tuple[type, str], Any] = {}
        self.nodes: list[tuple[int, list[int]]] = []
        self._places: dict[tuple[type, str], int] = {}
        self._known: dict[int, tuple[int, Any]] = {}  # objects are kept, so that no other one takes the same number

    def add(self, thing: Any) -> int:
        """Return the number of a thing, which is added unless it is there."""
        if type(thing) in _LEAVES:
            key = (type(thing), repr(thing))  # 1, 1.0 and True are equal, 0.0 and -0.0 as well
            self.leaves.setdefault(key, thing)
            return self._places.setdefault(key, len(self._places))
        if id(thing) not in self._known:
            kind, parts = self._parts(thing)
            self.nodes.append((kind, [self.add(part) for part in parts]))
            self._known[id(thing)] = ~(len(self.nodes) - 1), thing
        return self._known[id(thing)][0]

    def _parts(self, thing: Any) -> tuple[int, Iterable[Any]]:
        """Return the number of a thing's kind, and what it holds."""
        own = type(thing)
        if is_record(thing):
            names = fields(thing)
            index = self.classes.setdefault((own.__module__, own.__qualname__, *names), len(self.classes))
            return len(_CONTAINERS) + index, [getattr(thing, name) for name in names]
        if own is dict:
            return _KINDS[dict], [part for item in thing.items() for part in item]
        if own in (tuple, list, frozenset, set):
            return _KINDS[own], thing
        if isinstance(thing, np.ndarray | np.generic) and thing.dtype.kind in "biuf":
            array = np.asarray(thing)
            order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
            return _KINDS[np.ndarray if own is np.ndarray else np.generic], (
                array.dtype.str, order, array.tobytes(order), *array.shape
            )  # fmt: skip
        raise UnpackableError(f"{own.__module__}.{own.__qualname__} is no data")


def _array(parts: list[Any]) -> Any:
    kind, order, data, *shape = parts
    return np.frombuffer(data, np.dtype(kind)).reshape(shape, order=order).copy(order)


_CONTAINERS: dict[type, Callable[[list[Any]], Any]] = {
    tuple: tuple, list: list, frozenset: frozenset, set: set,
    dict: lambda parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    np.ndarray: _array,
    np.generic: lambda parts: _array(parts)[()],
}  # fmt: skip
_KINDS = {kind: number for number, kind in enumerate(_CONTAINERS)}


def _maker(module: str, name: str, *names: str) -> Callable[[list[Any]], Any]:
    """Return what makes a record of its fields; raise UnpackableError where there is no such class of ours."""
    made = getattr(import_module(module), name) if module.startswith(_PACKAGE) else None
    if not (isinstance(made, type) and issubclass(made, msgspec.Struct) and fields(made) == names):
        raise UnpackableError(f"{module}.{name} has other fields, or is no record of ours")
    return lambda values: made(**dict(zip(names, values, strict=True)))


# ---- A workload from the compiled catalogue, whose files are read when something other than its records is asked for.


class DocumentsOfFiles(MutableRecord, eq=False):
    """The documents of a workload without changes, read when first asked for. The arguments are those of `resolve`."""

    workload: str | Path
    cluster: str | tuple[str, ...] | None
    search_path: tuple[str | Path, ...]
    scenarios: tuple[str, ...] | None
    _read: Documents | None = None

    @property
    def document(self) -> dict[str, Any]:
        """Return the resolved document."""
        return self._documents.document

    @property
    def trees(self) -> dict[str, dict[str, Tree]]:
        """Return the documents as written."""
        return self._documents.trees

    def recall(self) -> ResolvedWorkload | None:
        """Return the workload as the catalogue has it, null where it has none that its files still make."""
        recalled = recall(self._question)
        return None if recalled is None else replace(recalled.answer, documents=self)

    def keep(self, resolved: ResolvedWorkload, rests_on: Answers) -> None:
        """Let the catalogue keep the workload, unless there is something to warn of, at its place in a file."""
        if not resolved.warnings:
            keep(self._question, rests_on, replace(resolved, documents=None))

    @property
    def _question(self) -> Question:
        words = (str(self.workload), self.cluster, self.scenarios)
        return Question("workload", words, Library(self.search_path).roots)

    @property
    def _documents(self) -> Documents:
        if self._read is None:
            from costmodel.schema.resolve import resolve  # YAML and pydantic load where files are read

            resolved = resolve(
                self.workload, cluster=self.cluster, search_path=self.search_path, scenarios=self.scenarios
            )
            self._read = resolved.documents
            assert self._read is not None
        return self._read
