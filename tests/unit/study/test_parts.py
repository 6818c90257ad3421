"""Structural and linked axes, constraints, and a table in parts that any executor makes and any run goes on with."""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import os
import pickle
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import costmodel
from costmodel.calibration import compiled_fits
from costmodel.errors import InputError
from costmodel.study import chunks
from costmodel.study.chunks import cut
from costmodel.study.executors import Pool, started_pool
from costmodel.study.points import read_sweep, write_sweep
from costmodel.study.sweep import Wanted, plan_sweep
from costmodel.study.tables import Columns, decode, numbers

BATCH, CAPACITY, HBM = (
    "scenarios.decode.batch_per_device",
    "hardware.memory.hbm.capacity",
    "hardware.memory.hbm.bandwidth",
)
EP, DP = "scenarios.decode.parallel.ep", "scenarios.decode.parallel.dp"


@pytest.fixture(scope="module")
def decode_only() -> costmodel.Workload:
    return costmodel.load("deepseek_v3", scenarios=["decode"])


def table(folder: Path) -> Columns:
    parts = [decode(path.read_bytes(), "csv", None) for path in sorted((folder / "points").iterdir())]  # type: ignore[arg-type]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("shape", [(), (3,), (100_000,), (7, 100_000), (50, 60, 70), (3, 1, 5, 9000), (40_000, 2)])
def test_chunks_cover_every_row_once_and_in_order(shape: tuple[int, ...]) -> None:
    runs = cut(shape)
    sizes = [math.prod(map(len, index)) for index in runs]
    assert sum(sizes) == math.prod(shape)
    assert max(sizes) <= chunks.POINTS
    flat = np.arange(math.prod(shape)).reshape(shape)
    seen = [flat[tuple(slice(part.start, part.stop) for part in index)].reshape(-1) for index in runs]
    np.testing.assert_array_equal(np.concatenate(seen), flat.reshape(-1))


def test_structural_axes_are_workloads_of_their_own(decode_only: costmodel.Workload, tmp_path: Path) -> None:
    sweep = plan_sweep(decode_only, (f"{BATCH}=16,32", "scenarios.decode.precision=bf16,fp8-inference"))
    write_sweep(sweep, tmp_path, form="csv")
    found = table(tmp_path)
    assert found["scenarios.decode.precision"].tolist() == ["bf16", "bf16", "fp8-inference", "fp8-inference"]
    for row, precision in enumerate(found["scenarios.decode.precision"].tolist()):
        changes = {BATCH: int(found[BATCH][row]), "scenarios.decode.precision": precision}
        alone = costmodel.load("deepseek_v3", set=changes, scenarios=["decode"]).evaluate("decode")
        assert numbers(found["tpot"])[row] == pytest.approx(alone.metrics["tpot"], rel=1e-9)


def test_a_structure_that_cannot_be_stays_with_its_reason(tmp_path: Path) -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["training"])
    axes = ("scenarios.training.optimizer.zero=1,3", "scenarios.training.schedule=dualpipe,1f1b")
    write_sweep(plan_sweep(workload, axes), tmp_path, form="csv")
    found = table(tmp_path)
    assert len(found["reason"]) == 4
    assert all((found["fits"] == "true") == (found["reason"] == ""))


def test_linked_axes_vary_together(decode_only: costmodel.Workload, tmp_path: Path) -> None:
    write_sweep(plan_sweep(decode_only, (f"{EP}=64,128; {DP}=64,128", f"{BATCH}=16,32")), tmp_path, form="csv")
    found = table(tmp_path)
    assert list(zip(found[EP], found[DP], found[BATCH], strict=True)) == [
        ("64", "64", "16"), ("64", "64", "32"), ("128", "128", "16"), ("128", "128", "32"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="write as many values for each"):
        plan_sweep(decode_only, (f"{EP}=64,128; {DP}=64",))


def test_constraints_and_derived_metrics_are_columns(decode_only: costmodel.Workload, tmp_path: Path) -> None:
    wanted = Wanted({"rate": "1 / tpot", "twice": "2 * rate"}, ("twice >= 40",))
    write_sweep(plan_sweep(decode_only, (f"{BATCH}=63,16,128",), wanted=wanted), tmp_path, form="csv")
    found = table(tmp_path)
    tpot = numbers(found["tpot"])
    np.testing.assert_allclose(numbers(found["twice"])[1:], 2 / tpot[1:], rtol=1e-12)
    assert found["meets"].tolist() == ["false", *("true" if 2 / value >= 40 else "false" for value in tpot[1:])]
    uneven = found["reason"][0]
    assert uneven.startswith("no such layout: micro_batches: 63 requests a device are 63 of a ")
    broken = [uneven, *("" if 2 / value >= 40 else "not twice >= 40" for value in tpot[1:])]
    assert found["reason"].tolist() == broken
    assert found["fits"].tolist() == ["false", "true", "true"]
    for bad in (Wanted({"tpot": "1"}), Wanted({"a b": "1"}), Wanted({"x": "1 / tpto"})):
        with pytest.raises(InputError):
            plan_sweep(decode_only, (f"{BATCH}=16",), wanted=bad)


def test_processes_give_the_same_files(
    decode_only: costmodel.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of requests that are simulated point by point, on an engine each."""
    monkeypatch.setattr(chunks, "POINTS", 8)
    monkeypatch.setattr(chunks, "SIMULATED", 1)
    server = {
        "scenarios.serving.concurrency": None, "scenarios.serving.output_tokens": 8,
        "scenarios.serving.scheduler.max_num_seqs": 16, "scenarios.serving.requests": {"count": 20},
    }  # fmt: skip
    online = costmodel.load("llama3_8b_rtx4090", set=server, scenarios=["serving"])
    closed = plan_sweep(decode_only, (f"{BATCH}=16,32,64,128", f"{HBM}=2TB/s..4TB/s:6"))
    simulated = plan_sweep(online, ("scenarios.serving.rate=2/s,64/s",), engine="event")
    with started_pool(workers=2) as two:
        for name, sweep, parts in (("closed", closed, 4), ("simulated", simulated, 2)):
            here = write_sweep(sweep, tmp_path / name / "here", form="csv")
            there = write_sweep(sweep, tmp_path / name / "there", pool=two, form="csv")
            assert here == there
            assert files(tmp_path / name / "here") == files(tmp_path / name / "there")
            assert len(files(tmp_path / name / "here")) == 1 + parts
    assert np.diff(numbers(table(tmp_path / "simulated" / "here")["ttft"]))[0] > 0


def test_a_worker_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing of the catalogue was compiled before: what the client looked up goes along."""
    monkeypatch.setenv("COSTMODEL_CACHE", str(tmp_path / "cache"))
    compiled_fits._loaded.cache_clear()  # what tests before looked up
    sweep = plan_sweep(costmodel.load("deepseek_v3", scenarios=["decode"]), (f"{BATCH}=16,32",))
    with started_pool(workers=2) as two:
        write_sweep(sweep, tmp_path / "there", pool=two, form="csv")
        assert two.executor is not None
        loaded = {"costmodel.analytic.grid", "yaml", "pydantic"} & set(
            two.executor.submit(eval, "[*__import__('sys').modules]").result()
        )
    assert loaded == {"costmodel.analytic.grid"}


class Elsewhere(Executor):
    """Runs tasks as on a machine that has another folder of the client's name, or none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def submit(self, function: Any, /, *tasks: Any, **_: Any) -> Future[Any]:
        done: Future[Any] = Future()
        desk = function.keywords["desk"]._replace(folder=str(self._folder))
        done.set_result(function.func(*pickle.loads(pickle.dumps(tasks)), desk=desk))
        return done


@pytest.mark.parametrize("has_one", [False, True])
def test_workers_that_do_not_see_the_folder_send_their_parts(
    decode_only: costmodel.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_one: bool
) -> None:
    monkeypatch.setattr(chunks, "POINTS", 8)
    sweep = plan_sweep(decode_only, (f"{BATCH}=16,32,64,128", f"{HBM}=2TB/s..4TB/s:6"))
    write_sweep(sweep, tmp_path / "here", form="csv")
    other = tmp_path / "other"
    if has_one:
        other.mkdir()
        (other / f".desk.{os.getpid()}.part").write_text("that of another client")
    write_sweep(sweep, tmp_path / "there", pool=Pool(Elsewhere(other), 2), form="csv")
    assert files(tmp_path / "here") == files(tmp_path / "there")
    assert len(files(other)) == has_one


def test_only_missing_and_damaged_parts_are_made_again(
    decode_only: costmodel.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "POINTS", 8)
    sweep = plan_sweep(decode_only, (f"{BATCH}=16,32,64,128", f"{HBM}=2TB/s..4TB/s:6"))
    first = write_sweep(sweep, tmp_path, form="csv")
    before = files(tmp_path)
    parts = sorted((tmp_path / "points").iterdir())
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    parts[2].write_text(parts[2].read_text()[:200])
    (tmp_path / "points" / f".part-00001.csv.{2**22 + 1}.part").write_text("half")  # of a process that is gone
    assert write_sweep(sweep, tmp_path, form="csv") == first
    assert files(tmp_path) == before
    assert parts[0].stat().st_mtime_ns == kept


def test_parts_that_other_inputs_gave_are_made_again(tmp_path: Path) -> None:
    asked = (f"{BATCH}=16,32",)
    write_sweep(plan_sweep(costmodel.load("deepseek_v3", scenarios=["decode"]), asked), tmp_path, form="csv")
    study, part = tmp_path / "study.json", tmp_path / "points" / "part-00000.csv"
    whole = part.read_bytes()
    study.write_text(study.read_text().replace('"inputs": "', '"inputs": "0'))
    part.write_bytes(whole.replace(b"0.0", b"1.0"))
    write_sweep(plan_sweep(costmodel.load("deepseek_v3", scenarios=["decode"]), asked), tmp_path, form="csv")
    assert part.read_bytes() == whole
    assert os.listdir(tmp_path / "points") == ["part-00000.csv"]


@pytest.mark.core
def test_a_table_is_parquet_where_polars_is_installed(
    decode_only: costmodel.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COSTMODEL_TABLE", raising=False)
    write_sweep(plan_sweep(decode_only, (f"{BATCH}=16,32",)), tmp_path)
    form = "parquet" if importlib.util.find_spec("polars") else "csv"
    assert os.listdir(tmp_path / "points") == [f"part-00000.{form}"]


def test_parquet_holds_what_csv_does(decode_only: costmodel.Workload, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    sweep = plan_sweep(decode_only, (f"{BATCH}=63,64,512",))
    assert write_sweep(sweep, tmp_path / "p", form="parquet") == write_sweep(sweep, tmp_path / "c", form="csv")
    frame = polars.read_parquet(tmp_path / "p" / "points" / "part-00000.parquet")
    for name, column in table(tmp_path / "c").items():
        assert ["" if value is None else str(value).replace("True", "true").replace("False", "false")
                for value in frame[name].to_list()] == column.tolist()  # fmt: skip


@pytest.mark.core
@pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1:1", "silent"])
def test_a_scheduler_that_does_not_answer_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("costmodel.study.executors.CONNECT", 0.5)
    before = clients()  # closed ones, of other tests
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = address.replace("silent", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match=r"no scheduler answers|needs Dask"), started_pool(scheduler=address):
            pass
    assert clients() <= before  # one that fails is never closed, and its end may wait for ever


def clients() -> set[int]:
    """Return the clients of Dask that there are, by their addresses."""
    distributed = sys.modules.get("distributed")
    return set() if distributed is None else {id(one) for one in gc.get_objects() if type(one) is distributed.Client}


def test_an_embedded_dask_cluster_gives_the_same_files(decode_only: costmodel.Workload, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    sweep = plan_sweep(decode_only, (f"{BATCH}=16,32",))
    write_sweep(sweep, tmp_path / "here")
    with started_pool(scheduler="embedded") as cluster:
        write_sweep(sweep, tmp_path / "there", pool=cluster)
    assert files(tmp_path / "here") == files(tmp_path / "there")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"decode,17.0", b"decode,99.0", 1) + b"")


def swapped(path: Path) -> None:
    other = path.with_name("part-00001.csv")
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


@pytest.mark.parametrize("damage", [cut_short, changed, swapped, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_part_is_never_reported_and_made_again(
    decode_only: costmodel.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(chunks, "POINTS", 4)
    sweep = plan_sweep(decode_only, (f"{BATCH}=16..27:12",))
    write_sweep(sweep, tmp_path, form="csv")
    whole = files(tmp_path)
    assert len([name for name in whole if "part" in name]) == 3
    damage(tmp_path / "points" / "part-00000.csv")
    if files(tmp_path) != whole:
        with pytest.raises(InputError, match=r"changed or swapped|does not exist"):
            read_sweep(tmp_path)
    write_sweep(sweep, tmp_path, form="csv")
    assert files(tmp_path) == whole


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"form": "../../x"}, "form"),
        ({"parts": 0}, "parts"),
        ({"digests": ["x"] * 9}, "9 digests for 1 parts"),
        ({"schema": "costmodel/sweep@9"}, "update costmodel"),
    ],
)
def test_a_study_is_read_through_its_model_before_its_words_become_paths(
    decode_only: costmodel.Workload, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    sweep = plan_sweep(decode_only, (f"{BATCH}=16,32",))
    write_sweep(sweep, tmp_path, form="csv")
    study = tmp_path / "study.json"
    study.write_text(json.dumps(json.loads(study.read_text()) | change))
    for use in (lambda: write_sweep(sweep, tmp_path), lambda: read_sweep(tmp_path)):
        with pytest.raises(InputError, match=told):
            use()
