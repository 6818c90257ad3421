"""`simulate --engine event`, its traces, and what other commands make of them."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal

import pytest
from command_line import stopped

FLAGSHIP = "deepseek_v3"


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    from click.testing import CliRunner

    from costmodel.cli.simulate import command as simulate

    path = tmp_path_factory.mktemp("trace") / "step.json.gz"
    changes = ["--set", "scenarios.training.global_batch=4096"]
    done = CliRunner().invoke(
        simulate, [FLAGSHIP, "--scenario", "training", "--engine", "event", *changes, "--trace", str(path)]
    )
    assert path.exists(), done.output
    return path


def test_the_document_has_the_same_keys(run):
    arguments = ("simulate", FLAGSHIP, "--scenario", "prefill", "--json")
    closed, event = json.loads(run(*arguments).out), json.loads(run(*arguments, "--engine", "event").out)
    assert event["engine"] == "event"
    assert closed.keys() == event.keys()
    assert closed["scenarios"]["prefill"].keys() == event["scenarios"]["prefill"].keys()


def test_a_trace_that_cannot_be_written_is_told(run, tmp_path):
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "trace.json")
    done = run("simulate", FLAGSHIP, "--scenario", "decode", "--engine", "event", "--trace", place)
    assert done.code == 2
    assert "cannot be written" in done.err


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="no unnamed files, which vanish with the process")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_while_it_writes_leaves_nothing(tmp_path, by):
    arguments = ("simulate", FLAGSHIP, "--scenario", "decode", "--engine", "event", "--trace", tmp_path / "t.json.gz")
    done = stopped(*arguments, event="os.link", of="/proc/self/fd", by=by)  # all is written, and has no name yet
    assert done.code == (130 if by is signal.SIGINT else -by)
    assert "Traceback" not in done.err
    assert os.listdir(tmp_path) == []


def test_a_step_that_stands_still_exits_3_and_says_what_waits(run):
    slowdown = "scenarios.training.simulation.slowdowns=[{rank: 3, slows: everything, speed: 0, begin: 1 s}]"
    done = run("simulate", FLAGSHIP, "--scenario", "training", "--engine", "event", "--set", slowdown)
    assert done.code == 3
    assert "rank 3" in done.out + done.err


def test_report_draws_the_timeline_of_a_trace(run, trace, tmp_path):
    done = run("report", str(trace), "--output", str(tmp_path))
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {
        "timeline-training.svg", "timeline-training.png", "timeline-training.csv", "report.html",
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "timeline-training.csv").open()))
    assert len({row["row"] for row in rows}) == 8
    assert {"forward", "forward_backward", "optimizer"} <= {row["kind"] for row in rows}


def test_compare_lays_a_measured_trace_beside_a_prediction(run, trace, tmp_path):
    kernels = [("flash_fwd_kernel", 100.0), ("nvjet_gemm", 50.0), ("m_grouped_gemm_fp8", 30.0), ("vectorized_add", 5.0)]
    events = [
        {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": 1e6 + 200.0 * at, "dur": dur, "args": {}}
        for at, (name, dur) in enumerate(kernels)
    ]
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps({"traceEvents": events}))
    output = tmp_path / "both.json.gz"
    done = run("compare", str(trace), str(measured), "--trace", str(output), "--json")
    assert done.code == 0, done.err
    classes = {one["name"]: one for one in json.loads(done.out)["classes"]}
    assert classes["attention"]["measured"] == pytest.approx(100e-6)
    assert classes["grouped_gemm"]["measured"] == pytest.approx(30e-6)
    assert classes["gemm"]["ratio"] == pytest.approx(classes["gemm"]["predicted"] / 50e-6)
    assert classes["dispatch"]["ratio"] is None
    both = json.loads(gzip.decompress(output.read_bytes()))["traceEvents"]
    names = {event["args"]["name"] for event in both if event["name"] == "process_name"}
    assert "measured: process 0" in names
    assert sum(name.startswith("predicted: ") for name in names) == 8
    assert min(event["ts"] for event in both if event["ph"] == "X" and event["pid"] >= 1 << 16) == 0.0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "is no trace"),
        ('{"traceEvents": []}', "no work of a device"),
        ('{"traceEvents": [{"ph": "X", "cat": "kernel", "ts": "soon", "dur": 1}]}', "is no time"),
        ('{"traceEvents": [', ""),
    ],
)
def test_a_measured_trace_that_is_none_is_told(run, trace, tmp_path, content, told):
    measured = tmp_path / "measured.json"
    measured.write_text(content)
    done = run("compare", str(trace), str(measured), "--trace", str(tmp_path / "both.json"))
    assert done.code == 2
    assert told in done.err
    assert str(measured) in done.err
    assert not (tmp_path / "both.json").exists()


def test_the_page_names_the_engine_and_lists_nothing_that_rounding_made(run):
    done = run("simulate", FLAGSHIP, "--scenario", "training", "--engine", "event")
    assert "event simulation; ( .. ): 80 % interval" in done.out
    assert " ps" not in done.out


def test_what_does_not_fit_has_no_timeline_and_says_so(run, tmp_path):
    full = ("--set", "scenarios.decode.batch_per_device=1280", "--engine", "event", "--trace")
    alone, both = tmp_path / "alone.json", tmp_path / "both.json"
    for form in ((), ("--json",)):
        done = run("simulate", "deepseek_v3", "--scenario", "decode", *full, str(alone), *form)
        assert done.code == 3
        assert f"{alone}: no timeline of decode, which cannot run: does not fit in memory: " in done.err
        assert f"{alone}: not written" in done.err
        assert not alone.exists()
    done = run("simulate", "deepseek_v3", "--scenario", "decode", "--scenario", "prefill", *full, str(both))
    assert (done.code, "not written" in done.err) == (3, False)
    names = {
        each["args"]["name"] for each in json.loads(both.read_text())["traceEvents"] if each["name"] == "process_name"
    }
    assert all(name.startswith("prefill") for name in names)


def test_a_phase_that_is_not_simulated_has_no_timeline_and_says_so(run, tmp_path):
    path = tmp_path / "t.json"
    done = run("simulate", "llama3_8b_rtx4090", "--scenario", "chat", "--engine", "event", "--trace", path)
    assert done.code == 0
    why = "the event engine supports training, prefill, decode and serving only"
    assert f"{path}: no timeline of chat: {why}" in done.err
    assert not path.exists()


def test_requests_that_are_simulated_unasked_may_be_written(run, tmp_path):
    path = tmp_path / "requests.csv"
    given = ("concurrency=null", "rate=4 /s", "output_tokens=24", "requests={count: 30}", "replicas={max_waiting: 8}")
    changes = [word for each in given for word in ("--set", f"scenarios.serving.{each}")]
    arguments = ("simulate", "llama3_8b_rtx4090", "--scenario", "serving", *changes, "--trace", path)
    assert run(*arguments).code == 0
    assert len(path.read_text().splitlines()) == 31
    refused = run(*arguments, "--engine", "analytic")
    assert refused.code == 2
    assert "add --engine event" in refused.err
