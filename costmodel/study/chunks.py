"""A sweep cut into chunks: each is evaluated by itself, anywhere, and gives the rows of one part of the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import infeasibilities, single, take
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.api import event_engine
from costmodel.cost.calibration import Calibration
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.result import BAD_LAYOUT, FITS, INTERVAL, OVERLOADED, REASONS, Result
from costmodel.schema.whole_files import write_aside
from costmodel.study.executors import Shared
from costmodel.study.expressions import Expression
from costmodel.study.files import digest, part_path
from costmodel.study.tables import Columns, Reader, encode, reader_of
from costmodel.version import __version__
from costmodel.workload.scenario import Scenario

if TYPE_CHECKING:
    from costmodel.study.sweep import Structure, Sweep

POINTS = 32_768  # of one chunk at most: what a kill may lose, and some 100 MB while it is evaluated
SIMULATED = 4  # points of one chunk where each is simulated: some seconds of work
VERDICTS = ("runs", "overloaded", "cannot run")  # of a row
STRUCTURES = 64  # of one chunk at most: each is a workload of some 60 kB

Index: TypeAlias = "tuple[range, ...]"


Given: TypeAlias = "Shared[tuple[Scenario, Calibration]]"  # what a structure is evaluated from


class Piece(Record):
    """A run of rows of one structure. given: null where the structure cannot be, for `reason`.

    axes: the values of the numeric axes, in the dimension that each varies on.
    shape: of the structure's whole grid.
    engine: `analytic`, or `event`, which simulates point after point.
    """

    name: str
    headline: str
    choices: Mapping[str, str]
    given: Given | None
    reason: str
    axes: Mapping[str, tuple[int, Array]]
    shape: tuple[int, ...]
    index: Index
    engine: str = "analytic"

    @property
    def points(self) -> int:
        """Return its rows."""
        return math.prod(len(part) for part in self.index)


class Chunk(Record):
    """What a worker needs to write one part of the table, whole and without a file of its own."""

    number: int
    version: str
    form: str
    columns: tuple[str, ...]
    counts: frozenset[str]
    derived: Mapping[str, Expression]
    constraints: tuple[Expression, ...]
    reader: Reader
    pieces: tuple[Piece, ...]

    @property
    def points(self) -> int:
        """Return its rows."""
        return sum(piece.points for piece in self.pieces)


def cut(shape: tuple[int, ...], most: int = POINTS) -> list[Index]:
    """Return the runs of a grid that chunks of at most so many points are made of, in the order of its rows."""
    whole = len(shape)
    while whole and math.prod(shape[whole - 1 :]) <= most:
        whole -= 1
    inner = tuple(range(size) for size in shape[whole:])
    if not whole:
        return [inner]
    step = max(most // math.prod(shape[whole:]), 1)
    size = shape[whole - 1]
    runs = [range(start, min(start + step, size)) for start in range(0, size, step)]
    return [
        (*(range(at, at + 1) for at in outer), run, *inner) for outer in np.ndindex(*shape[: whole - 1]) for run in runs
    ]


def runs_of(sweep: Sweep) -> list[list[tuple[Structure, Index]]]:
    """Return what each chunk holds."""
    chunks: list[list[tuple[Structure, Index]]] = []
    most = SIMULATED if sweep.engine == "event" else POINTS
    parts, points = cut(sweep.shape, most), most
    for structure in sweep.structures:
        for index in parts:
            size = math.prod(len(part) for part in index)
            if points + size > most or len(chunks[-1]) == STRUCTURES:
                chunks.append([])
                points = 0
            chunks[-1].append((structure, index))
            points += size
    return chunks


class Cutter(Record):
    """Makes the chunks of a sweep: structures are resolved once, when their first chunk is made."""

    sweep: Sweep
    form: str
    runs: Sequence[Sequence[tuple[Structure, Index]]]
    reader: Reader
    _resolved: dict[int, tuple[Given | None, str]]

    def chunk(self, number: int) -> Chunk:
        """Return one chunk."""
        sweep = self.sweep
        axes = {axis.path: (at, axis.values) for at, together in enumerate(sweep.numeric) for axis in together}
        pieces = []
        for structure, index in self.runs[number]:
            given, reason = self._resolve(structure)
            headline = sweep.answers(structure.scenario)[0]
            pieces.append(
                Piece(
                    structure.scenario, headline=headline, choices=structure.choices, given=given,
                    reason=reason, axes=axes, shape=sweep.shape, index=index, engine=sweep.engine,
                )
            )  # fmt: skip
        return Chunk(
            number=number, version=__version__, form=self.form, columns=tuple(sweep.columns()),
            counts=frozenset(axis.path for axis in sweep.axes if axis.whole and not axis.texts), derived=sweep.derived,
            constraints=sweep.constraints, reader=self.reader, pieces=tuple(pieces),
        )  # fmt: skip

    def _resolve(self, structure: Structure) -> tuple[Given | None, str]:
        """Return a structure as the engine takes it, its arrays in place. Or why it cannot be."""
        key = id(structure)
        if key not in self._resolved:
            self._resolved.clear()  # structures come in order
            self._resolved[key] = resolve_structure(self.sweep, structure)
        return self._resolved[key]


def cutter(sweep: Sweep, form: str) -> Cutter:
    """Return what makes the chunks of a sweep."""
    return Cutter(sweep, form, runs_of(sweep), reader_of(sweep), {})


def resolve_structure(sweep: Sweep, structure: Structure) -> tuple[Given | None, str]:
    """Return a structure's scenario, its arrays in place, with its calibration. Or why it cannot be.

    Raises InputError where there are no structural axes: then the axes are to blame.
    """
    if structure.workload is None:
        return None, structure.reason
    try:
        scenario, _ = structure.workload.varied(structure.scenario, sweep.vary())
        calibration = structure.workload.calibration(scenario)
        _look_up_fits(scenario, calibration, sweep.shape)
        return Shared((scenario, calibration)), ""
    except CostModelError as error:
        if not structure.choices:
            raise
        return None, str(error).splitlines()[0]


def _look_up_fits(scenario: Scenario, calibration: Calibration, shape: tuple[int, ...]) -> None:
    """Evaluate one point, so that a calibration that goes to workers knows its fits, and they read no file."""
    with suppress(CostModelError):
        evaluate_point(single(scenario, (0,) * len(shape)), calibration)


class Part(NamedTuple):
    """A part of the table that a worker has made.

    summary: what its `Reader` says.
    aside: the file that holds it, whole and flushed, for the client to name. Null where the worker does not see the
        client's folder, and sends the bytes.
    """

    number: int
    digest: str
    summary: list[dict[str, Any]]
    aside: str | None
    data: bytes | None


class Desk(NamedTuple):
    """Where workers put parts: a folder, and the name and content of a file by which they know that they see it."""

    folder: str
    name: str
    content: str

    @property
    def is_seen(self) -> bool:
        """Tell whether the folder is this one, not one of the same name on another machine."""
        try:
            return Path(self.folder, self.name).read_text() == self.content
        except OSError:
            return False


def make_part(chunk: Chunk, desk: Desk) -> Part:
    """Return a part of the table, written aside where the client's folder is seen.

    Raises RuntimeError where another version of the program asks.
    """
    if chunk.version != __version__:
        raise RuntimeError(f"this worker runs costmodel {__version__}, the sweep {chunk.version}")
    columns = rows(chunk)
    data, summary = encode(columns, chunk.form, chunk.counts), chunk.reader.read(columns)
    if not desk.is_seen:
        return Part(chunk.number, digest(data), summary, None, data)
    path = part_path(Path(desk.folder).parent, chunk.number, chunk.form)
    return Part(chunk.number, digest(data), summary, str(write_aside(path, [data])), None)


def rows(chunk: Chunk) -> Columns:
    """Return the columns of a chunk."""
    parts = [_rows(chunk, piece) for piece in chunk.pieces]
    return {name: np.concatenate([part[name] for part in parts]) for name in chunk.columns}


def _rows(chunk: Chunk, piece: Piece) -> Columns:
    """Return the columns of one piece, all that the table has."""
    names = _names(piece)
    size = piece.points
    blank: Columns = {
        name: np.broadcast_to(np.array(""), (size,)) if name in piece.choices else np.full(size, np.nan)
        for name in chunk.columns
    }
    columns = {**blank, **names}
    if piece.given is None:
        columns |= {"meets": np.zeros(size, dtype=bool)}
    else:
        columns |= _derived_columns(chunk, columns, size)
    return {name: columns[name] for name in chunk.columns}


def _names(piece: Piece) -> dict[str, npt.NDArray[Any]]:
    sizes = tuple(len(part) for part in piece.index)
    columns: dict[str, npt.NDArray[Any]] = {"scenario": np.full(piece.points, piece.name)}
    columns |= {path: np.full(piece.points, text) for path, text in piece.choices.items()}
    places = np.indices(sizes).reshape(len(sizes), piece.points)
    for path, (dimension, values) in piece.axes.items():
        columns[path] = values[places[dimension] + piece.index[dimension].start]
    if piece.given is None:
        verdict, reason = (np.full(piece.points, text) for text in (VERDICTS[2], piece.reason))
        return {**columns, "fits": np.zeros(piece.points, dtype=bool), "verdict": verdict, "reason": reason}
    index = tuple(np.arange(part.start, part.stop) for part in piece.index)
    whole, calibration = piece.given.value
    scenario = take(whole, index, piece.shape)
    result = _evaluated(scenario, calibration, sizes, piece.engine)
    codes = np.broadcast_to(np.asarray(result.reason), sizes).reshape(-1)
    metrics = {name: value for name, value in result.metrics.items() if value is not None}
    ends = result.interval(piece.headline)
    if ends is not None:
        metrics |= {f"{piece.headline}_{end}": value for end, value in zip(INTERVAL, ends, strict=True)}
    columns |= {name: _flat(value, sizes) for name, value in metrics.items()}
    columns["devices"] = _flat(scenario.devices, sizes)
    columns["fits"] = codes == FITS
    reason = np.array(["", *REASONS[1:]])[codes]
    if np.any(codes == BAD_LAYOUT):
        reason = np.where(codes == BAD_LAYOUT, infeasibilities(scenario, sizes).reshape(-1), reason)
    overloaded = columns["fits"] & np.isinf(columns[piece.headline])
    columns["verdict"] = np.where(overloaded, VERDICTS[1], np.where(columns["fits"], VERDICTS[0], VERDICTS[2]))
    columns["reason"] = np.where(overloaded, OVERLOADED, reason)
    for name in metrics:  # those without an end have no steady state
        columns[name] = np.where(np.isinf(columns[name]), np.nan, columns[name])
    return columns


def _evaluated(scenario: Scenario, calibration: Calibration, sizes: tuple[int, ...], engine: str) -> Result:
    if engine == "analytic":
        return evaluate_grid(scenario, calibration, sizes)
    from costmodel.event.evaluation import simulate_grid  # SimPy loads when it is used

    return simulate_grid(scenario, calibration, sizes, event_engine())


def _flat(value: Any, sizes: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=np.float64), sizes)).reshape(-1)


def _derived_columns(chunk: Chunk, columns: Mapping[str, npt.NDArray[Any]], size: int) -> dict[str, npt.NDArray[Any]]:
    """Return derived metrics, and which points meet the constraints. One that is broken is the reason."""
    names = dict(columns)
    for name, formula in chunk.derived.items():
        value = np.broadcast_to(np.asarray(formula.value(names), dtype=np.float64), (size,))
        names[name] = np.where(names["fits"] & np.isfinite(value), value, np.nan)
    added = {name: names[name] for name in chunk.derived}
    if not chunk.constraints:
        return added
    meets, reason = names["fits"], names["reason"]
    for condition in chunk.constraints:
        holds = np.broadcast_to(np.asarray(condition.value(names), dtype=bool), (size,))
        reason = np.where(meets & ~holds, f"not {condition.text}", reason)
        meets = meets & holds
    return {**added, "meets": meets, "reason": reason}
