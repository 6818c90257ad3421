from __future__ import annotations

import csv
import json
import os
import re
import resource
import signal
import subprocess

import pytest
from command_line import command, run_here, stopped

FLAGSHIP = "deepseek_v3"
NVLINK = "hardware.links.nvlink.bandwidth"
BATCH = "scenarios.decode.batch_per_device"
RANGE = f"{NVLINK}=200GB/s..900GB/s:8"
POINTS = 600
LARGE = (
    "--vary", "scenarios.decode.precision=bf16,fp8-inference", "--vary", f"{NVLINK}=200GB/s..900GB/s:{POINTS // 2}",
    "--scenario", "decode",
)  # fmt: skip  # 75 kB
SIMULATED = ("--vary", f"{NVLINK}=200GB/s..900GB/s:5", "--scenario", "decode", "--engine", "event")  # two parts: 4 + 1
SMALL = (f"{BATCH}=64,128", "hardware.memory.hbm.capacity=10GB,80GiB")


@pytest.fixture(autouse=True)
def _plain_tables(monkeypatch):
    monkeypatch.setenv("COSTMODEL_TABLE", "csv")


def sweep(*varied):
    return ("sweep", FLAGSHIP, *(word for one in varied for word in ("--vary", one)))


def test_a_sweep_prints_its_axes_range_best_point_and_what_cannot_run(run, tmp_path):
    done = run(*sweep(*SMALL), "--output", tmp_path / "out", "--verbose")
    assert (done.code, done.err) == (0, "")
    best = r"decode: tpot [\d.]+ ms \([\d. ]+ ms\) at best, decode.batch_per_device 64, hbm.capacity 80 GiB; "
    assert re.match(best + r"[\d.]+ ms at worst; 2 of 4 points run\n", done.out)
    assert "deepseek_v3: 4 points" in done.out
    assert "scenarios.decode.batch_per_device: 2 values, 64 .. 128" in done.out
    assert re.search(r"decode +decode.batch_per_device +64\n", done.out)
    assert re.search(r"decode +hbm.capacity +80 GiB\n", done.out)
    assert "2 of 4 points cannot run: does not fit in memory" in done.out
    assert "training: skipped" in done.out
    assert sorted(os.listdir(tmp_path / "out")) == ["points", "study.json"]


def test_json_is_the_study_with_a_summary_and_nothing_else(run, tmp_path):
    done = run("sweep", FLAGSHIP, "--axis", RANGE, "--scenario", "prefill", "--output", tmp_path / "out", "--json")
    document = json.loads(done.out)
    summary = document.pop("summary")
    assert document == json.loads((tmp_path / "out" / "study.json").read_text())
    assert list(summary) == ["prefill"]
    assert summary["prefill"]["fit"] == summary["prefill"]["points"] == 8


@pytest.mark.core
def test_a_row_is_what_simulate_prints_with_the_same_set(run, tmp_path):
    run(*sweep(RANGE), "--set", "hardware.processors=120", "--output", tmp_path / "out")
    with (tmp_path / "out" / "points" / "part-00000.csv").open() as file:
        rows = {(row["scenario"], row[NVLINK]): row for row in csv.DictReader(file)}
    printed = run("simulate", FLAGSHIP, "--set", "hardware.processors=120", "--set", f"{NVLINK}=500 GB/s", "--json")
    for name, scenario in json.loads(printed.out)["scenarios"].items():
        for metric, value in scenario["metrics"].items():
            written = rows[name, "500000000000.0"][metric]
            assert written == "" if value is None else float(written) == pytest.approx(value, rel=1e-9)


def test_a_sweep_in_which_nothing_runs_exits_3_with_its_table(run, tmp_path):
    done = run(*sweep("hardware.memory.hbm.capacity=1GB,2GB"), "--scenario", "decode", "--output", tmp_path / "out")
    assert done.code == 3
    assert (tmp_path / "out" / "points" / "part-00000.csv").read_text().count("does not fit in memory") == 2


def test_a_stand_in_for_a_number_format_is_told(run, tmp_path):
    options = ("--cluster", "nodes/dgx-a100", "--scenario", "decode", "--output", tmp_path / "out")
    done = run(*sweep(f"{BATCH}=8,16"), *options)
    assert "note: a100-sxm-80gb has no FP8 unit" in done.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing varies"),
        (("--vary", "hardware.links.nvlink.bandwith=1GB/s"), "did you mean `bandwidth`?"),
        (("--vary", f"{NVLINK}=200Gb/s,400GB/s"), 'write "200 Gbit/s" or "25 GB/s"'),
        (("--vary", f"{NVLINK}="), "has no values"),
        (("--vary", f"{NVLINK}=nan GB/s"), "is not a finite number"),
        (("--vary", f"{NVLINK}=1GB/s..2GB/s:0"), "is no number of values"),
        (("--vary", "hardware.links.nvlink.latency=0us..1us:3:log"), "has no logarithm"),
        (("--vary", f"{NVLINK}=1GB/s..2GB/s:100001"), "100,000 are the most"),
        (("--vary", f"{NVLINK}=1GB/s..2GB/s:1e6"), "is no number of values"),
        (
            ("--vary", f"{NVLINK}=1GB/s..2GB/s:20000", "--vary", "hardware.memory.hbm.bandwidth=1TB/s..2TB/s:20000"),
            "2,000,000,000 points, 100,000,000 are the most",
        ),
        (("--vary", "scenarios.training.schedule=1f1b,dualpip"), "did you mean"),
        (("--vary", RANGE, "--scenario", "decod"), "did you mean `decode` or"),
        (("--vary", RANGE, "--set", f"{NVLINK}=100GB/s"), "the same field as --set"),
    ],
)
def test_bad_input_is_told_with_its_fix_and_writes_nothing(run, tmp_path, arguments, told):
    done = run("sweep", FLAGSHIP, *arguments, "--output", tmp_path / "out")
    assert done.code == 2
    assert done.out == ""
    assert told in done.err
    assert len(done.err.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_a_sweep_needs_a_folder(run):
    done = run(*sweep(RANGE))
    assert done.code == 2
    assert "--output" in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_told_before_the_work(run, tmp_path):
    tmp_path.chmod(0o500)
    done = run(*sweep(RANGE), "--output", tmp_path / "out")
    tmp_path.chmod(0o700)
    assert done.code == 2
    assert "is not writable" in done.err


def test_a_folder_that_cannot_be_made_is_told(run):
    done = run(*sweep(RANGE), "--output", "/proc/nowhere/out")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "/proc" in done.err


def test_a_full_disk_leaves_whole_parts_only_and_the_sweep_goes_on(run, tmp_path):
    """A limit on the size of files stands for the disk."""
    out = tmp_path / "out"
    started = subprocess.run(
        command("sweep", FLAGSHIP, *LARGE, "--output", out),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert started.returncode == 2
    assert started.stderr.startswith(f"{out / 'points' / 'part-0000'}")
    assert "cannot be written: " in started.stderr
    assert list((out / "points").glob(".*")) == []
    assert run("sweep", FLAGSHIP, *LARGE, "--output", out).code == 0
    assert sum(len(part.splitlines()) - 1 for part in parts_of(out).values()) == POINTS


def parts_of(out):
    """Return the bytes of each part."""
    return {path.name: path.read_bytes() for path in sorted((out / "points").iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what a sweep that nothing stops leaves."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSTMODEL_TABLE", "csv")
        assert run_here("sweep", FLAGSHIP, *SIMULATED, "--output", out).code == 0
    return out


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_goes_on_to_the_same_table(run, whole, tmp_path, by):
    """It is stopped where its second part, which is written, gets its name."""
    out = tmp_path / "out"
    second = os.path.realpath(out / "points" / ".part-00001")
    done = stopped("sweep", FLAGSHIP, *SIMULATED, "--output", out, event="os.rename", of=second, by=by)
    assert "Traceback" not in done.err
    assert done.code == (130 if by is signal.SIGINT else -by)
    if by is signal.SIGINT:
        assert f"interrupted: {out} keeps the finished points; run the same command to resume" in done.err
    first = (out / "points" / "part-00000.csv").stat()
    assert not (out / "points" / "part-00001.csv").exists()
    assert run("sweep", FLAGSHIP, *SIMULATED, "--output", out).code == 0
    assert (out / "points" / "part-00000.csv").stat().st_mtime_ns == first.st_mtime_ns
    assert len(parts_of(out)) == 2
    assert parts_of(out) == parts_of(whole)
    assert (out / "study.json").read_bytes() == (whole / "study.json").read_bytes()


def test_an_interrupt_before_the_work_is_done_leaves_nothing(tmp_path):
    done = stopped("sweep", FLAGSHIP, "--vary", RANGE, "--output", tmp_path / "out")
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err
    assert os.listdir(tmp_path) == []
