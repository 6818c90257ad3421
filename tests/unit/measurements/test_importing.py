"""What other tools measured: read as rows or metrics, and every way in which their files can be wrong."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress

import numpy as np
import pytest
from small_world import write

from costmodel.errors import MeasurementError
from costmodel.measurements.importing import read_foreign
from costmodel.measurements.importing.compressed import read_bytes
from costmodel.measurements.importing.serving import Load, is_benchmark, read_benchmark
from costmodel.measurements.tables import read_tables


def problem_of(path):
    with pytest.raises(MeasurementError) as caught:
        read_tables(path)
    assert len(caught.value.problems) == 1
    return str(caught.value)


# --- the PyTorch profiler ---


def cpu_op(number, name, dims, kinds, concrete=(), dur=100.0):
    args = {"External id": number, "Input Dims": dims, "Input type": kinds, "Concrete Inputs": list(concrete)}
    return {"ph": "X", "cat": "cpu_op", "name": name, "ts": 1, "dur": dur, "pid": 1, "tid": 1, "args": args}


def kernel(number, dur, name="sm90_gemm", **args):
    given = {"External id": number, "device": 0, "correlation": number} | args
    return {"ph": "X", "cat": "kernel", "name": name, "ts": 2, "dur": dur, "pid": 0, "tid": 7, "args": given}


def trace(*events):
    devices = [{"id": number, "name": "NVIDIA H100 80GB HBM3"} for number in range(8)]
    return {"schemaVersion": 1, "deviceProperties": devices, "traceEvents": [*events]}


BF16 = ["c10::BFloat16", "c10::BFloat16"]
CORE = [[2, 32, 128, 64], [2, 8, 512, 64], [2, 8, 512, 64], [], [], []]
HALF = ["c10::Half"] * 3 + ["Scalar"] * 3


def read_trace(tmp_path, *events):
    return read_tables(write(tmp_path, "t.json", json.dumps(trace(*events))))


def test_a_product_takes_the_time_of_the_kernels_that_it_launched(tmp_path):
    table = read_trace(
        tmp_path,
        cpu_op(1, "aten::mm", [[64, 128], [128, 256]], BF16), kernel(1, 10.0), kernel(1, 2.5, "splitk_reduce"),
    )  # fmt: skip
    assert len(table) == 1
    assert [table.text(name)[0] for name in ("device", "op", "dtype_in", "kernel", "timing")] == [
        "NVIDIA H100 80GB HBM3", "gemm", "bf16", "sm90_gemm", "kineto_kernel",
    ]  # fmt: skip
    assert [table.number(name)[0] for name in "mnk"] == [64, 256, 128]
    assert table.seconds[0] == pytest.approx(12.5e-6)


def test_a_batched_product_is_read_from_its_two_operands(tmp_path):
    (one,) = read_trace(tmp_path, cpu_op(1, "aten::bmm", [[3, 8, 16], [3, 16, 32]], BF16), kernel(1, 4.0)).text("op")
    assert one == "bmm"


def test_a_kernel_finds_its_operator_by_the_correlation_of_its_launch(tmp_path):
    launch = {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 1, "dur": 3,
              "args": {"correlation": 77, "External id": 5}}  # fmt: skip
    own = kernel(0, 8.0, correlation=77)
    del own["args"]["External id"]
    table = read_trace(tmp_path, cpu_op(5, "aten::addmm", [[256], [64, 128], [128, 256]], ["float"] * 3), launch, own)
    assert (table.text("op")[0], table.text("dtype_in")[0]) == ("gemm", "fp32")
    assert table.seconds[0] == pytest.approx(8e-6)


def test_repeats_of_a_shape_are_one_row_with_the_median(tmp_path):
    events = []
    for number, dur in enumerate((3.0, 5.0, 100.0), start=1):
        events += [cpu_op(number, "aten::mm", [[8, 16], [16, 32]], BF16), kernel(number, dur)]
    table = read_trace(tmp_path, *events)
    assert table.seconds.tolist() == pytest.approx([5e-6])


@pytest.mark.parametrize(
    ("name", "concrete", "causal", "shift"),
    [
        ("flash_attention", ["", "", "", "0.", "True", "False"], "1", 0),
        ("flash_attention", ["", "", "", "0.", "False", "True"], "0", 0),
        ("efficient_attention", ["", "", "", "", "True", "0.", "False"], "0", 0),
        ("cudnn_attention", ["", "", "", "", "False", "0.", "True"], "1", 0),
        ("flash_attention_backward", [""] * 11 + ["True", "", ""], "1", 1),
    ],
)  # fmt: skip
def test_attention_is_read_with_its_mask(tmp_path, name, concrete, causal, shift):
    dims = [CORE[0]] * shift + CORE
    table = read_trace(
        tmp_path, cpu_op(1, f"aten::_scaled_dot_product_{name}", dims, HALF, concrete), kernel(1, 9.0)
    )  # fmt: skip
    assert table.text("op")[0] == ("attention_backward" if shift else "attention_prefill")
    assert table.text("causal")[0] == causal
    sizes = ("batch", "q_heads", "kv_heads", "head_dim", "q_len", "kv_len")
    assert [table.number(size)[0] for size in sizes] == [2, 32, 8, 64, 128, 512]


def test_messages_are_read_from_the_kernels_of_nccl(tmp_path):
    said = {"Collective name": "_allgather_base", "dtype": "BFloat16", "In msg nelems": 1024, "Out msg nelems": 8192,
            "Group size": 8}  # fmt: skip
    table = read_trace(tmp_path, kernel(1, 40.0, "ncclDevKernel_AllGather", **said))
    assert table.text("op")[0] == "all_gather"
    assert [table.number(name)[0] for name in ("bytes", "world_size", "gpus_per_node")] == [16384, 8, 8]


def test_a_trace_of_a_cpu_takes_the_operators_own_times_and_the_device_that_is_asked_for(tmp_path):
    document = {"traceEvents": [cpu_op(1, "aten::bmm", [[3, 8, 16], [3, 16, 32]], ["float", "float"], dur=70.0)]}
    path = write(tmp_path, "t.json", json.dumps(document))
    assert "t.json:1: device: is blank; every row needs it, or --device stands in" in problem_of(path)
    table = read_tables(path, device="this-cpu")
    assert (table.text("op")[0], table.text("device")[0]) == ("bmm", "this-cpu")
    assert read_tables(path, otherwise="that-cpu").text("device")[0] == "that-cpu"
    assert table.seconds[0] == pytest.approx(70e-6)


def test_what_the_schema_does_not_have_is_not_read(tmp_path):
    views = cpu_op(2, "aten::view", [[64, 128]], ["float"])
    empty = cpu_op(3, "aten::mm", [[0, 16], [16, 32]], BF16)
    batched = cpu_op(4, "aten::mm", [[2, 8, 16], [16, 32]], BF16)
    good = cpu_op(1, "aten::mm", [[8, 16], [16, 32]], BF16)
    table = read_trace(tmp_path, views, empty, batched, good, *(kernel(number, 4.0) for number in (1, 2, 3, 4)))
    assert len(table) == 1


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"traceEvents": []}, "has no product, attention or message with its shape; profile with `record_shapes=True`"),
        ({"traceEvents": [7]}, "traceEvents[0]: 7 should be a mapping"),
        ({"traceEvents": [{"ph": "X", "dur": "long"}]}, "traceEvents[0].dur: 'long' should be a valid number"),
        ({"traceEvents": [{"ph": "X", "dur": -1}]}, "traceEvents[0].dur: -1 should be greater than or equal to 0"),
        ({"traceEvents": [cpu_op(1, "aten::mm", None, None)]}, "has no product"),
        ({"traceEvents": [kernel([1], 2.0)]}, "traceEvents[0].args.External id: [1] should be a valid integer"),
        ({"traceEvents": [cpu_op(1, "aten::mm", 7, None)]}, "traceEvents[0].args.Input Dims: 7 should be a valid list"),
        ({"traceEvents": [], "deviceProperties": [3]}, "deviceProperties[0]: 3 should be a mapping"),
        ({"other": 1}, "holds no measured kernels; known are tables, traces"),
        ([1, 2], "holds no measured kernels"),
        ({"mean_ttft_ms": 3.0}, "`costmodel compare RESULT FILE` holds a result against it"),
    ],
)  # fmt: skip
def test_a_document_that_is_no_trace_is_told(tmp_path, document, said):
    assert said in problem_of(write(tmp_path, "t.json", json.dumps(document)))


def test_json_that_is_cut_off_is_told_at_its_line(tmp_path):
    text = json.dumps(trace(cpu_op(1, "aten::mm", [[8, 16], [16, 32]], BF16)), indent=1)
    said = problem_of(write(tmp_path, "t.json", text[:-200]))
    assert "is no valid JSON" in said
    assert said.startswith(str(tmp_path / "t.json") + ":") or "t.json:" in said


# --- compressed files ---


def test_gzip_is_read_member_by_member(tmp_path):
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    assert read_bytes(path, "t.gz") == b"one two"


def test_a_file_is_read_up_to_its_limit_and_not_beyond(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"ten bytes.")
    assert read_bytes(path, "t.csv", most=10) == b"ten bytes."
    for most in (9, 1):
        with pytest.raises(MeasurementError, match=r"t\.csv: holds more than"):
            read_bytes(path, "t.csv", most=most)


def test_a_small_file_that_becomes_a_large_one_is_not_read(tmp_path):
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * 2**20) * 257)
    assert path.stat().st_size < 2**20
    assert "bomb.json.gz: holds more than 256 MiB" in problem_of(path)


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_gzip_that_is_cut_off_is_told(tmp_path, cut):
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(json.dumps(trace()).encode())[:-cut])
    assert "t.json.gz: is cut off: its gzip stream has no end; copy it again" in problem_of(path)


def test_gzip_that_is_damaged_is_told(tmp_path):
    data = bytearray(gzip.compress(json.dumps(trace()).encode()))
    data[20] ^= 255
    path = tmp_path / "t.json.gz"
    path.write_bytes(bytes(data))
    assert "t.json.gz: is " in problem_of(path)


def test_a_file_that_is_missing_is_told(tmp_path):
    assert "none.json: does not exist" in problem_of(tmp_path / "none.json")


# --- nccl-tests ---

TEXT = """
# nThread 1 nGpus 1 minBytes 8 maxBytes 16777216 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1 validation: 1
#
# Using devices
#  Rank  0 Group  0 Pid   6899 on  node-1 device  0 [0000:04:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   6900 on  node-1 device  1 [0000:05:00] NVIDIA H100 80GB HBM3
#  Rank  2 Group  0 Pid   6733 on  node-2 device  0 [0000:04:00] NVIDIA H100 80GB HBM3
#  Rank  3 Group  0 Pid   6734 on  node-2 device  1 [0000:05:00] NVIDIA H100 80GB HBM3
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
           0             0     float     sum      -1     0.12    0.00    0.00      0     0.11    0.00    0.00      0
     1048576        262144     float     sum      -1    56.25   18.64   27.96      0    55.10   19.03   28.55      0
    16777216       4194304  bfloat16     sum      -1    180.5   92.95  139.42    N/A    179.9   93.26  139.89    N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 55.5
"""


def test_text_of_nccl_tests_is_read_line_by_line(tmp_path):
    table = read_tables(write(tmp_path, "all_reduce_perf.txt", TEXT))
    assert table.text("op").tolist() == ["all_reduce", "all_reduce"]
    assert table.text("dtype_in").tolist() == ["fp32", "bf16"]
    assert table.number("bytes").tolist() == [1048576, 16777216]
    assert table.seconds == pytest.approx(np.array([56.25e-6, 180.5e-6]))
    assert set(table.number("world_size")) == {4}
    assert set(table.number("gpus_per_node")) == {2}
    assert table.text("device")[0] == "NVIDIA H100 80GB HBM3"
    assert str(table.location(0)).endswith("all_reduce_perf.txt:13")


def test_two_ranks_make_a_message_and_results_below_a_microsecond_none(tmp_path):
    pair = "".join(line for line in TEXT.splitlines(keepends=True) if "node-2" not in line)
    table = read_tables(write(tmp_path, "all_reduce_perf.txt", pair))
    assert (table.number("world_size")[0], table.number("gpus_per_node")[0], len(table)) == (2, 2, 2)


def test_the_test_is_named_by_the_output_before_the_file(tmp_path):
    text = "# Collective test starting: alltoall_perf" + TEXT
    assert read_tables(write(tmp_path, "all_reduce.txt", text)).text("op")[0] == "all_to_all"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (TEXT, "run.txt", "says that it is a reduction, but not which test it was; name the file after the test"),
        (TEXT.replace("56.25", "soon"), "all_reduce.txt", "all_reduce.txt:13: 'soon' is no time"),
        (TEXT[: TEXT.index("18.64")], "all_reduce.txt", "a result has at least 9; it may be cut off"),
        (TEXT[: TEXT.index("           0  ")], "all_reduce.txt", "holds no result"),
        (TEXT.replace("#  Rank", "#  rank"), "all_reduce.txt", "names fewer than two ranks"),
        ("hello\n", "all_reduce.txt", "holds no measured kernels"),
    ],
)  # fmt: skip
def test_text_that_is_wrong_is_told_with_its_line(tmp_path, text, name, said):
    assert said in problem_of(write(tmp_path, name, text))


def report(**changes):
    devices = [{"rank": rank, "hostname": "a", "device": rank, "device_info": "NVIDIA H800"} for rank in range(8)]
    result = {"size": 65536, "count": 16384, "type": "float", "redop": "none", "root": "    -1",
              "out_of_place": {"time": 31.5, "alg_bw": 2.0, "bus_bw": 1.8, "nwrong": 0.0},
              "experiment_name": "all_gather_perf"}  # fmt: skip
    document = {"version": 1, "args": ["./all_gather_perf"], "nccl_version": 22703,
                "config": {"nthreads": 1, "ngpus": 8, "devices": devices}, "results": [result]}  # fmt: skip
    return document | changes


def test_json_of_nccl_tests_is_read(tmp_path):
    table = read_tables(write(tmp_path, "t.json", json.dumps(report())))
    assert (table.text("op")[0], table.text("device")[0]) == ("all_gather", "NVIDIA H800")
    assert table.text("framework")[0] == "nccl 22703"
    assert [table.number(name)[0] for name in ("bytes", "world_size", "gpus_per_node")] == [65536, 8, 8]
    assert table.seconds[0] == pytest.approx(31.5e-6)


def test_one_process_writes_only_the_first_of_its_devices(tmp_path):
    document = report()
    document["config"]["devices"] = document["config"]["devices"][:1]
    table = read_tables(write(tmp_path, "t.json", json.dumps(document)))
    assert table.number("world_size")[0] == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"results": [{"size": 1}]}, "results[0] states no time; the file may be cut off"),
        ({"results": [{"out_of_place": {"time": 2.0}}]}, "results[0].size: is missing"),
        ({"config": {"devices": 7}}, "config.devices: 7 should be a valid list"),
        ({"args": None}, "args: None should be a valid list"),
        ({"results": [3]}, "results[0]: 3 should be a mapping"),
        ({"results": []}, "holds no result"),
        ({"config": {}}, "config.devices names fewer than two ranks"),
    ],
)  # fmt: skip
def test_json_of_nccl_tests_that_is_wrong_is_told(tmp_path, changes, said):
    assert said in problem_of(write(tmp_path, "t.json", json.dumps(report(**changes))))


# --- serving benchmarks ---

VLLM = {"backend": "vllm", "model_id": "m", "max_concurrency": 32, "request_throughput": 5.0,
        "output_throughput": 1300.0, "mean_ttft_ms": 60.0, "median_ttft_ms": 50.0, "mean_tpot_ms": 22.0}  # fmt: skip
SGLANG = {"model": "m", "concurrency": 30.5, "request_throughput": 5.0, "input_throughput": 2e3,
          "output_throughput": 1e3, "mean_e2e_latency_ms": 6e3, "mean_ttft_ms": 61.0, "mean_tpot_ms": 23}  # fmt: skip


def test_benchmarks_are_read_in_si(tmp_path):
    vllm = read_benchmark(write(tmp_path, "v.json", json.dumps(VLLM)), "v.json")
    assert vllm.metrics == pytest.approx(
        {"ttft": 0.06, "tpot": 0.022, "tokens_per_second": 1300.0, "requests_per_second": 5.0, "concurrency": 32.0}
    )
    sglang = read_benchmark(write(tmp_path, "s.jsonl", json.dumps(SGLANG) + "\n"), "s.jsonl")
    assert sglang.metrics["latency"] == pytest.approx(6.0)
    assert sglang.metrics["concurrency"] == 30.5


LOADED = VLLM | {"request_rate": "inf", "completed": 100, "total_input_tokens": 1e5, "total_output_tokens": 2.5e4}
AVERAGES = {
    "schema_version": "1.5", "request_throughput": {"unit": "requests/sec", "avg": 1.5},
    "time_to_first_token": {"unit": "ms", "avg": 60.0, "p50": 50.0}, "inter_token_latency": {"unit": "us", "avg": 2e4},
    "input_sequence_length": {"unit": "tokens", "avg": 1000.0}, "input_config": {"loadgen": {"concurrency": 32}},
}  # fmt: skip
SNAPSHOT = """# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 7.0
vllm:time_to_first_token_seconds_sum{engine="0"} 6.0
vllm:time_to_first_token_seconds_count{engine="0"} 100
vllm:time_to_first_token_seconds_sum{engine="1"} 12.0
vllm:time_to_first_token_seconds_count{engine="1"} 100
vllm:inter_token_latency_seconds_sum 9.0
vllm:inter_token_latency_seconds_count 300
vllm:request_time_per_output_token_seconds_sum 4.0 1700000000000
vllm:request_time_per_output_token_seconds_count 200
vllm:request_prompt_tokens_sum 2e5
vllm:request_prompt_tokens_count 200
process_cpu_seconds_total 3.0
"""


def test_benchmarks_state_their_load(tmp_path):
    vllm = read_benchmark(write(tmp_path, "v.json", json.dumps(LOADED)), "v.json")
    assert vllm.load == Load(float("inf"), 32.0, 1000.0, 250.0)
    traced = read_benchmark(write(tmp_path, "s.json", json.dumps(SGLANG | {"request_rate": "trace"})), "s.json")
    assert traced.load == Load()
    rated = read_benchmark(write(tmp_path, "r.json", json.dumps(SGLANG | {"request_rate": 4})), "r.json")
    assert rated.load.rate == 4.0


def test_averages_with_units_are_read(tmp_path):
    assert is_benchmark(AVERAGES)
    one = read_benchmark(write(tmp_path, "a.json", json.dumps(AVERAGES)), "a.json")
    assert one.metrics == pytest.approx({"ttft": 0.06, "tpot": 0.02, "requests_per_second": 1.5})
    assert one.load == Load(None, 32.0, 1000.0, None)
    other = AVERAGES | {"input_config": {"perf_analyzer": {"stimulus": {"request_rate": 2.5}}}}
    assert read_benchmark(write(tmp_path, "g.json", json.dumps(other)), "g.json").load.rate == 2.5
    endless = AVERAGES | {"input_config": {"perf_analyzer": {"stimulus": {"request_rate": 10**400}}}}
    assert read_benchmark(write(tmp_path, "e.json", json.dumps(endless)), "e.json").load.rate is None


def test_what_servers_say_to_prometheus_is_read_over_all_their_engines(tmp_path):
    one = read_benchmark(write(tmp_path, "m.prom", SNAPSHOT), "m.prom")
    assert one.metrics == pytest.approx({"ttft": 18.0 / 200.0, "tpot": 0.02})  # of requests before that of tokens
    assert one.load == Load(None, None, 1000.0, None)
    sglang = SNAPSHOT.replace("vllm:", "sglang:").replace("request_time_per", "other_time_per")
    assert read_benchmark(write(tmp_path, "s.prom", sglang), "s.prom").metrics["tpot"] == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(SGLANG | {"request_rate": "fast"}), "request_rate: 'fast' is no rate"),
        (json.dumps(SGLANG | {"request_rate": -1}), "is no rate"),
        (json.dumps(AVERAGES | {"time_to_first_token": {"unit": "years", "avg": 1.0}}), "'years' is no unit of time"),
        (json.dumps(AVERAGES | {"inter_token_latency": {"unit": "ms"}}), "inter_token_latency.avg: is missing"),
        (SNAPSHOT.replace("6.0", "NaN"), "m:4: time_to_first_token_seconds_sum: 'NaN' is no sum or count"),
        ("vllm:time_to_first_token_seconds_count 0\n", "no request has ended yet"),
    ],
)
def test_a_load_or_snapshot_that_is_wrong_is_told(tmp_path, text, said):
    with pytest.raises(MeasurementError) as caught:
        read_benchmark(write(tmp_path, "m", text), "m")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(SGLANG) + "\n" + json.dumps(SGLANG), "holds 2 runs; keep one line"),
        (json.dumps(VLLM | {"mean_ttft_ms": -1}), "mean_ttft_ms: -1 should be greater than or equal to 0"),
        (json.dumps(VLLM | {"mean_tpot_ms": "fast"}), "mean_tpot_ms: 'fast' should be a valid number"),
        (json.dumps({"a": 1}), "is no serving benchmark"),
        (json.dumps(VLLM)[:-9], "is no valid JSON"),
    ],
)  # fmt: skip
def test_a_benchmark_that_is_wrong_is_told(tmp_path, text, said):
    with pytest.raises(MeasurementError) as caught:
        read_benchmark(write(tmp_path, "b.json", text), "b.json")
    assert said in str(caught.value)


# --- any of them, with something else in one place ---

NCCL_KERNEL = {"Collective name": "_allgather_base", "dtype": "BFloat16", "In msg nelems": 9, "Group size": 8}
TRACE = trace(cpu_op(1, "aten::mm", [[8, 16], [16, 32]], BF16), kernel(1, 10.0), kernel(2, 4.0, **NCCL_KERNEL))
ODD = [None, True, "x", -1, 0.5, 2**63, float("nan"), [], [[]], {}, {"x": 1}]


def places(value, path=()):
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


@pytest.mark.parametrize(
    "document", [TRACE, report(), LOADED, AVERAGES], ids=["trace", "nccl-tests", "benchmark", "averages"]
)
def test_whatever_stands_in_one_place_is_read_or_told(tmp_path, document):
    for path in list(places(document)):
        for value in ODD:
            changed = json.loads(json.dumps(document))
            inside = changed
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = value
            file = write(tmp_path, "t.json", json.dumps(changed))
            with suppress(MeasurementError):
                read_benchmark(file, "t.json") if is_benchmark(document) else read_foreign(file, "t.json")


def test_a_kernel_below_a_microsecond_is_a_row_and_one_of_no_time_is_none(tmp_path):
    products = [cpu_op(i, "aten::mm", [[64, 128], [128, n]], BF16) for i, n in ((1, 256), (2, 512))]
    table = read_trace(tmp_path, *products, kernel(1, 0.5), kernel(2, 0.0))
    assert table.seconds.tolist() == pytest.approx([0.5e-6])
