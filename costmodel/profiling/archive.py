"""What a run has left, as one file to take to another machine."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from costmodel.errors import InputError
from costmodel.schema.whole_files import make_folder, write_whole

_ASIDE = (".json", ".failed.jsonl")


def write_archive(path: Path, table: Path) -> None:
    """Write a table, the files next to it and its device files to a .zip, under their names relative to the table.

    Raises InputError where the name has another ending.
    """
    if path.suffix != ".zip":
        raise InputError.single(f"{path} is no .zip file", hint="name one, such as mine.zip", field="--archive")
    folder = table.with_suffix("")
    files = [table, *(table.with_suffix(suffix) for suffix in _ASIDE), *sorted(folder.rglob("*.yaml"))]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            if file.is_file():
                archive.write(file, file.relative_to(table.parent))
    make_folder(path.parent)
    write_whole(path, [packed.getvalue()])
