"""Commands and manifests that start a plan: engines know their options, and reading them gives the plan back."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import manifest_schema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from costmodel.api import load
from costmodel.errors import InputError
from costmodel.planning.launch import FORMATS, TRAINERS, emit
from costmodel.planning.launch.answers import answer
from costmodel.planning.launch.deployment import Deployment, Pool
from costmodel.planning.launch.layouts import devices_of
from costmodel.planning.launch.manifests import compose, kubernetes
from costmodel.planning.launch.options import Option
from costmodel.planning.launch.reading import Launched, read_launch
from costmodel.planning.launch.scripts import HEADLINE, can_start, script
from costmodel.planning.request import PlanRequest
from costmodel.records import replace
from costmodel.schema.files import load_cluster

DATA = Path(__file__).resolve().parents[2] / "data" / "launch_options.yaml"
REQUEST = {"model": "deepseek-v3", "isl": 2000, "osl": 500, "rate": 20.0}
WIDE = {  # engines of two nodes
    "cluster": "nodes/dgx-h100", "replicas": 4, "framework": "sglang", "precision": "fp8-inference",
    "parallel": {"tp": 1, "dp": 16, "ep": 16}, "prefill": None, "decode": None, "memory": {"utilization": 0.9},
    "scheduler": {"max_num_seqs": 256, "token_budget": 8192, "async": False},
    "speculative": {"depth": 3, "acceptance": 0.8},
}  # fmt: skip
POOLS = {  # prompts on other engines than answers, two or more to a node
    "cluster": "nodes/dgx-h100", "framework": "vllm", "precision": "fp8-tensor", "parallel": {"tp": 2},
    "prefill": {"replicas": 2, "parallel": {"tp": 4}}, "decode": {"replicas": 6, "cluster": "nodes/mi300x-x8"},
}  # fmt: skip
TRAINED = {"model": "llama-3-70b", "train": True, "tokens": 15e12}
RUN = {
    "cluster": "nodes/dgx-h100", "devices": 512, "framework": "megatron", "precision": "bf16", "micro_batch": 1,
    "parallel": {"tp": 8, "pp": 4, "dp": 16}, "global_batch": 1024, "sequence": 8192, "recompute": "full",
    "zero": 1, "optimizer": {"overlap": True},
}  # fmt: skip
SERVED = [form for form in FORMATS if form not in TRAINERS]
SHELL = [form for form in FORMATS if form not in ("k8s", "compose")]


@cache
def emitted(form: str, entry: str) -> str:
    request = TRAINED if entry == "RUN" else REQUEST
    return emit(form, request, {"WIDE": WIDE, "POOLS": POOLS, "RUN": RUN}[entry])


def entries(form: str) -> list[str]:
    return ["RUN"] if form in TRAINERS else ["WIDE", "POOLS"]


CASES = [(form, entry) for form in FORMATS for entry in entries(form)]


def commands(text: str) -> list[list[str]]:
    """Return the commands of a script or of the scripts inside a manifest, without what a shell replaces."""
    joined = re.sub(r"\\\n\s*", " ", text).replace('"${headless[@]}"', "")
    plain = [re.sub(r'"\$[^"]*"', "0", line).rstrip(" &") for line in joined.splitlines()]
    return [
        shlex.split(line) for line in plain if "--" in line and not line.lstrip().startswith(("#", "headless", "["))
    ]


@pytest.mark.parametrize(("form", "entry"), CASES)
def test_every_option_is_one_that_the_program_knows(form: str, entry: str) -> None:
    table = {name: set(row["options"].split()) for name, row in yaml.safe_load(DATA.read_text("utf-8")).items()}
    table["dynamo.vllm"] |= table["vllm serve"]
    table["dynamo.sglang"] = table["sglang.launch_server"]
    checked = 0
    for words in commands(emitted(form, entry)):
        line = " ".join(words)
        name = next((name for name in sorted(table, key=len, reverse=True) if name in line), None)
        if name is None:
            continue
        behind = words[words.index(name.split()[-1]) :]
        options = {word.partition("=")[0] for word in behind if word.startswith("--")}
        unknown = {
            word for word in options if word not in table[name] and word.replace("--no-", "--", 1) not in table[name]
        }
        assert not unknown, f"{name} does not know {unknown}"
        checked += 1
    assert checked


@pytest.mark.parametrize(
    ("form", "entry", "rate"), [("vllm", "WIDE", "5"), ("vllm", "POOLS", "20"), ("dynamo", "WIDE", "20")]
)
def test_a_benchmark_has_the_load_of_what_it_goes_to(form: str, entry: str, rate: str) -> None:
    """One of four engines, or what deals out requests to all."""
    text = emitted(form, entry)
    assert re.search(rf"--request-rate {rate}\s", text)
    assert ("goes to a router in front of both pools" in text) == (form == "vllm" and entry == "POOLS")


def test_a_benchmark_is_of_a_client_that_the_server_answers_with_the_statistics_of_the_limits() -> None:
    """SGLang's own client prints no 95th percentile; drafts of random tokens are not accepted."""
    limits = {"ttft": "1 s@p95", "tpot": "50 ms@p99"}
    plain = {**WIDE, "speculative": None}
    text = emit("sglang", {**REQUEST, **limits}, plain)
    assert "vllm bench serve \\\n    --backend openai \\\n    --endpoint /v1/completions" in text
    assert "--metric-percentiles 95,99 " in text
    assert "sglang.bench_serving \\\n    --backend sglang" in emit("sglang", REQUEST, plain)
    assert "--backend openai" in emit("trt-llm", REQUEST, plain)
    assert "--backend vllm" in emit("vllm", REQUEST, plain)
    drafted = emit("vllm", REQUEST, WIDE)
    assert "--dataset-name custom" in drafted
    assert "--random-input-len" not in drafted
    assert "of random tokens no draft is kept" in drafted


def test_the_longest_request_of_a_trace_fits_and_its_means_are_benchmarked() -> None:
    load = {"isl": 1000.0, "osl": 200.0, "rate": 8.0, "longest": 9000.0}
    text = emit("vllm", {"model": "deepseek-v3", "trace": "some.csv"}, {**WIDE, "speculative": None, "load": load})
    assert "--max-model-len 9216 " in text
    assert "--random-input-len 1000 " in text
    assert "--request-rate 2 " in text
    assert "its bursts and longest requests are not sent" in text


def test_tensorrt_llm_cuts_prompts_that_no_step_has_room_for(tmp_path: Path) -> None:
    """It refuses them otherwise; the option is none of a scenario."""
    path, entry = tmp_path / "serve.sh", {**WIDE, "framework": "trt-llm", "speculative": None}
    for tokens, cuts in ((6000, False), (9000, True)):
        texts = [emit(form, {**REQUEST, "isl": tokens}, entry) for form in ("trt-llm", "dynamo")]
        assert ["--enable_chunked_prefill" in texts[0], "enable_chunked_prefill: true" in texts[1]] == [cuts, cuts]
        path.write_text(texts[0], "utf-8")
        assert not any("chunked" in key for key in answer(read_launch(str(path)), PlanRequest()).changes)


def test_a_script_says_what_is_predicted_and_whether_the_limits_hold() -> None:
    predicted = {"metrics": {"ttft_p99": 0.21, "tpot_p99": 0.0331}, "cost_rate": 27.92}
    line = "# Predicted: ttft_p99 210 ms, tpot_p99 33.1 ms, 27.92 $/h"
    for holds, end in ((True, ""), (None, ""), (False, "; the limits do NOT hold")):
        assert f"{line}{end}\n" in emit("sglang", REQUEST, {**WIDE, **predicted, "holds": holds})
    assert "Predicted" not in emit("sglang", REQUEST, WIDE)


@pytest.mark.parametrize("form", SHELL)
def test_a_script_is_one_that_bash_reads(form: str) -> None:
    for entry in entries(form):
        subprocess.run(["bash", "-n"], input=emitted(form, entry), text=True, check=True, timeout=20)


def settings(read: Launched, role: str) -> dict[str, Any]:
    found = read.of(role)
    return {path: value for path, value in found.items() if path != "context"}


@pytest.mark.parametrize(("form", "entry"), [case for case in CASES if case[0] in SHELL])
def test_reading_a_script_gives_the_plan_back(form: str, entry: str, tmp_path: Path) -> None:
    plan = {"WIDE": WIDE, "POOLS": POOLS, "RUN": RUN}[entry]
    path = tmp_path / "launch.sh"
    path.write_text(emitted(form, entry), "utf-8")
    read = read_launch(str(path))
    assert not read.notes
    for role in read.settings:
        part = {**plan, **(plan.get(role) or {})}
        found = settings(read, role)
        assert found["cluster"] == part["cluster"]
        assert found["precision.compute"] == plan["precision"]
        for name in ("parallel", "scheduler", "speculative", "memory", "optimizer"):
            for key, value in (part.get(name) or {}).items():
                assert found[f"{name}.{key}"] == value
        if entry == "RUN":
            assert found["optimizer.zero"] == plan["zero"]
        else:
            assert (found["input_tokens"], found["output_tokens"], found["rate"]) == (2000, 500, "20 /s")
            assert found["replicas.count"] == part["replicas"]
    assert set(read.settings) == (
        {"train"} if entry == "RUN" else {"prefill", "decode"} if entry == "POOLS" else {"serve"}
    )


@given(
    form=st.sampled_from(["vllm", "sglang", "trt-llm"]),
    degrees=st.fixed_dictionaries({name: st.sampled_from([1, 2, 4]) for name in ("tp", "pp", "dp", "ep", "cp")}),
    precision=st.sampled_from(["bf16", "fp16", "fp8-tensor", "nvfp4", "w4a16", "int8", "fp8-kv", None]),
    others=st.fixed_dictionaries(
        {}, optional={
            "scheduler.max_num_seqs": st.integers(1, 4096), "scheduler.async": st.booleans(),
            "memory.utilization": st.sampled_from([0.5, 0.9]), "memory.block": st.sampled_from([16, 32]),
            "scheduler.policy": st.sampled_from(["fcfs", "priority", "lpm"]), "memory.blocks": st.integers(1, 9999),
            "precision.kv_cache": st.just("fp8"), "speculative.depth": st.integers(1, 5),
        },
    ),
)  # fmt: skip
def test_settings_survive_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory,
    form: str,
    degrees: dict[str, int],
    precision: str | None,
    others: dict[str, Any],
) -> None:
    stated = {f"parallel.{name}": value for name, value in degrees.items()} | others
    if precision is not None:
        stated["precision.compute"] = precision
    deployed = Deployment(
        model="m", checkpoint="some/M", framework=form, drafts="mtp", load={},
        pools=(Pool("serve", stated, 3, load_cluster("nodes/dgx-h100"), "nodes/dgx-h100"),),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("launch") / "launch.sh"
    path.write_text(script(form, deployed), "utf-8")
    read = read_launch(str(path)).of("serve")
    assert {name: read.get(name, 1 if name.startswith("parallel.") else None) for name in stated} == stated
    assert devices_of(read) == devices_of(stated)


def test_what_is_not_understood_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "launch.sh"
    path.write_text(
        "TP=4\nexport MODEL=Qwen/Qwen3-32B\n# a comment\nexec /opt/bin/vllm serve $MODEL -tp=${TP} \\\n"
        "  --max-num-seqs 128 --dtype bfloat16 \\\n  --frobnicate 3 --port ${PORT:-8000} &\nwait\n", "utf-8",
    )  # fmt: skip
    read = read_launch(str(path))
    assert (read.model, read.count) == ("Qwen/Qwen3-32B", {"serve": 1})
    assert read.notes == ["line 6: --frobnicate 3 is not understood"]
    assert read.of("serve") == {"parallel.tp": 4, "scheduler.max_num_seqs": 128, "precision.compute": "bf16"}
    path.write_text("cat > a.txt <<EOF\nvllm serve A\nEOF\nvllm serve B -tp 2\n", "utf-8")
    assert (read_launch(str(path)).model, read_launch(str(path)).count) == ("B", {"serve": 1})
    path.write_text("echo --tp 4\n", "utf-8")
    with pytest.raises(InputError, match="starts no engine"):
        read_launch(str(path))


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("vllm serve B", []),  # no option at all
        ("vllm serve B -tp $RANKS", ["line 1: -tp $RANKS is not understood"]),
        ("vllm serve B -tp nan", ["line 1: -tp nan is not understood"]),
        (f"vllm serve B -tp {'9' * 5000}", [f"line 1: -tp {'9' * 5000} is not understood"]),
        ("python3 -m sglang.launch_server --tp 2 --dp 0 --enable-dp-attention", ["line 1: --dp 0 is not understood"]),
        (f"vllm serve B --speculative-config {'[' * 9999}", None),
        ("cat > c.yaml <<EOF\nx: 2023-99-99\ntensor_parallel_size: []\nkv_cache_config: {dtype: []}\nEOF\n"
         "trtllm-serve B --extra_llm_api_options c.yaml", []),
        ("torchrun --nnodes=² --nproc_per_node 8 pretrain_gpt.py", []),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_left_out(tmp_path: Path, text: str, notes: list[str] | None) -> None:
    path = tmp_path / "launch.sh"
    path.write_text(text, "utf-8")
    read = read_launch(str(path))
    assert notes is None or read.notes == notes
    (role,) = read.settings
    assert {read.of(role).get(f"parallel.{name}", 1) for name in ("tp", "pp", "ep")} <= {1, 2}
    assert read.of(role).get("parallel.dp", 1) == (8 if role == "train" else 1)


def test_scripts_that_would_fill_the_memory_or_divide_by_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "launch.sh"
    path.write_text("A=xx\n" + "A=$A$A\n" * 40 + "vllm serve B", "utf-8")
    with pytest.raises(InputError, match="variables of the script grow"):
        read_launch(str(path))
    for users, engines in (("nan", "1"), ("4", "0"), ("many", "1")):
        path.write_text(f"{HEADLINE} 1\n#   users = {users}\n#   replicas.count = {engines}\nvllm serve B", "utf-8")
        with pytest.raises(InputError, match=f"states {users} users of {engines} engines"):
            answer(read_launch(str(path)), PlanRequest(model="llama-3-8b", clusters=("nodes/h100-x1",)))
    path.write_text("# " + "x" * 2**20, "utf-8")
    with pytest.raises(InputError, match="too large"):
        read_launch(str(path))


def test_a_script_is_predicted_as_simulate_predicts_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "launch.sh"
    path.write_text(
        "python -m sglang.launch_server --model-path Qwen/Qwen3-32B --tp 4 --max-running-requests 64\n", "utf-8"
    )
    request = PlanRequest(clusters=("nodes/dgx-h100",), users=8, isl=256.0, osl=32.0)
    plan = answer(read_launch(str(path)), request).document()["plans"][0]
    changes = {
        "framework": "sglang", "parallel.tp": 4, "scheduler.max_num_seqs": 64, "concurrency": 8, "input_tokens": 256,
        "output_tokens": 32,
    }  # fmt: skip
    own = load(
        "Qwen/Qwen3-32B", cluster="nodes/dgx-h100", phases=("serving",),
        set={f"scenarios.serving.{name}": value for name, value in changes.items()},
    ).points()["serving"]  # fmt: skip
    assert plan["metrics"] == own.document()["metrics"]
    assert (plan["devices"], plan["framework"], plan["parallel"]) == (4, "sglang", {"tp": 4})
    with pytest.raises(InputError, match="--cluster"):
        answer(read_launch(str(path)), PlanRequest())


@pytest.mark.parametrize(("model", "slices"), [("gpt-oss-20b", 2), ("qwen3-8b", None)])
def test_ranks_of_attention_data_parallelism_share_the_experts_that_there_are(
    tmp_path: Path, model: str, slices: int | None
) -> None:
    """SGLang slices them where `--ep` is 1, vLLM as well. A dense model's ranks share nothing."""
    of = {"tp": 1, "pp": 1, "dp": 2, "ep": 1}
    assert [can_start(name, {**of, "expert_tensor": 2}) for name in ("sglang-0.5.12", "vllm", "trt-llm")] == [True] * 3
    assert not can_start("trt-llm", {**of, "tp": 2, "expert_tensor": 4})  # attention of either kind alone
    assert not can_start("vllm", {**of, "dp": 4, "ep": 2, "expert_tensor": 2})
    path = tmp_path / "launch.sh"
    path.write_text(
        f"python -m sglang.launch_server --model-path {model} --tp 2 --dp 2 --enable-dp-attention\n", "utf-8"
    )
    read = read_launch(str(path))
    assert read.of("serve") == {"parallel.tp": 1, "parallel.dp": 2, "parallel.expert_tensor": 2}
    plan = answer(read, PlanRequest(clusters=("nodes/dgx-h100",), users=8, isl=64.0, osl=8.0)).document()["plans"][0]
    assert plan["parallel"].get("expert_tensor") == slices


POD = "spec.template.spec.containers"
WANTED = {  # kind -> fields that it must have, dotted
    "Deployment": ("spec.replicas", "spec.selector.matchLabels", "spec.template.metadata.labels", POD),
    "LeaderWorkerSet": ("spec.replicas", "spec.leaderWorkerTemplate.size", "spec.leaderWorkerTemplate.workerTemplate"),
    "Service": ("spec.selector", "spec.ports"),
}
VERSIONS = {"Deployment": "apps/v1", "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1", "Service": "v1"}
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123, as Kubernetes takes names


@pytest.mark.parametrize(("entry", "kinds"), [("WIDE", ["LeaderWorkerSet"]), ("POOLS", ["Deployment", "Deployment"])])
def test_manifests_have_what_kubernetes_asks_for(entry: str, kinds: list[str]) -> None:
    objects = list(yaml.safe_load_all(emitted("k8s", entry)))
    assert [each["kind"] for each in objects if each["kind"] != "Service"] == kinds
    pods = {}
    for each in objects:
        assert each["apiVersion"] == VERSIONS[each["kind"]]
        assert NAME.fullmatch(each["metadata"]["name"])
        for field in WANTED[each["kind"]]:
            value: Any = each
            for name in field.split("."):
                value = value[name]
            assert value
        if each["kind"] == "Service":
            assert any(each["spec"]["selector"].items() <= labels.items() for labels in pods.values())
            continue
        group = each["spec"].get("leaderWorkerTemplate")
        template = group["leaderTemplate"] if group else each["spec"]["template"]
        pods[each["metadata"]["name"]] = template["metadata"]["labels"]
        container = template["spec"]["containers"][0]
        gpus = next(iter(container["resources"]["limits"].values()))
        plan = {"WIDE": WIDE, "POOLS": POOLS}[entry]
        role = each["metadata"]["name"].rpartition("-")[2]
        degrees = {**plan, **(plan.get(role) or {})}["parallel"]  # type: ignore[dict-item]
        wide = degrees.get("tp", 1) * degrees.get("dp", 1)
        assert gpus * (group["size"] if group else 1) == wide
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_a_compose_file_gives_each_engine_its_own_devices_and_port() -> None:
    document = yaml.safe_load(
        emit("compose", {**REQUEST, "model": "qwen3-32b"}, {**POOLS, "prefill": None, "decode": None, "replicas": 9})
    )
    services = document["services"].values()
    taken = [each["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for each in services]
    assert sorted(int(number) for numbers in taken for number in numbers) == list(range(8))
    ports = [re.search(r"--port (\d+)", each["command"][0]) for each in services]
    assert len({port[1] for port in ports if port}) == 4


def test_a_form_that_does_not_start_such_a_run_is_refused() -> None:
    with pytest.raises(InputError, match="does not start servers"):
        emit("megatron", REQUEST, WIDE)
    with pytest.raises(InputError, match="does not start a training run"):
        emit("vllm", TRAINED, RUN)
    with pytest.raises(InputError, match=r"no configuration of deepseek-v3\.2"):
        emit("torchtitan", {**TRAINED, "model": "deepseek-v3.2"}, RUN)


def parser(form: str) -> Any:
    """Return an engine's own argument parser, where it is installed: a GPU is not needed."""
    if form == "vllm":
        platforms = pytest.importorskip("vllm.platforms", reason="vLLM is not installed")
        from vllm.platforms.cpu import CpuPlatform  # type: ignore[import-not-found,unused-ignore]

        platforms.current_platform = platforms._current_platform = CpuPlatform()
        arguments = next(
            pytest.importorskip(f"vllm.entrypoints.{room}.cli_args")
            for room in ("common", "openai")  # since 0.34, before
            if find_spec(f"vllm.entrypoints.{room}.cli_args") is not None
        )
        return arguments.make_arg_parser(pytest.importorskip("vllm.utils.argparse_utils").FlexibleArgumentParser())
    import argparse

    made = argparse.ArgumentParser()
    pytest.importorskip("sglang.srt.server_args", reason="SGLang is not installed").ServerArgs.add_cli_args(made)
    return made


@pytest.mark.parametrize(("form", "program"), [("vllm", "serve"), ("sglang", "sglang.launch_server")])
def test_the_engines_own_parser_accepts_the_commands(form: str, program: str) -> None:
    made = parser(form)
    seen = 0
    for entry in ("WIDE", "POOLS"):
        for words in commands(emitted(form, entry)):
            if program in words and "bench" not in words:
                made.parse_args(words[words.index(program) + 1 :])
                seen += 1
    assert seen == 7


def test_kubernetes_names_are_short() -> None:
    pool = Pool("serve", {"parallel.tp": 1}, 1, load_cluster("nodes/rtx-4090-x1"), "nodes/rtx-4090-x1")
    deployed = Deployment(
        model=f"some/{'Long_name.' * 20}", checkpoint="x", framework="vllm", pools=(pool,), drafts=None, load={}
    )
    first = next(yaml.safe_load_all(kubernetes("vllm", deployed)))
    assert NAME.fullmatch(first["metadata"]["name"])


def test_a_switch_says_what_it_stands_for_and_its_opposite_only_where_there_is_one() -> None:
    plain = Option("chunked", flags=("--chunked",), takes=False, stated=True)
    assert (plain.theirs(True), plain.theirs(False), plain.theirs(3)) == (True, None, None)
    both = Option("chunked", flags=("--chunked",), takes=False, stated=True, negated="--no-chunked")
    assert (both.theirs(True), both.theirs(False), both.theirs(3)) == (True, False, None)


def test_only_two_pools_of_a_node_have_profiles_and_a_model_without_letters_has_a_name() -> None:
    cluster = load_cluster("nodes/rtx-4090-x8")
    pools = tuple(Pool(role, {"parallel.tp": 2}, 1, cluster, "nodes/rtx-4090-x8") for role in ("prefill", "decode"))
    deployed = Deployment(model="some/---", checkpoint="x", framework="vllm", pools=pools, drafts=None, load={})
    both = yaml.safe_load(compose("vllm", deployed))
    assert [each["profiles"] for each in both["services"].values()] == [["prefill"], ["decode"]]
    assert NAME.fullmatch(both["name"])
    alone = yaml.safe_load(compose("vllm", replace(deployed, model="some/Qwen3-32B", pools=pools[:1])))
    assert not any("profiles" in each for each in alone["services"].values())
    assert alone["name"].startswith("qwen3-32b")


@pytest.mark.parametrize("entry", ["WIDE", "POOLS"])
def test_manifests_are_of_the_schema_of_kubernetes(entry: str) -> None:
    objects = [manifest_schema.Object.model_validate(each).root for each in yaml.safe_load_all(emitted("k8s", entry))]
    names = [(each.kind, each.metadata.name) for each in objects]
    assert len(set(names)) == len(names) >= 2
    for each in objects:
        if isinstance(each, manifest_schema.Service):
            ports = [port.targetPort for port in each.spec.ports]
            (of,) = [one for one in objects if one.metadata.name == each.metadata.name and one is not each]
            assert isinstance(of, manifest_schema.Deployment | manifest_schema.LeaderWorkerSet)
            group = (
                of.spec.template
                if isinstance(of, manifest_schema.Deployment)
                else of.spec.leaderWorkerTemplate.leaderTemplate
            )
            assert each.spec.selector.items() <= group.metadata.labels.items()
            assert ports == [port.containerPort for port in group.spec.containers[0].ports]


@pytest.mark.parametrize("pooled", [False, True])
def test_a_compose_file_is_of_its_specification(pooled: bool) -> None:
    pools = {name: None if not pooled else {"replicas": 1, "parallel": {"tp": 2}} for name in ("prefill", "decode")}
    text = emit("compose", {**REQUEST, "model": "qwen3-32b"}, {**POOLS, **pools, "replicas": 2})
    document = manifest_schema.Compose.model_validate(yaml.safe_load(text))
    assert {bool(each.profiles) for each in document.services.values()} == {pooled}


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (r"containerPort: \d+", "containerPort: 80000"),
        (r"replicas: (\d+)", "replicas: '2'"),
        (r"readinessProbe:", "readynessProbe:"),
        (r"mountPath: /dev/shm", "mountPath: dev/shm"),
        (r"apiVersion: apps/v1", "apiVersion: apps/v1beta1"),
        (r"nvidia.com/gpu: \d+", "nvidia.com/gpu: 0"),
        (r"- name: shm\n    +mountPath", "- name: scratch\n          mountPath"),
    ],
)
def test_the_schema_refuses_what_kubernetes_would(pattern: str, instead: str) -> None:
    text, count = re.subn(pattern, instead, emitted("k8s", "POOLS"), count=1)
    assert count == 1, pattern
    with pytest.raises(ValidationError):
        [manifest_schema.Object.model_validate(each) for each in yaml.safe_load_all(text)]
