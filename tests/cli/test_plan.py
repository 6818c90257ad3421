"""`costmodel plan`: requirements in, a deployment out."""

from __future__ import annotations

import json
import shlex

import pytest

import costmodel
from costmodel.cli.plan import command
from costmodel.planning import structures
from costmodel.planning.request import OPTIONS

pytestmark = pytest.mark.usefixtures("small_plans")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ttft", "1s@p42"], "--ttft: '1s@p42' limits no known statistic; write one of mean, p50"),
        (["--ttft", "1"], "--ttft: "),
        (["--rate", "20/s", "--users", "3"], "--users: --rate and --users contradict each other; keep one of them"),
        (["--users", "none"], "--users: 'none' is no number above zero; write a number such as 2000, 10M or 15T"),
        (["--confidence", "150%"], "--confidence: '150%' is no probability; write one such as 90%"),
        (
            ["--set", "scenarios.serving.parallel.tp=2"],
            "--set scenarios.serving.parallel.tp: `plan` takes no other setting of a server than precision, framework",
        ),
        (["--rate", "5", "--isl", "9", "--osl", "9", "--set", "hardware.memory.hbm.bandwidth=2 GB"], "--set hardware"),
        (["--rate", "5", "--isl", "9", "--osl", "9", "--set", "hardware.speed=2"], "--set hardware.speed=2: speed: "),
        (["--budget", "0 $/h"], "--budget: '0 $/h' is not above zero"),
        (["--rate", "5", "--isl", "100", "--osl", "1"], "--osl: 1 is too small; write at least 2"),
        (["--rate", "0"], "--rate: '0/s' is not above zero"),
    ],
)
def test_an_option_that_says_nothing_is_refused(run, arguments, message):
    refused = run("plan", "qwen3-32b", "--cluster", "nodes/dgx-h100", *arguments)
    assert refused.code == 2
    assert refused.err.startswith(message)


@pytest.mark.parametrize("load", [("--rate", "1/s"), ("--train", "--tokens", "1B")])
def test_of_a_model_that_denoises_nothing_is_planned(run, load):
    refused = run("plan", "flux.1-dev", "--cluster", "nodes/h100-x1", *load)
    assert refused.err.startswith(
        "flux.1-dev: makes images or videos, of which nothing is planned; `costmodel simulate"
    )


KEYS = {
    "cluster", "devices", "nodes", "empty", "replicas", "engine", "framework", "precision", "parallel", "prefill",
    "decode", "scheduler", "metrics", "statistics", "intervals", "played", "holds", "probability", "binds", "cost_rate",
    "cost_per_million", "energy_per_million", "units", "why_not_less", "command", "load",
}  # fmt: skip
LOAD = ("--rate", "24/s", "--isl", "1000", "--osl", "100", "--ttft", "1s@p99", "--tpot", "50ms@p99")


def test_a_plan_holds_and_one_replica_fewer_fails(run):
    """The document has the keys of the contract, and its command gives the same deployment."""
    done = run("plan", "llama-3-8b", "--cluster", "nodes/rtx-4090-x1", *LOAD, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert set(document) == {"request", "plans", "left_out", "reachable"}
    best = document["plans"][0]
    assert set(best) == KEYS
    assert best["replicas"] > 1
    assert best["holds"]
    assert best["played"]["ttft_p99"] <= 1.0
    assert best["played"]["tpot_p99"] <= 0.05
    assert best["why_not_less"].startswith(f"{best['replicas'] - 1} replica")
    assert "within its limits" not in best["why_not_less"]
    assert 0.3 < best["probability"] < 1.0
    output = 24.0 * 100.0
    assert best["cost_per_million"]["output"] == pytest.approx(best["cost_rate"] / 3600.0 / output * 1e6, rel=0.05)
    again = json.loads(run(*shlex.split(best["command"])[1:], "--engine", "analytic", "--json").out)
    (scenario,) = again["scenarios"].values()
    assert scenario["devices"] == best["devices"]
    known = best["metrics"]
    assert scenario["metrics"]["highest_stable_rate"] == pytest.approx(known["highest_stable_rate"], rel=1e-6)
    assert known["tpot"] == known["tpot_mean"] <= known["tpot_p99"]
    assert best["statistics"]["tpot"] == "mean of requests played"
    assert known["concurrency"] == pytest.approx(24.0 * known["latency"])
    assert best["statistics"]["concurrency"] == "rate * latency, mean of requests played"
    workload = costmodel.load("llama-3-8b", cluster="nodes/rtx-4090-x1")
    asked = {"rate": "24/s", "isl": 1000, "osl": 100, "ttft": "1s@p99", "tpot": "50ms@p99"}
    assert json.loads(json.dumps(workload.plan(["nodes/rtx-4090-x1"], **asked))) == document


ENTRY = {
    "cluster": "nodes/rtx-4090-x1", "devices": 2, "replicas": 2, "framework": "vllm", "precision": "bf16",
    "parallel": {"tp": 1, "pp": 1}, "metrics": {"tpot": 0.02, "ttft": 0.1}, "cost_rate": 1.0, "holds": True,
    "cost_per_million": {"output": 0.5}, "binds": "TPOT",
}  # fmt: skip


def test_saved_plans_are_compared_and_reported(run, tmp_path):
    paths = [str(tmp_path / name) for name in ("first.json", "second.json")]
    more = {**ENTRY, "devices": 3, "replicas": 3, "cost_rate": 1.5, "metrics": {"tpot": 0.015, "ttft": 0.1}}
    for path, entry in zip(paths, (ENTRY, more), strict=True):
        document = {"request": {"model": "llama-3-8b", "users": 30.0}, "plans": [entry], "left_out": []}
        (tmp_path / path).write_text(json.dumps(document))
    rows = {row["name"]: row for row in json.loads(run("compare", *paths, "--json").out)["plans"]}
    assert {name: row["ratio"] for name, row in rows.items() if row["ratio"] not in (None, 1.0)} == {
        "devices": 1.5, "$/h": 1.5, "TPOT mean": 0.75,
    }  # fmt: skip
    assert rows["layout"] == {"name": "layout", "first": "one device", "second": "one device", "ratio": None}
    printed = {line.split("  ")[0]: line.split()[-1] for line in run("compare", *paths).out.splitlines()}
    assert (printed["TPOT mean"], printed["$/h"], printed["replicas"]) == ("-25%", "+50%", "other")
    assert run("report", paths[0]).out.strip().endswith("report.html")
    page = (tmp_path / "first_report" / "report.html").read_text("utf-8")
    assert "Cost and latency" in page
    assert "users 30" in page


def test_where_nothing_holds_it_says_what_is_reachable(run):
    done = run(
        "plan", "llama-3-8b", "--cluster", "nodes/rtx-4090-x1", "--rate", "2/s", "--isl", "1000", "--osl", "100",
        "--tpot", "1ms", "--ttft", "9s@mean",
    )  # fmt: skip
    header = next(line for line in done.out.splitlines() if line.startswith("engine"))
    assert header.count("mean TTFT") == 1
    assert done.code == 3
    assert done.out.startswith("nothing holds")
    assert "reachable: p99 TPOT " in done.out
    assert "at best (asked: 1 ms)" in done.out
    assert "no number of devices keeps this limit" in done.out


def test_all_that_a_plan_lacks_is_said_at_once_before_any_work(run):
    bare = run("plan", "llama-3-8b", "--cluster", "nodes/rtx-4090-x1", "--cluster", "nodes/rtx-4090-y1")
    assert bare.code == 2
    assert [line.partition(": ")[0] for line in bare.err.splitlines()] == ["--isl and --osl", "--rate", "--cluster"]
    assert "nodes/rtx-4090-x1" in bare.err


def test_a_load_that_the_model_or_a_plan_cannot_have_is_refused_with_the_fix(run, tmp_path):
    (tmp_path / "one.csv").write_text("arrival_s,input_tokens,output_tokens\n0,2000,100\n", "utf-8")
    trace = ("--trace", tmp_path / "one.csv")
    single = run("plan", "llama-3-8b", "--cluster", "nodes/rtx-4090-x1", *trace, "--rate", "5/s")
    assert "has requests of a single moment, which are no load; plan for users of them with --users 20" in single.err
    for load in ((*trace, "--users", "3"), ("--rate", "5/s", "--isl", "2000", "--osl", "100")):
        long = run("plan", "gpt2", "--cluster", "nodes/rtx-4090-x1", *load)
        assert (single.code, long.code) == (2, 2)
        assert "a request of 2,100 tokens is too long: gpt2 has 1,024 positions" in long.err


def test_an_engine_that_is_set_and_another_that_is_emitted_contradict_each_other(run, monkeypatch):
    monkeypatch.setattr(structures, "ENGINES", {"vllm": "vLLM", "sglang": "SGLang"})
    size = ("--isl", "500", "--osl", "20", "--users", "1", "--cluster", "nodes/rtx-4090-x1")
    refused = run("plan", "llama-3-8b", *size, "--set", "scenarios.serving.framework=vllm", "--emit", "sglang")
    assert refused.code == 2
    assert refused.err == ("--set scenarios.serving.framework: vllm contradicts --emit sglang; keep one of them\n")


def test_the_exit_code_says_that_no_model_runs(run):
    none = run("plan", "--cluster", "nodes/rtx-4090-x1", "--isl", "2M", "--osl", "1")
    assert none.code == 3
    assert "runs none of the models" in none.out


def test_of_a_model_that_does_not_fit_its_size_and_the_memory_are_said(run):
    none = run("plan", "deepseek-v3", "--cluster", "nodes/rtx-4090-x1", "--users", "1", "--isl", "100", "--osl", "10")
    assert none.code == 3
    assert "weights alone take at least 624.9 GiB, an engine has at most 24.0 GiB on 1 x 24.0 GiB" in none.out
    assert "engines have 27 devices" in none.out
    long = run("plan", "llama-3-8b", "--cluster", "nodes/rtx-4090-x1", "--users", "1", "--isl", "1M", "--osl", "10")
    assert "BF16: no layout has room for a request of 1,000,010 tokens: weights take at least 15.0 GiB," in long.out


def test_a_training_run_is_planned_in_one_line(run):
    done = run("plan", "mpt-125m", "--train", "--tokens", "2B", "--devices", "1", "--cluster", "nodes/a100-x1")
    assert done.code == 0, done.err
    assert done.out.startswith("1 A100 SXM 80GB: ")
    assert "MFU" in done.out.splitlines()[0]
    assert "sequences of 2,048 tokens a step" in done.out
    assert "in BF16 " not in done.out
    narrow = run("plan", "mpt-1b", "--train", "--tokens", "2B", "--devices", "1", "--cluster", "nodes/h100-x1")
    assert " on 1 device: --set scenarios.training.precision=bf16\n" in narrow.out
    assert "(1.75 GB of weights and optimizer a device, at 32 GB/s to its host)" in done.out
    late = run(
        "plan", "mpt-125m", "--train", "--tokens", "2T", "--days", "1", "--devices", "1", "--cluster", "nodes/a100-x1"
    )
    assert late.code == 3
    assert late.out.startswith("nothing ends in time; the nearest is 1 A100")


def test_requests_a_day_are_those_of_a_second_and_users_never_queue_without_end(run):
    """86,400 a day are one a second; a closed loop without limits needs one replica, however many its users are."""
    size = ("--isl", "500", "--osl", "20", "--json", "--cluster", "nodes/rtx-4090-x1")
    daily = json.loads(run("plan", "Llama-3-8B", *size, "--tpot", "50ms", "--requests-per-day", "86400").out)["plans"]
    per_million = daily[0]["cost_rate"] / 3600.0 / (1.0 * 20.0) * 1e6
    assert daily[0]["cost_per_million"]["output"] == pytest.approx(per_million, rel=1e-6)
    loop = json.loads(run("plan", "llama-3-8b", *size, "--users", "150").out)["plans"][0]
    assert (loop["replicas"], loop["holds"]) == (1, True)
    assert (loop["metrics"]["concurrency"], loop["statistics"]["concurrency"]) == (150.0, "users")


def test_a_plan_of_training_is_started_by_a_script(run):
    arguments = ("--train", "--tokens", "2T", "--devices", "128", "--cluster", "nodes/dgx-h100", "--emit", "megatron")
    done = run("plan", "llama-3-8b", *arguments)
    assert done.code == 0, done.err
    assert "--global-batch-size" in done.out
    assert "pretrain_gpt.py" in done.out


def test_plans_know_every_option_of_the_command() -> None:
    """Those besides are of what is printed, or read as lists of their own."""
    own = {"output", "form", "verbose", "as_json", "devices", "changes"}
    assert {option.name for option in command.params} - own <= set(OPTIONS)
