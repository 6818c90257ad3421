from __future__ import annotations

import os
import subprocess

import pytest
from command_line import PATIENCE, command, stopped

FLAGSHIP = "deepseek_v3"


def workload(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("simulate", FLAGSHIP, "--scenario", "trainin"), "did you mean `training`?"),
        (("simulate", "deepseek_v33"), "did you mean `deepseek_v3` or"),
        (("simulate", "no/such/file.yaml"), "neither a file nor a known workload"),
        (("simulate", "."), "has no config.json"),
        (("simulate", FLAGSHIP, "--tp", "8"), "it is a setting of a scenario; --set scenarios.NAME.parallel.tp=…"),
        (("simulate", FLAGSHIP, "--set", "scenarios.decode.input_tokens=32k"), "write 32000 or 32768"),
        (("simulate", FLAGSHIP, "--set", "foo"), "must have the form PATH=VALUE"),
        (("simulate", FLAGSHIP, "--set", "=1"), "must have the form PATH=VALUE"),
        (("simulate", FLAGSHIP, "--set", "model.hiden=7168"), "did you mean `hidden`?"),
        (("simulate", FLAGSHIP, "--set", "hardware.processors=1", "--set", "hardware.processors=2"), "is given twice"),
        (("simulate", FLAGSHIP, "--set", "hardware.memory.hbm.bandwidth=4 Gb/s"), "Gbit/s"),
        (("simulate", FLAGSHIP, "--set", "hardware.memory.hbm.bandwidth=4"), "has no unit"),
        (
            ("simulate", FLAGSHIP, "--set", "hardware.memory.hbm.bandwidth=null"),
            "--set hardware.memory.hbm.bandwidth=null: memory.hbm.bandwidth: hbm, the device memory, lacks a bandwidth",
        ),
        (("simulate", FLAGSHIP, "--cluster", "clusters/h800-2048-mpf"), "h800-2048-mpft"),
        (("simulate", FLAGSHIP, "--engine", "events"), "analytic"),
        (("simulate", FLAGSHIP, "--trace", "t.json"), "--engine event"),
        (("simulate", FLAGSHIP, "--set", "scenarios.training.simulation.jitter=-1"), "jitter"),
        (("simulate", FLAGSHIP, "--set", f"model.layers.{'9' * 5000}.repeat=1"), "'; available: 0"),
        (("simulate", FLAGSHIP, "--set", f"scenarios.decode.input_tokens=0{'9' * 5000}"), "9, or quote it"),
        (("search", FLAGSHIP, "--scenario", "decode", "--devices", "\u00b2"), "is not a device count"),
        (("simulate",), "WORKLOAD"),
        (("collective", "all_reduce"), "Missing '--cluster', '--ranks', '--size'"),
        (("simulate", "llama-3-8b", "--gpu", "h100"), "write --cluster nodes/dgx-h100"),
        (("collective", "all_reduce", "--devices", "8"), "write --ranks 8"),
        (("simulate", "--model", "llama-3-8b"), "it is the argument; costmodel simulate llama-3-8b"),
        (("simulate", "llama-3-8b", "nodes/dgx-h100"), "a machine is an option; --cluster nodes/dgx-h100"),
        (("simulate", FLAGSHIP, "--batch", "8"), "--set scenarios.NAME.batch_per_device=…"),
        (("simulate", FLAGSHIP, "--gizmo"), "`costmodel simulate --help` lists all"),
        (("simulate", FLAGSHIP, "--set", "microbatch=2"), "did you mean `scenarios.training.micro_batch`?"),
        (("simulate", FLAGSHIP, "--set", "tp=2"), "did you mean `scenarios.training.parallel.tp`?"),
        (("simulate", FLAGSHIP, "--set", "hardware.nvlink.bandwidth=2x"), "did you mean `links.nvlink`?"),
        (("simulate", FLAGSHIP, "--set", "hardware.memory.bandwidth=2x"), "or `hbm.bandwidth`?"),
        (("simulate", FLAGSHIP, "--set", "hardware.node.nic.bandwidth=1GB/s,2GB/s"), "several values are an axis"),
        (("report", FLAGSHIP), "make it with `costmodel simulate deepseek_v3 --json > deepseek_v3.json`"),
        (("simulat", FLAGSHIP), "did you mean `simulate`?"),
        (("simulate", FLAGSHIP, "--sceario", "decode"), "--scenario"),
        (("explain", FLAGSHIP, "--op", "expert upp"), "did you mean `expert up`"),
        (("explain", FLAGSHIP, "--scenario", "decod"), "did you mean `decode`"),
        (("validate",), "FILES"),
        (("hardware", "show", "h80-sxm"), "`h800-sxm`"),
        (("model", "show", "deepsek-v3"), "`deepseek-v3`"),
        (("reproduce", "ins_t1_v"), "`ins_t1_v3`"),
        (("schema", "workloa"), "`workload`"),
        (("init", "devic"), "`device`"),
        (("collective", "all_reduce", "--ranks", "[" * 5000), "[ … ["),
        (("simulate", FLAGSHIP, "--set", "scenarios.decode.precision=int4"), "did you mean `w4a16`"),
        (("simulate", FLAGSHIP, "--set", "scenarios.decode.precision=fp4"), "did you mean `nvfp4` or `mxfp4`?"),
        (("simulate", FLAGSHIP, "--set", "scenarios.decode.context=9"), "unknown key; write `input_tokens`"),
        (("simulate", FLAGSHIP, "--set", "scenarios.decode.batch=9"), "write `batch_per_device`, remove it, or"),
        (("simulate", FLAGSHIP, "--set", "scenarios.decode.tp=2"), "unknown key; write `parallel.tp`"),
        (("simulate", FLAGSHIP, "--set", "scenarios.decode.kv_cache=fp8"), "write `precision.kv_cache`"),
        (("simulate", FLAGSHIP, "--cluster", "nodes/rtx-490-x1"), "did you mean `nodes/rtx-4090-x1`"),
        (("simulate", FLAGSHIP, "--cluster", "macbook"), "describe it in a file"),
        (("simulate", FLAGSHIP, "--cluster", "nodes/hgx-h900-x2"), "layouts of fewer ranks take a part of a node"),
        (("simulate", "llama-3.1-8b", "--cluster", "nodes/h100-x1", "--anchor", "b.json"), "is a model; write that"),
        (("sweep", FLAGSHIP), "Missing '--output', DIR: Output folder, e.g. `--output runs`."),
        (("sweep", FLAGSHIP, "--vary", "batch=1,2", "--output", "x"), "did you mean `scenarios.training.micro_batch`?"),
        (
            ("sweep", FLAGSHIP, "--vary", "scenarios.decode.input_tokens=1,2", "--output", "x.csv"),
            "write --output x, whose `points` are CSV",
        ),
        (("plan", "qwen3-32b", "--cluster", "nodes/dgx-h100", "--rate", "1/s", "--devices", "2"), "a node file with"),
    ],
)
def test_wrong_usage_is_told_with_its_fix_and_exits_2(run, arguments, told):
    done = run(*arguments)
    assert done.code == 2
    assert len(done.err) < 3000
    assert done.out == ""
    assert told in done.err
    assert "Traceback" not in done.err


def test_every_problem_of_a_file_is_one_line_with_its_place(run, tmp_path):
    file = workload(
        tmp_path,
        "schema: costmodel/workload@1\n"
        "model: models/deepseek-v3\n"
        "scenarios:\n"
        "  one:\n"
        "    phase: decode\n"
        "    cluster: nodes/hgx-h800\n"
        "    batch_per_devic: 128\n"
        "    input_tokens: -1\n",
    )
    done = run("simulate", file)
    assert done.code == 2
    lines = done.err.splitlines()
    assert len(lines) == 2
    assert "bad.yaml:7:5: scenarios.one.batch_per_devic" in lines[0]
    assert "batch_per_device" in lines[0]
    assert "bad.yaml:8:19: scenarios.one.input_tokens" in lines[1]


@pytest.mark.parametrize(
    "text",
    [
        "schema: costmodel/workload@1\nscenarios:\n  a: {phase: dec",
        "",
        "- a list",
        "schema: costmodel/workload@1\nmodel: models/deepseek-v3\nmodel: models/llama-3-8b\n",
    ],
)
def test_a_broken_file_is_told_by_name(run, tmp_path, text):
    done = run("simulate", workload(tmp_path, text))
    assert done.code == 2
    assert "bad.yaml" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_degree_that_does_not_divide_is_bad_input(run):
    done = run("simulate", FLAGSHIP, "--set", "scenarios.decode.parallel.ep=100", "--json")
    assert done.code == 2
    assert done.out == ""
    assert "scenarios.decode.parallel" in done.err


def test_a_reader_that_closes_its_pipe_is_no_error():
    for arguments in (("schema", "workload"), ("simulate", FLAGSHIP)):
        started = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert (started.wait(timeout=PATIENCE), started.stderr.read()) == (0, "")
        started.stderr.close()


def test_an_interrupt_exits_130_quietly():
    done = stopped("simulate", FLAGSHIP)
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err


CRASH = """
import sys, types, click
from costmodel.cli import main
module = types.ModuleType("costmodel.cli.crash")
@click.command()
def command():
    {}["missing"]
module.command = command
sys.modules["costmodel.cli.crash"] = module
main.COMMANDS["crash"] = "Fail."
sys.argv = ["costmodel", "crash"]
main.main()
"""


def crash(python, **environment):
    return subprocess.run(
        [python, "-c", CRASH], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_our_own_bug_is_one_line_with_a_way_to_the_traceback():
    import sys

    quiet, loud = crash(sys.executable), crash(sys.executable, COSTMODEL_DEBUG="1")
    assert quiet.returncode == loud.returncode == 1
    assert "This is a bug in costmodel: KeyError" in quiet.stderr
    assert "COSTMODEL_DEBUG=1" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_a_file_of_100_mb_is_refused_with_its_size(run, tmp_path):
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(100 * 10**6)
    for arguments in (("simulate", path), ("validate", path)):
        done = run(*arguments)
        assert done.code == 2
        assert "file too large: 100 MB; the limit is 16 MiB" in done.out + done.err


def test_an_error_that_all_scenarios_share_is_told_once(run):
    done = run("simulate", "deepseek_v3", "--cluster", "nodes/hgx-h80")
    assert done.code == 2
    assert done.err.count("unknown cluster or node") == 1
    assert "did you mean `nodes/hgx-h800`" in done.err


def test_degrees_that_mean_nothing_are_refused(run):
    done = run("simulate", "gpt3_175b_a100", "--set", "scenarios.full.parallel.ep=8")
    assert (done.code, done.out) == (2, "")
    assert "gpt3-175b has no experts to spread over 8 ranks" in done.err
    done = run("simulate", "gpt3_175b_a100", "--set", "scenarios.full.parallel.tp=3")
    assert (done.code, done.out) == (2, "")
    assert "groups of 3 ranks cut across nodes of 8 devices" in done.err


def test_a_vocabulary_that_tp_does_not_divide_is_noted(run):
    done = run("simulate", "gpt3_175b_a100", "--scenario", "full", "--set", "model.vocabulary=51201")
    assert done.code == 0
    assert "a vocabulary of 51,201 does not divide over tp = 8" in done.out


def test_a_problem_of_a_file_that_two_others_name_is_told_once(run, tmp_path):
    folder = tmp_path / "hardware"
    (folder / "devices").mkdir(parents=True)
    (folder / "nodes").mkdir()
    device, node = folder / "devices" / "mine.yaml", folder / "nodes" / "box.yaml"
    device.write_text("schema: costmodel/device@1\nextends: devices/h100-sxm\nname: mine\npower: {tdp: 600}\n")
    node.write_text("schema: costmodel/node@1\nextends: nodes/dgx-h100\nname: box\ndevice: devices/mine\n")
    done = run("validate", device, node, "--path", tmp_path)
    assert done.code == 2
    assert done.out.count("power.tdp: 600 has no unit") == 1


def test_a_result_is_no_model(run, tmp_path):
    (tmp_path / "r.json").write_text('{"schema": "costmodel/result@1", "scenarios": {"a": {}}}', encoding="utf-8")
    done = run("simulate", tmp_path / "r.json", "--cluster", "nodes/h100-x1")
    assert (done.code, done.out) == (2, "")
    assert "is a plan or a result, no model; `costmodel compare` reads it" in done.err


def test_the_command_alone_prints_its_help_as_it_is(run):
    done = run()
    assert "Error" not in done.out + done.err
    assert "Commands:" in done.out + done.err
    assert "…" not in done.out + done.err
