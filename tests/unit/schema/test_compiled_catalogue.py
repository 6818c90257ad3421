"""The compiled catalogue: kept while nothing that an answer rests on has changed, and never wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from small_world import edit, write

from costmodel.api import load
from costmodel.errors import InputError
from costmodel.schema import catalogue
from costmodel.schema.catalogue import DocumentsOfFiles, Question, pack

pytestmark = pytest.mark.usefixtures("kept")

QUESTION = Question("test", ("a", 1), (Path("own"), Path("shipped")))


@pytest.fixture
def kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the catalogue."""
    folder = tmp_path_factory.mktemp("catalogue")
    monkeypatch.setenv(catalogue.VARIABLE, str(folder))
    return folder


def small(world: Path, *earlier: Path) -> DocumentsOfFiles:
    return DocumentsOfFiles("small", None, (*earlier, world), None)


def load_small(world: Path, *earlier: Path) -> bytes:
    """Return all that is known of the small workload, as bytes."""
    return pack(load("small", search_path=(*earlier, world)).resolved.scenarios)


def test_what_was_read_is_kept(world: Path) -> None:
    first = load("small", search_path=[world])
    found = small(world).recall()
    assert found is not None
    assert pack(found.scenarios) == pack(first.resolved.scenarios)
    again = load("small", search_path=[world])
    assert pack(again.resolved.scenarios) == pack(first.resolved.scenarios)
    assert again.resolved.document == first.resolved.document
    path = "scenarios.train.global_batch"
    assert again.resolved.value(path) == 16
    assert again.resolved.origin(path) == first.resolved.origin(path) is not None
    assert again.resolved.origin("hardware.memory.hbm.bandwidth") == first.resolved.origin(
        "hardware.memory.hbm.bandwidth"
    )
    assert again.changed({path: 32}).resolved.value(path) == 32


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "the workload": lambda world, _: edit(world, "workloads/small.yaml", "sequence: 128", "sequence: 256"),
    "its model": lambda world, _: edit(world, "workloads/models/tiny.yaml", "hidden: 64", "hidden: 128"),
    "what its node extends": lambda world, _: edit(world, "hardware/nodes/box.yaml", "count: 4", "count: 8"),
    "a device": lambda world, _: edit(world, "hardware/devices/chip.yaml", "1 TB/s", "2 TB/s"),
    "a device that comes first": lambda world, first: write(
        first, "hardware/devices/chip.yaml",
        (world / "hardware/devices/chip.yaml").read_text().replace("1 TB/s", "3 TB/s"),
    ),
    "a workload that comes first": lambda world, first: write(
        first, "workloads/small.yaml", (world / "workloads/small.yaml").read_text().replace("100", "200")
    ),
    "a file of that name in the working folder": lambda world, _: write(
        world, "small", (world / "workloads/small.yaml").read_text().replace("100", "300")
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(world: Path, tmp_path_factory: pytest.TempPathFactory, change: str) -> None:
    first = tmp_path_factory.mktemp("first")
    before = load_small(world, first)
    assert small(world, first).recall() is not None
    CHANGES[change](world, first)
    assert small(world, first).recall() is None
    after = load_small(world, first)
    assert after != before
    assert small(world, first).recall() is not None


def test_a_file_that_goes_is_missed(world: Path) -> None:
    load_small(world)
    (world / "workloads/models/tiny.yaml").unlink()
    with pytest.raises(InputError, match="models/tiny not found"):
        load_small(world)


def test_a_file_that_is_touched_is_the_same(world: Path) -> None:
    load_small(world)
    (world / "workloads/small.yaml").touch()
    write(world, "hardware/devices/unrelated.yaml", "schema: costmodel/device@1")
    assert small(world).recall() is not None


def test_places_in_files_are_those_of_the_working_folder(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An anchor says where it is stated, relative to the working folder."""
    edit(world, "workloads/small.yaml", "sequence: 128", "sequence: 128\n    anchor: {metric: step_time, value: 1 s}")
    load_small(world)
    assert small(world).recall() is not None
    monkeypatch.chdir(world.parent)
    assert small(world).recall() is None


def test_other_questions_have_other_answers(world: Path) -> None:
    load("small", search_path=[world], scenarios=["decode"])
    assert small(world).recall() is None
    assert DocumentsOfFiles("small", None, (world,), ("decode",)).recall() is not None
    assert DocumentsOfFiles("small", "nodes/box", (world,), ("decode",)).recall() is None


def test_warnings_are_given_every_time(world: Path) -> None:
    edit(world, "hardware/devices/chip.yaml", "plausible: [processors, clock, math, memory]", "plausible: [clock]")
    for _ in range(2):
        with pytest.warns(UserWarning, match="chip"):
            load("small", search_path=[world])


def damage_of(name: str, data: bytes) -> bytes:
    damages = {
        "cut": data[: len(data) // 2], "empty": b"", "longer": data + b"x", "text": b"schema: costmodel/workload@1",
        "a bit": data[:40] + bytes([data[40] ^ 1]) + data[41:],
    }  # fmt: skip
    return damages[name]


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "text", "a bit"])
def test_a_damaged_entry_is_made_again(world: Path, kept: Path, damage: str) -> None:
    before = load_small(world)
    (entry,) = kept.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage_of(damage, whole))
    assert small(world).recall() is None
    assert load_small(world) == before
    assert entry.read_bytes() == whole


def test_an_entry_of_another_question_answers_nothing(kept: Path) -> None:
    other = Question("test", ("b", 2), QUESTION.roots)
    catalogue.keep(other, {}, "other")
    (entry,) = kept.iterdir()
    catalogue.keep(QUESTION, {}, "own")
    (own,) = set(kept.iterdir()) - {entry}
    own.write_bytes(entry.read_bytes())
    assert catalogue.recall(QUESTION) is None


def test_another_program_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue.keep(QUESTION, {}, "own")
    found = catalogue.recall(QUESTION)
    assert found is not None
    assert found.answer == "own"
    catalogue.program.cache_clear()
    monkeypatch.setattr(catalogue, "__version__", "0.0.0")
    assert catalogue.recall(QUESTION) is None
    catalogue.program.cache_clear()


def test_without_a_folder_that_can_be_written_nothing_is_kept(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    before = load_small(world)
    for stated in (str(file / "below"), ""):
        monkeypatch.setenv(catalogue.VARIABLE, stated)
        assert load_small(world) == before
        assert small(world).recall() is None


def test_the_folder_is_that_of_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(catalogue.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert catalogue.folder() == tmp_path / "costmodel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue.folder() == tmp_path / ".cache/costmodel"


def test_what_is_no_data_is_not_kept(kept: Path) -> None:
    catalogue.keep(QUESTION, {}, print)
    assert not list(kept.iterdir())


def test_two_writers_leave_one_whole_entry(kept: Path) -> None:
    answers = ["a" * 100_000, "b" * 100_000]
    writers = [
        threading.Thread(target=lambda answer=answer: [catalogue.keep(QUESTION, {}, answer) for _ in range(30)])
        for answer in answers
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = catalogue.recall(QUESTION)
        assert found is None or found.answer in answers
    found = catalogue.recall(QUESTION)
    assert found is not None
    assert found.answer in answers
    assert len(list(kept.iterdir())) == 1


def test_the_oldest_entries_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MOST", 3)
    questions = [Question("test", (number,), QUESTION.roots) for number in range(5)]
    for question in questions:
        catalogue.keep(question, {}, "answer")
    assert [catalogue.recall(question) is not None for question in questions] == [False, False, True, True, True]


def test_an_entry_that_another_process_deletes_is_none(kept: Path) -> None:
    kept.mkdir(exist_ok=True)
    (kept / "gone.compiled").symlink_to(kept / "nowhere")  # listed, but not there
    catalogue.keep(QUESTION, {}, "answer")
    found = catalogue.recall(QUESTION)
    assert found is not None
    assert found.answer == "answer"
