"""The residuals of a calibration: a JSON file next to it, read only for the families that are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.cost.residual import Dispersion, Residual
from costmodel.errors import InputError, Location, Problem
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.schema.loader import MAX_BYTES, read_text
from costmodel.schema.references import display_path
from costmodel.schema.whole_files import write_whole

SCHEMA = "costmodel/residuals@1"
DIGITS = 6  # of a stored number: far below what measurements repeat to
_EARLIER = {"scatter": "dispersion", "spans": "bump_lengths"}  # what keys were called before


def write_residuals(path: Path, residuals: Mapping[str, Residual]) -> None:
    """Write the residuals of some families. The same residuals give the same bytes."""
    families = {
        name: {
            "axes": list(residual.axes),
            "lengths": _rounded(residual.lengths),
            "centres": [_rounded(centre) for centre in residual.centres],
            "weights": _rounded(residual.weights),
            **_bump_lengths_document(residual.bump_lengths),
            **_dispersion_document(residual.dispersion),
        }
        for name, residual in residuals.items()
    }
    body = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in families.items())
    write_whole(path, [f'{{"schema": "{SCHEMA}", "families": {{\n{body}\n}}}}\n'.encode()])


def _bump_lengths_document(lengths: Array | None) -> dict[str, Any]:
    return {} if lengths is None else {"bump_lengths": [_rounded(each) for each in lengths]}


def _dispersion_document(dispersion: Dispersion | None) -> dict[str, Any]:
    if dispersion is None:
        return {}
    bumps = dispersion.bumps
    numbers = {"lengths": _rounded(bumps.lengths), "centres": [_rounded(centre) for centre in bumps.centres]}
    (level,) = _rounded([dispersion.level])
    return {"dispersion": {"level": level, **numbers, "weights": _rounded(bumps.weights)}}


def read_residuals(path: Path) -> dict[str, Residual]:
    """Return the residuals of a file. Raises InputError where it is missing or not what it should be."""
    try:
        document = json.loads(read_text(path, display_path(path), MAX_BYTES, missing_hint="fit the calibration again"))
        if document["schema"] != SCHEMA:
            raise _broken(path, f"is not of schema {SCHEMA}")
        return {name: _residual(path, name, value) for name, value in document["families"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, f"is damaged: {error}") from None


def _residual(path: Path, name: str, value: Mapping[str, Any]) -> Residual:
    for before, today in _EARLIER.items():
        if before in value:
            raise _broken(path, f"has `{before}` of {name}, which is now `{today}`")
    bumps, dispersion = _bumps(path, name, value, tuple(map(str, value["axes"]))), value.get("dispersion")
    if dispersion is None:
        return bumps
    level = float(dispersion["level"])
    if not 0.0 < level < np.inf:
        raise _broken(path, f"has a dispersion of {name} whose level {level:g} is not a positive number")
    return replace(bumps, dispersion=Dispersion(_bumps(path, name, dispersion, bumps.axes), level))


def _bumps(path: Path, name: str, value: Mapping[str, Any], axes: tuple[str, ...]) -> Residual:
    lengths, centres, weights = (np.array(value[key], dtype=np.float64) for key in ("lengths", "centres", "weights"))
    if not len(weights):  # one number for all shapes
        centres = centres.reshape(0, len(axes))
    own = np.array(value["bump_lengths"], dtype=np.float64) if "bump_lengths" in value else None
    if own is not None and not (own.shape == centres.shape and bool(((own > 0) & np.isfinite(own)).all())):
        raise _broken(path, f"has bumps of {name} whose own lengths are not a positive number for each axis")
    fits_axes = centres.shape == (len(weights), len(axes)) and lengths.shape == (len(axes),) and (lengths > 0).all()
    if not fits_axes or not (np.isfinite(centres).all() and np.isfinite(weights).all()):
        raise _broken(path, f"has support points of {name} that do not fit its axes")
    return Residual(axes, lengths, centres, weights, bump_lengths=own)


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _broken(path: Path, message: str) -> InputError:
    return InputError([Problem(Location(display_path(path)), "", message, "fit the calibration again")])
