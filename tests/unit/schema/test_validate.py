"""`validate`: every problem of a file at once, at its place, in words that show the fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_world import edit, write

from costmodel.errors import InputError
from costmodel.schema.device import NetworkFile
from costmodel.schema.files import validate
from costmodel.schema.loader import parse_tree
from costmodel.schema.mixers import AttentionFile, HeadRouteFile, KvSourceFile
from costmodel.schema.patterns import AxisFile, HeadsFile
from costmodel.schema.serving import GapsFile, LengthsFile, PrioritiesFile, RequestsFile
from costmodel.schema.strict import Strict, checked
from costmodel.schema.workload import ReplicasFile

CHIP = "hardware/devices/chip.yaml"


def problem_texts(root: Path, name: str) -> list[str]:
    """Return the problems of a file as text."""
    return [str(problem) for problem in validate(root / name, [root])]


@pytest.mark.parametrize(
    "name",
    [
        CHIP, "hardware/nodes/box.yaml", "hardware/nodes/lone.yaml", "hardware/clusters/pair.yaml",
        "hardware/frameworks/default.yaml", "workloads/precisions/fp8.yaml", "workloads/models/tiny.yaml",
        "workloads/small.yaml",
    ],
)  # fmt: skip
def test_sound_files_have_no_problems(world: Path, name: str) -> None:
    assert problem_texts(world, name) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("processors: 10", "procesors: 10", f"{CHIP}:4:1: procesors: unknown key; did you mean `processors`?"),
        ("1 TB/s", "1 Tb/s", "memory.hbm.bandwidth: '1 Tb/s' has an unknown unit 'Tb/s'; write \"1 Tbit/s\""),
        ("1 TB/s", "1 TB", "memory.hbm.bandwidth: '1 TB' has the wrong unit: that is a size"),
        ("1 TB/s", "1000", 'memory.hbm.bandwidth: 1000 has no unit; write "1000 GB/s"'),
        ("1 TB/s", "1e12", 'memory.hbm.bandwidth: 1000000000000.0 has no unit; write "1 TB/s"'),
        ("10 GiB", "10", 'memory.hbm.capacity: 10 has no unit; write "10 GiB"'),
        ("10 GiB", "0", 'memory.hbm.capacity: 0 has no unit; write "10 GiB"'),
        ("10 GiB", "-3", 'memory.hbm.capacity: -3 has no unit; write "10 GiB"'),
        ("10 GiB", "0 GiB", "memory.hbm.capacity: '0 GiB' is too small; write a value above zero, such as \"10 GiB\""),
        ("latency: 1 us", "latency: 10 min", "only s, ms, us, ns and ps fit here"),
        ("latency: 1 us", "latency: -1 us", "links.fast.latency: '-1 us' is too small; write a value of at least zero"),
        ("10 TFLOP/s", "0 TFLOP/s", "math.bf16.peak: '0 TFLOP/s' is too small; write a value above zero"),
        ("1 TB/s", "1e-300 B/s", "memory.hbm.bandwidth: '1e-300 B/s' is implausible; check the exponent"),
        ("10 TFLOP/s", "1e31 FLOP/s", "math.bf16.peak: '1e31 FLOP/s' is implausible"),
        ("10 TFLOP/s", ".nan", "math.bf16.peak: nan has no unit"),
        ("10 TFLOP/s", "inf TFLOP/s", "math.bf16.peak: 'inf TFLOP/s' is not a finite number"),
        ("processors: 10", "processors: 1.5", "processors: 1.5 is not a whole number; write 1"),
        ("processors: 10", "processors: true", "processors: must be a whole number, not true or false"),
        ("processors: 10", 'processors: "10"', "processors: must be a whole number, not '10'"),
        ("processors: 10", "processors: .inf", "processors: inf is not a finite number"),
        ("processors: 10", "processors: 0", "processors: 0 is too small; write at least 1"),
        ("bf16: {", "bf61: {", "math.bf61: unknown value 'bf61'; did you mean `bf16`"),
        ("name: chip", "name: 7", "name: must be text, not 7; put it in quotes"),
        ("name: chip", "", f"{CHIP}:1:1: name: is missing; add it"),
        ("{tensor_reference: 1 GHz, max: 2 GHz}", "1 GHz", "clock: must be a mapping, not '1 GHz'"),
        ("bidirectional: 200", "both: 200", "links.fast.bandwidth: must be a one-way value or {bidirectional: …}"),
        ("per: processor", "per: sm", "memory.smem.per: unknown value 'sm'; available: device, processor"),
    ],
)
def test_a_wrong_value_is_reported_with_its_fix(world: Path, old: str, new: str, problem: str) -> None:
    edit(world, CHIP, old, new)
    texts = problem_texts(world, CHIP)
    assert len(texts) == 1
    assert problem in texts[0]


def test_all_problems_come_at_once_and_in_order(world: Path) -> None:
    edit(world, CHIP, "processors: 10", "procesors: 10")
    edit(world, CHIP, "1 TB/s", "1 Tb/s")
    edit(world, "hardware/nodes/box.yaml", "count: 4", "count: 0")
    edit(world, "workloads/models/tiny.yaml", "hidden: 64", "d_model: 64")
    edit(world, "workloads/small.yaml", "sequence: 128", "sequence: many")
    places = [text.split(": ")[0] for text in problem_texts(world, "workloads/small.yaml")]
    assert places == [
        f"{CHIP}:4:1", f"{CHIP}:11:46", "hardware/nodes/box.yaml:4:8", "workloads/models/tiny.yaml:3:1",
        "workloads/small.yaml:9:15",
    ]  # fmt: skip


def test_a_name_that_other_tools_use_is_an_error_with_ours(world: Path) -> None:
    edit(world, "workloads/small.yaml", "sequence: 128", "seq_len: 128")
    assert "scenarios.train.seq_len: unknown key; write `sequence`" in "\n".join(
        problem_texts(world, "workloads/small.yaml")
    )


def test_a_key_of_another_phase_names_that_phase(world: Path) -> None:
    edit(world, "workloads/small.yaml", "sequence: 128", "sequence: 128\n    output_tokens: 3")
    (text,) = problem_texts(world, "workloads/small.yaml")
    assert (
        "scenarios.train.output_tokens: not allowed in phase training (belongs to decode, generate and serving)" in text
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("phase: training", "phase: trainig", "unknown phase 'trainig'; did you mean `training`"),
        ("    phase: training\n", "", "scenarios.train.phase: is missing"),
        ("tp: 2", "tp: 3", "scenarios.train.parallel.tp: 3 does not divide"),
        ("dp: 4", "dp: 8", "scenarios.train.parallel: "),
        ("clusters/pair", "clusters/pear", "unknown cluster or node 'clusters/pear'; did you mean"),
        ("models/tiny", "models/tinny", "model: models/tinny not found; did you mean `tiny`"),
        ("model: models/tiny", "model: [1]", "model: must be a file name or a mapping, not a list"),
        ("global_batch: 16", "global_batch: 16\n    recompute: some", "train.recompute: unknown name 'some'"),
    ],
)  # fmt: skip
def test_a_workload_is_checked_down_to_its_layout(world: Path, old: str, new: str, problem: str) -> None:
    edit(world, "workloads/small.yaml", old, new)
    texts = problem_texts(world, "workloads/small.yaml")
    assert any(problem in text for text in texts), texts


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: x\n", "x.yaml:1:1: schema: the file has no `schema:` line"),
        ("shema: costmodel/device@1\n", "rename `shema`"),
        ("schema: costmodel/devise@1\n", "did you mean `costmodel/device@1`"),
        ("schema: costmodel/device@2\n", "unknown schema"),
    ],
)
def test_a_file_must_say_what_it_is(world: Path, text: str, problem: str) -> None:
    write(world, "x.yaml", text)
    assert problem in problem_texts(world, "x.yaml")[0]


def test_a_mixer_of_unknown_type_is_one_problem(world: Path) -> None:
    edit(world, "workloads/models/tiny.yaml", "type: attention", "type: atention")
    (text,) = problem_texts(world, "workloads/models/tiny.yaml")
    assert "layers.0.mixer: unknown type 'atention'; did you mean `attention`" in text


def test_a_misspelt_key_inside_a_mixer_is_reported(world: Path) -> None:
    edit(world, "workloads/models/tiny.yaml", "kv_heads: 8", "kv_head: 8")
    (text,) = problem_texts(world, "workloads/models/tiny.yaml")
    assert "layers.0.mixer.kv_head: unknown key; did you mean `kv_heads`" in text


def test_shares_of_head_groups_must_sum_to_one(world: Path) -> None:
    groups = "head_dim: 8, head_groups: [{share: 0.5, pattern: {kind: full}}]"
    edit(world, "workloads/models/tiny.yaml", "head_dim: 8", groups)
    (text,) = problem_texts(world, "workloads/models/tiny.yaml")
    assert "layers.0.mixer: the shares of head_groups sum to 0.5; make them sum to 1" in text


def test_a_node_names_a_link_that_its_device_has(world: Path) -> None:
    edit(world, "hardware/nodes/box.yaml", "intra: fast", "intra: slow")
    assert (
        "box.yaml:5:8: intra: chip has no link 'slow'; available: fast"
        in problem_texts(world, "hardware/nodes/box.yaml")[0]
    )


@pytest.mark.parametrize(
    ("power", "message"),
    [
        ("{tdp: 100 W, idle: 200 W}", "idle must not exceed tdp"),
        ("{idle: 20}", "20 W"),
        ("{idle: -1 W}", "too small"),
        ("{idel: 20 W}", "did you mean `idle`"),
    ],
)
def test_idle_power_is_below_the_limit_and_has_a_unit(world: Path, power: str, message: str) -> None:
    edit(world, CHIP, "architecture: test", f"architecture: test\npower: {power}")
    (problem,) = problem_texts(world, CHIP)
    assert message in problem


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("{link: slow}", "host.link: chip has no link 'slow'; available: fast"),
        ("{link: [fast]}", "host.link: must be text"),
        ("{peak: {bf17: 1 TFLOP/s}}", "did you mean `bf16`"),
        ("{peak: {bf16: 1 TB/s}}", "host.peak.bf16"),
        ("{peak: {bf16: -1 TFLOP/s}}", "host.peak.bf16"),
        ("{memory: 1 TB/s}", "host.memory"),
        ("{sockets: 0}", "host.sockets"),
        ("{cores: 64}", "host.cores: unknown key"),
    ],
)
def test_a_host_needs_units_and_a_link_of_the_device(world: Path, host: str, message: str) -> None:
    edit(world, "hardware/nodes/box.yaml", "intra: fast", f"intra: fast\nhost: {host}")
    (problem,) = problem_texts(world, "hardware/nodes/box.yaml")
    assert "box.yaml:6:" in problem
    assert message in problem


@pytest.mark.parametrize(
    ("offload", "message"),
    [
        ("{optimizer: 1.5}", "offload.optimizer: 1.5 is too large"),
        ("{weights: -0.1}", "offload.weights: -0.1 is too small"),
        ("{activation: 0.5}", "did you mean `activations`"),
        ("{optimizer: 1}", "host"),
    ],
)
def test_offloaded_shares_have_a_range_and_need_a_host(world: Path, offload: str, message: str) -> None:
    edit(world, "workloads/small.yaml", "global_batch: 16", f"global_batch: 16\n    offload: {offload}")
    assert any(
        "small.yaml:9:" in problem and message in problem for problem in problem_texts(world, "workloads/small.yaml")
    )


@pytest.mark.parametrize(
    ("line", "today"),
    [("tensor_overlap: all", "training.tensor_overlap"), ("not_on: [cdna]", "unsupported.architectures")],
)
def test_a_key_that_a_framework_had_is_named_with_the_one_of_today(tmp_path: Path, line: str, today: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"schema: costmodel/framework@1\nextends: frameworks/default\nname: mine\n{line}\n")
    (problem,) = validate(path)
    assert problem.hint == f"write `{today}`"


ATTENTION = "type: attention, q_heads: 8"
CONTRADICTIONS = [
    # file, what is sound beside it, what is not, what is said
    (
        LengthsFile, "{distribution: values, values: [1, 2], weights: [1, 3]}",
        "{distribution: values}", "needs `values`",
    ),
    (
        LengthsFile, "{distribution: values, values: [1, 2]}",
        "{distribution: values, values: [1], weights: [1, 3]}", "a weight for each",
    ),
    (
        LengthsFile, "{distribution: uniform, low: 8, high: 8}",
        "{distribution: uniform, low: 9, high: 8}", "`low` above `high`",
    ),
    (LengthsFile, "{distribution: uniform, high: 8}", "{distribution: uniform}", "needs `high`"),
    (LengthsFile, "{mean: 8, high: 8}", "{mean: 9, high: 8}", "a mean beyond its `high` of 8"),
    (LengthsFile, "9", "{distribution: constant}", "needs `mean`"),
    (
        LengthsFile, "{distribution: normal, mean: 9, deviation: 2}",
        "{distribution: normal, mean: 9}", "needs `deviation`",
    ),
    (
        GapsFile, "{distribution: lognormal, mean: 3 s, deviation: 1 s}",
        "{distribution: lognormal, mean: 3 s}", "needs a `deviation`",
    ),
    (GapsFile, "3 s", "{mean: 3 s, deviation: 1 s}", "nothing else has one"),
    (
        PrioritiesFile, "{values: [0, 1], weights: [0, 2]}",
        "{values: [0, 1], weights: [0, 0]}", "one of them above zero",
    ),
    (PrioritiesFile, "{values: [0, 1]}", "{values: [0, 1], weights: [1]}", "a weight for each value"),
    (RequestsFile, "{trace: a.csv}", "{trace: a.csv, rate: 1 /s}", "`rate` is not allowed with a trace"),
    (RequestsFile, "{trace: a.csv, arrivals: closed_loop}", "{trace: a.csv, arrivals: poisson}", "arrivals of its own"),
    (RequestsFile, "{arrivals: closed_loop, ramp: 1 s}", "{ramp: 1 s}", "`ramp` is of the users"),
    (RequestsFile, "{pairs: a.json}", "{pairs: a.json, output: 8}", "`pairs` gives both lengths"),
    (RequestsFile, "{pairs: a.json, tokenizer: t}", "{tokenizer: t}", "counts the texts of `pairs`"),
    (
        RequestsFile, "{classes: [{name: a, share: 0.25}, {name: b, share: 0.75}]}",
        "{classes: [{name: a, share: 0.25}, {name: a, share: 0.75}]}", "two `classes` have the same name",
    ),
    (RequestsFile, "{classes: [{name: a, share: 1}]}", "{classes: [{name: a, share: 0.9}]}", "add up to 0.9"),
    (
        RequestsFile, "{sessions: {turns: 2, rate: 1 /s}}",
        "{rate: 1 /s, sessions: {turns: 2, rate: 1 /s}}", "exclude one another",
    ),
    (
        RequestsFile, "{sessions: {turns: 2}}",
        "{arrivals: burst, sessions: {turns: 2, rate: 1 /s}}", "`burst` has no `sessions.rate`",
    ),
    (ReplicasFile, "{count: 2, prefill: 1}", "{count: 2, prefill: 2}", "leaves no engine that decodes"),
    (
        ReplicasFile, "{autoscale: {most: 4, target: 8}}",
        "{count: 2, prefill: 1, autoscale: {most: 4, target: 8}}", "`autoscale` is not allowed with `prefill`",
    ),
    (
        ReplicasFile, "{autoscale: {least: 4, most: 4, target: 8}}",
        "{autoscale: {least: 5, most: 4, target: 8}}", "`least` above `most`",
    ),
    (
        ReplicasFile, "{count: 2, failures: [{replica: 1, at: 1 s, lasts: 1 s}]}",
        "{count: 2, failures: [{replica: 2, at: 1 s, lasts: 1 s}]}", "engine 2 does not exist",
    ),
    (AxisFile, "{size: 8, window: 4, dilation: 2}", "{size: 8, window: 4, dilation: 3}", "exceeds the axis"),
    (
        AxisFile, "{size: 8, window: 4, query_tile: 2, key_tile: 2}",
        "{size: 8, window: 4, key_tile: 2}", "must be set together",
    ),
    (
        AttentionFile, f"{{{ATTENTION}, causal: false, kv_source: {{tokens: 9}}}}",
        f"{{{ATTENTION}, kv_source: {{tokens: 9}}}}", "no causal order",
    ),
    (
        AttentionFile, f"{{{ATTENTION}, head_dim: 8, rotary_dim: 8}}", f"{{{ATTENTION}, head_dim: 8, rotary_dim: 9}}",
        "rotary_dim must not exceed head_dim",
    ),
    (
        AttentionFile, f"{{{ATTENTION}, rotary: false, alibi: true}}",
        f"{{{ATTENTION}, alibi: true}}", "rotary and alibi exclude",
    ),
    (
        AttentionFile, f"{{{ATTENTION}, kv_heads: 8}}",
        f"{{{ATTENTION}, kv_heads: 16}}", "kv_heads must not exceed q_heads",
    ),
    (
        AttentionFile, f"{{{ATTENTION}, kv_heads: 4}}",
        f"{{{ATTENTION}, kv_heads: 3}}", "do not group over 3 key-value heads",
    ),
    (
        AttentionFile, f"{{{ATTENTION}, head_dim: 8, v_head_dim: 8, shared_values: true}}",
        f"{{{ATTENTION}, head_dim: 8, v_head_dim: 4, shared_values: true}}", "values as wide as keys",
    ),
    (
        HeadRouteFile, "{shared: 4, routed: 4, top_k: 4}",
        "{shared: 4, routed: 4, top_k: 5}", "top_k must not exceed routed",
    ),
    (
        HeadRouteFile, "{shared: 4, routed: 4, tokens: 0.5}",
        "{shared: 4, routed: 4, top_k: 2, tokens: 0.5}", "either `top_k` or `tokens`",
    ),
    (KvSourceFile, "{tokens: 8, width: 4}", "{width: 4}", "`width` is that of another sequence"),
    (KvSourceFile, "{share: 0.5}", "{tokens: 8, share: 0.5}", "`share` is of the layer's own tokens"),
    (HeadsFile, "{share: 0.5}", "{share: 0.5, heads: 4}", "either `share` or `heads`"),
    (HeadsFile, "{heads: 4}", "{}", "either `share` or `heads`"),
    (
        NetworkFile, "{topology: mesh, radix: 5, shape: [4, 4]}",
        "{topology: mesh, radix: 4, shape: [4, 4]}", "write radix: 5 or more",
    ),
    (
        NetworkFile, "{topology: ft2, radix: 8}",
        "{topology: mesh, radix: 5, shape: [4, 4], planes: 2}", "a mesh has one plane",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "sound", "wrong", "told"), CONTRADICTIONS)
def test_keys_that_contradict_are_told_and_their_neighbours_are_sound(
    file: type[Strict], sound: str, wrong: str, told: str
) -> None:
    checked(file, parse_tree(sound, "sound.yaml"))
    with pytest.raises(InputError, match=re.escape(told)):
        checked(file, parse_tree(wrong, "wrong.yaml"))
