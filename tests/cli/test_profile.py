"""`profile` where nothing can be measured, and other tools' files as tables: what a person is told."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec

import pytest
from few_folds import few_folds  # noqa: F401  for all tests
from ranks import group_of_two
from small_world import FILES, edit, write

HEADER = "#       size         count      type   redop    root     time   algbw   busbw #wrong\n"
RANK = "#  Rank  {0} Group  0 Pid   {0} on  box device  {0} [0000:0{0}:00] CHIP\n"
LINE = "  {size}  {count}  float  sum  -1  {time}  1.0  1.0  0  {time}  1.0  1.0  0\n"


@pytest.fixture
def world(tmp_path, monkeypatch):
    for name, text in FILES.items():
        write(tmp_path, name, text)
    edit(tmp_path, "hardware/devices/chip.yaml", "architecture: test", "architecture: test\naliases: [CHIP]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COSTMODEL_PATH", raising=False)
    return tmp_path


@pytest.mark.core
def test_without_torch_the_install_line_is_told(process, tmp_path):
    hidden = tmp_path / "hidden"
    write(hidden, "sitecustomize.py", "import importlib.util as u\nf = u.find_spec\n"
          "u.find_spec = lambda name, *rest: None if name == 'torch' else f(name, *rest)\n")  # fmt: skip
    path = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])
    done = process("profile", "--output", tmp_path / "mine.csv", PYTHONPATH=path)
    assert done.code == 2
    assert done.err == "profile: torch is not installed; pip install 'costmodel[profile]'\n"
    assert not (tmp_path / "mine.csv").exists()


@pytest.mark.usefixtures("world")
def test_a_wrong_suite_and_a_wrong_output_are_told_before_anything_is_imported(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "costmodel.profiling.kernels", raising=False)  # an earlier test may have it
    assert "no suite `gem`; known: copies, gemm" in run("profile", "--suite", "gem", "--output", "m.csv").err
    assert "m.yaml is no .csv file" in run("profile", "--output", "m.yaml").err
    assert "costmodel.profiling.kernels" not in sys.modules


@pytest.mark.usefixtures("world")
@pytest.mark.skipif(find_spec("torch") is None, reason="ranks are torch's: pip install 'costmodel[profile]'")
def test_messages_of_one_rank_are_refused_with_the_command_that_starts_several(run):
    ran = run("profile", "--device", "cpu", "--suite", "collectives", "--output", "links.csv")
    assert ran.code == 2
    assert "messages need two ranks, this is one" in ran.err
    assert "torchrun --nproc_per_node" in ran.err


LONE_FAILURE = """
import datetime, os
import torch.distributed as dist
from costmodel.errors import InputError
from costmodel.profiling import collectives
collectives._PATIENCE = datetime.timedelta(seconds=15)  # in which two ranks that have started also join
ranks = collectives.Ranks("cpu")
if ranks.rank == 0:
    dist.barrier()  # waits inside the message that the other rank never reaches
try:
    ranks.first_reason("RuntimeError: out of memory")
except InputError as error:
    print(error, flush=True)
    os._exit(2)  # threads of the broken group may abort a process that ends by and by
"""


@pytest.mark.skipif(find_spec("torch") is None, reason="ranks are torch's: pip install 'costmodel[profile]'")
def test_the_failure_of_one_rank_ends_all(tmp_path):
    script = write(tmp_path, "lone.py", LONE_FAILURE)
    waiting, failed = group_of_two([sys.executable, str(script)])
    assert waiting.code not in (0, None)
    assert failed.code == 2
    assert "rank 1 failed where the others wait: RuntimeError: out of memory" in failed.out


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("minutes", ["0", "-1", "soon"])
def test_minutes_are_above_zero(run, minutes):
    assert run("profile", "--minutes", minutes, "--output", "m.csv").code == 2


def test_nccl_tests_are_scored_as_a_table(run, world):
    lines = [LINE.format(size=4 * count, count=count, time=10 + count / 2e4) for count in (2**10, 2**20, 2**24)]
    write(world, "all_reduce_perf.txt", "".join(RANK.format(rank) for rank in range(4)) + HEADER + "".join(lines))
    document = json.loads(run("evaluate", "all_reduce_perf.txt", "--path", world, "--json").out)
    (score,) = document["scores"]
    assert (score["op"], score["rows"]) == ("all_reduce", 3)
    assert run("predict", "all_reduce_perf.txt", "--output", "out.csv", "--path", world).code == 0
    assert (world / "out.csv").read_text().count("\n") == 4


def test_calibrate_takes_a_trace_of_the_device_that_it_is_asked_for(run, world):
    events = []
    for number in range(30):
        m, n = 2 ** (number % 10 + 1), 64 * (number % 3 + 1)
        args = {"External id": number, "Input Dims": [[m, 64], [64, n]], "Input type": ["c10::BFloat16"] * 2}
        dur = 5.0 + m * n / 1e4
        events.append({"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": number, "dur": dur, "args": args})
    write(world, "t.json", json.dumps({"traceEvents": events}))
    done = run("calibrate", "t.json", "--device", "chip", "--output", "mine.yaml", "--path", world, "--json")
    assert done.code == 0, done.err
    (family,) = json.loads(done.out)["families"]
    assert (family["family"], family["rows"]) == ("gemm/bf16", 30)


def test_compare_holds_a_result_against_another_and_against_a_benchmark(run, world):
    write(world, "a.json", run("simulate", "small", "--path", world, "--json").out)
    faster = "hardware.memory.hbm.bandwidth=2 TB/s"
    write(world, "b.json", run("simulate", "small", "--path", world, "--set", faster, "--json").out)
    document = json.loads(run("compare", "a.json", "b.json", "--json").out)
    assert document["schema"] == "costmodel/comparison@1"
    ratios = {(one["scenario"], one["name"]): one["ratio"] for one in document["metrics"]}
    assert ratios["decode", "tpot"] >= 1.0
    assert any(one["scenario"] == "train" for one in document["operators"])
    bench = {"mean_ttft_ms": 5.0, "mean_tpot_ms": 1e-9, "output_throughput": 10.0}
    write(world, "bench.json", json.dumps(bench))
    document = json.loads(run("compare", "a.json", "bench.json", "--scenario", "decode", "--json").out)
    assert {one["name"]: one["inside"] for one in document["metrics"]} == {"tpot": False}
    assert "tpot" in run("compare", "a.json", "bench.json", "--scenario", "decode").out


def test_compare_says_which_side_does_not_fit(run, world):
    tight = ("--set", "hardware.memory.hbm.capacity=1 MB")
    fits, full = (run("simulate", "small", "--path", world, *changes, "--json").out for changes in ((), tight))
    half = json.loads(fits)
    half["scenarios"]["train"] = json.loads(full)["scenarios"]["train"]
    for name, text in (("a.json", fits), ("full.json", full), ("half.json", json.dumps(half))):
        write(world, name, text)
    done = run("compare", "a.json", "full.json")
    assert done.code == 3
    assert "decode of full.json cannot run: does not fit in memory: " in done.err
    document = json.loads(run("compare", "half.json", "a.json", "--json").out)
    assert {one["scenario"] for one in document["metrics"]} == {"decode"}
    assert document["refused"]["train"].startswith("half.json cannot run: does not fit in memory: ")
    assert "train skipped: half.json cannot run: " in run("compare", "half.json", "a.json").out


def test_compare_says_what_it_cannot_compare(run, world):
    write(world, "a.json", run("simulate", "small", "--path", world, "--json").out)
    write(world, "bench.json", '{"mean_ttft_ms": 5.0}')
    assert "write --scenario with one of train, decode" in run("compare", "a.json", "bench.json").err
    assert "no scenario `decod`" in run("compare", "a.json", "bench.json", "--scenario", "decod").err
    done = run("compare", "a.json", "bench.json", "--scenario", "decode")
    assert (done.code, "has no metric in common" in done.err) == (2, True)
    write(world, "cut.json", '{"mean_ttft_ms": 5.0')
    assert run("compare", "a.json", "cut.json", "--scenario", "decode").code == 2
    assert run("compare", "a.json", "none.json").code == 2
