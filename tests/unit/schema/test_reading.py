"""What is read is a regular file; what is written replaces files only; what is typed means one thing to all readers."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from costmodel.errors import InputError, MeasurementError, visible
from costmodel.measurements.importing.compressed import read_bytes
from costmodel.schema.loader import parse_tree, read_data
from costmodel.schema.whole_files import write_whole


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, told in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=f"it is {told}, not a regular file"):
            read_data(path, str(path), 100)
        with pytest.raises(MeasurementError, match=f"it is {told}, not a regular file"):
            read_bytes(path, str(path))


def test_names_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, told in ((tmp_path / "loop", "levels of symbolic links"), (tmp_path / ("a" * 300), "name too long")):
        with pytest.raises(InputError, match=told):
            read_data(path, "file", 100)


def test_endless_gzip_members_are_refused(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    (tmp_path / "many.gz").write_bytes((packer.compress(b"") + packer.flush()) * 100_001)
    with pytest.raises(MeasurementError, match="more than 100,000 gzip members"):
        read_bytes(tmp_path / "many.gz", "many.gz")


def test_a_link_keeps_leading_where_it_led_and_a_device_stays(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", [b"after"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"
    write_whole(Path("/dev/null"), [b"nothing"])
    assert Path("/dev/null").is_char_device()
    with pytest.raises(InputError, match="Is a directory"):
        write_whole(tmp_path, [b"x"])


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("010", "write 10,"),
        ("1_000", "write 1000,"),
        ("yes", "write true,"),
        ("Off", "write false,"),
        ("\uff11\uff10", "0 to 9"),
    ],
)
def test_scalars_that_readers_of_yaml_disagree_about_are_errors(text: str, fix: str) -> None:
    with pytest.raises(InputError, match=fix):
        parse_tree(f"key: {text}", "file")
    assert parse_tree(f'key: "{text}"', "file").text("key") == text


def test_control_characters_are_shown_not_sent() -> None:
    assert visible("\x1b[31mred\x07\u202etxt") == r"\x1b[31mred\x07\u202etxt"
    assert visible("µs — ok\tand\nmore") == "µs — ok\tand\nmore"
    error = InputError.single("is \x1b]0;x\x07 odd", hint="\x9b2J")
    assert "\x1b" not in str(error)
    assert "\x9b" not in str(error)
