"""YAML text to trees: strict typing, places, and one clear error for what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from costmodel.errors import InputError, Location
from costmodel.schema.loader import MAX_BYTES, parse_tree, read_text, read_tree
from costmodel.schema.tree import to_python


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e12", 1e12), ("0x10", 16), ("0o17", 15), ("1.5", 1.5), ("+3", 3), ("~", None), ("null", None),
        ("true", True), ("n", "n"), ("1:30", "1:30"), ("1_a", "1_a"), ("0", 0), ("0.5", 0.5),
        ("'1'", "1"), ('"true"', "true"), ("80 GiB", "80 GiB"), ("4 %", "4 %"), ("2024-01-01", "2024-01-01"),
    ],
)  # fmt: skip
def test_scalars_are_typed_by_the_core_rules_of_yaml_1_2(text: str, value: object) -> None:
    read = to_python(parse_tree(f"key: {text}", "f.yaml"))["key"]
    assert read == value
    assert type(read) is type(value)


def test_every_value_has_its_location() -> None:
    tree = parse_tree("a:\n  - b: 1\n    c: two\n", "f.yaml")
    value = tree.at(("a", 0, "c"))
    assert value is not None
    assert value.location == Location("f.yaml", 2 + 1, 8)
    assert value.key == Location("f.yaml", 2 + 1, 5)


def test_an_alias_repeats_its_anchor() -> None:
    assert to_python(parse_tree("a: &x {b: 1}\nc: *x\n", "f")) == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1", "duplicate key 'a'; keep one; the first is at line 1"),
        ("a:\n\tb: 1\n", "f.yaml:2:1", "indent with spaces, not tabs"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1", "more than one document"),
        ("a: [1, 2\n", "f.yaml:2:1", "is not valid YAML"),
        ("a: {b: 1}}\n", "f.yaml:1:", "is not valid YAML"),
        ("a: &x [*x]\n", "f.yaml:1:4", "a YAML alias refers to itself"),
        ("a: *x\n", "f.yaml:1:4", "define the anchor"),
        ("b: &x {c: 1}\na:\n  <<: *x\n", "f.yaml:3:3", "merge keys"),
        ("a: !!python/object:os.system ls\n", "f.yaml:1:4", "has the tag"),
        ("? [1]\n: 2\n", "f.yaml:1:3", "a key must be one word"),
        ("a: \x07\n", "f.yaml", "remove the invisible characters"),
        ("a: " + "[" * 5000, "f.yaml", "nest"),
    ],
)
def test_unsupported_yaml_is_one_error_with_its_location(text: str, place: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_tree(text, "f.yaml")
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(place)
    assert message in str(caught.value)


def test_yaml_aliases_that_multiply_are_an_error() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    with pytest.raises(InputError, match="expand to more than 10,000 values"):
        parse_tree("\n".join(lines), "f.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- a\n- b\n", "must be a mapping at top level, not a list"),
        (b"just text\n", "must be a mapping at top level, not text"),
        (b"a: \xff\xfe\n", "is not UTF-8 text"),
        ("a: 1\n".encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_mapping_in_utf_8_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_tree(path, "f.yaml")
    assert str(caught.value).startswith("f.yaml")


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="here: is a directory"):
        read_tree(tmp_path, "here")
    with pytest.raises(InputError, match="gone: does not exist"):
        read_tree(tmp_path / "gone.yaml", "gone")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert to_python(read_tree(path, "f.yaml")) == {"a": 1}


def test_a_huge_file_is_refused_with_its_size_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)  # a hole: no disk is used
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("was read"))
    with pytest.raises(InputError) as caught:
        read_tree(path, "huge.yaml")
    (problem,) = caught.value.problems
    assert str(problem.location) == "huge.yaml"
    assert "100 MiB" in problem.message
    assert "16 MiB" in problem.message


def test_a_device_without_a_size_is_not_read() -> None:
    with pytest.raises(InputError) as caught:
        read_text(Path("/dev/zero"), "zero", MAX_BYTES)
    assert "it is a device, not a regular file" in str(caught.value)


def test_a_file_at_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "full.yaml"
    path.write_text("x" * 10, encoding="utf-8")
    assert read_text(path, "full.yaml", 10) == "x" * 10
    with pytest.raises(InputError):
        read_text(path, "full.yaml", 9)


def test_a_mapping_of_more_keys_than_any_real_one_is_refused_where_they_begin() -> None:
    with pytest.raises(InputError, match=r"^big.yaml:2001:1: a mapping has more than 2,000 keys"):
        parse_tree("".join(f"k{number}: 1\n" for number in range(50_000)), "big.yaml")


def test_bytes_of_the_command_line_that_are_no_text_are_refused() -> None:
    with pytest.raises(InputError, match="--set x=: is no text; write it in UTF-8"):
        parse_tree("\udcff", "", label=Location("--set x="))


def test_a_message_that_quotes_a_long_value_shows_its_ends() -> None:
    text = str(InputError.single(f"unknown name {'x' * 200_000}", hint="write another"))
    assert len(text) < 2100
    assert text.startswith("unknown name xxx")
    assert text.endswith("xxx; write another")
