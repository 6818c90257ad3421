"""Files that may be compressed, read up to a limit: a small file must not become a large one in memory."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from costmodel import units
from costmodel.errors import Location, MeasurementError, Problem
from costmodel.reading import open_regular

MOST_BYTES = 256 * 2**20  # decompressed: some hundred steps of a trace, which Python holds at ten times its size
MOST_MEMBERS = 100_000  # of blocks of 64 kB, as bgzip writes them, there are 4,096 in so many bytes
_PART = 2**20  # of what is decompressed at a time
_PIECE = 2**14  # of what is compressed: what follows a member is copied, and many members are short
_GZIP = b"\x1f\x8b"
_WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to say gzip


def read_bytes(path: Path, shown: str, most: int = MOST_BYTES) -> bytes:
    """Return the content of a file, decompressed where it is gzip.

    Raises MeasurementError where it is missing, cannot be read, is truncated, or has more than `most` bytes.
    """
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise problem(shown, "does not exist", "check the path") from None
    except OSError as error:
        raise problem(shown, f"cannot be read: {error.strerror}", "") from None
    if data.startswith(_GZIP):
        return _inflate(data, shown, most)
    if len(data) > most:
        raise _too_large(shown, most)
    return data


def _inflate(data: bytes, shown: str, most: int) -> bytes:
    """Return what gzip members hold, part by part, so that no more than the limit is ever in memory."""
    parts: list[bytes] = []
    size = offset = members = 0
    while data.startswith(_GZIP, offset):
        members += 1
        if members > MOST_MEMBERS:
            raise problem(shown, f"has more than {MOST_MEMBERS:,} gzip members", "compress it again, as one")
        member = zlib.decompressobj(_WINDOW)
        rest = b""
        while not member.eof:
            if not rest:
                rest = data[offset : offset + _PIECE]
                offset += len(rest)
            ended = not rest
            try:
                part = member.decompress(rest, _PART)
            except zlib.error as error:
                raise problem(shown, f"is no valid gzip file: {error}", "copy it again") from None
            rest = member.unconsumed_tail
            size += len(part)
            if size > most:
                raise _too_large(shown, most)
            if ended and not part and not member.eof:
                raise problem(shown, "is cut off: its gzip stream has no end", "copy it again")
            parts.append(part)
        offset -= len(member.unused_data)
    return b"".join(parts)


def parse_json(text: str, shown: str) -> Any:
    """Return the document of a JSON text. Raises MeasurementError at the line and column that is wrong."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        location = Location(shown, error.lineno, error.colno)
        raise MeasurementError(
            [Problem(location, "", f"is no valid JSON: {error.msg}", "complete the file: it may be cut off")]
        ) from None
    except (RecursionError, ValueError) as error:
        raise problem(shown, f"is no readable JSON: {error}", "") from None


def _too_large(shown: str, most: int) -> MeasurementError:
    limit = units.render(most, "size")
    return problem(shown, f"holds more than {limit}", "profile fewer steps, or cut the trace into parts")


def problem(shown: str, message: str, hint: str, *, field: str = "", line: int | None = None) -> MeasurementError:
    """Return an error at a place in a file. shown: its name in messages."""
    return MeasurementError([Problem(Location(shown, line), field, message, hint)])
