"""A simulation of requests that stops and goes on: its state as a file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from costmodel.errors import InputError, Location
from costmodel.quantities import Array
from costmodel.schema.loader import read_data
from costmodel.schema.references import display_path
from costmodel.schema.whole_files import write_whole
from costmodel.serving.routing import Service

DIGEST = 32  # bytes of a checkpoint, of all others
_SPARE = 2**20  # bytes of a checkpoint for names and shapes
IDENTITY = "identity"  # name of what distinguishes simulations


def changing(service: Service) -> Iterator[tuple[str, Array]]:
    """Yield every array of a service that a run changes, with a name."""
    yield "requests", np.asarray(service.requests)
    for part in ("engines", "router", "fleet"):
        record = getattr(service, part)
        for name in record._fields:
            if isinstance(getattr(record, name), np.ndarray):
                yield f"{part}.{name}", getattr(record, name)


def identity(service: Service) -> str:
    """Return what tells a simulation from others: its requests, step times and policy, before anything has run."""
    digest = hashlib.sha256()
    parts = [service.requests, *service.paths, *service.calls, *chain(*service.tables)]
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(repr((service.policies, [(name, each.shape) for name, each in changing(service)])).encode())
    return digest.hexdigest()


def save(path: Path, service: Service, mark: str) -> None:
    """Write the state of a service. The file is there whole or not at all. mark: its identity."""
    buffer = io.BytesIO()
    np.savez(buffer, **{IDENTITY: np.array(mark), **dict(changing(service))})  # type: ignore[arg-type]
    data = buffer.getvalue()
    write_whole(path, [hashlib.sha256(data).digest(), data])


def restore(path: Path, service: Service, mark: str) -> None:
    """Give a service the state of a file. Raises InputError where it is damaged, or of another simulation.

    Compiled loops follow its numbers without a look at bounds, so that none counts unless all are as they were written.
    """
    shown, size = display_path(path), sum(array.nbytes for _, array in changing(service))
    content, location = read_data(path, shown, 2 * size + _SPARE), Location(shown)
    digest, data = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        raise InputError.single("is no checkpoint, or was changed", location=location, hint="remove it")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if str(file[IDENTITY]) != mark:
                raise InputError.single(
                    "is of another simulation", location=location, hint="remove it, or name another file"
                )
            for name, array in changing(service):
                array[...] = file[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError.single(f"is no checkpoint: {error}", location=location, hint="remove it") from None


def is_over(service: Service) -> bool:
    """Tell whether no request is to come, and no engine has anything to decide."""
    state = service.router.state
    comes = state["listed"][0] < state["known"][0] or state["calls"][0] > 0
    return not comes and bool(np.isinf(service.engines.state["moment"]).all())
