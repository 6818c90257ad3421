"""Files of requests: every format, and every mistake at its row."""

import gzip
import itertools
import json

import numpy as np
import pytest

from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.serving import trace_requests, traces
from costmodel.serving.state import Calls, Paths, Requests
from costmodel.serving.trace_requests import dealt, paths_of_trace, read_trace, trace_block
from costmodel.serving.traces import read_rows
from costmodel.workload.requests import RequestStream

HEAD = "arrival_s,input_tokens,output_tokens\n"


def written(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FILES = {
    "requests.csv": HEAD + "1.5,100,20\n2.5,50,10\n",
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.5000000,100,20\n2023-11-16 18:15:47.5000000,50,10\n",
    "fractions.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46,100,20\n2023-11-16 18:15:46.9999999,50,10\n",
    "short.csv": "timestamp,input,output\n0,100,20\n1,50,10\n",
    "other.csv": "id,Arrival Time,prompt_tokens,completion_tokens\na,3,100,20\nb,4,50,10\n",
    "vidur.csv": "arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,20\n1,50,10\n",
    "burst.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,GPT-4,100,20,120,API log\n5.5,GPT-4,7,0,7,API log\n6,GPT-4,50,10,60,API log\n",
    "mooncake.jsonl": '{"timestamp": 2000, "input_length": 100, "output_length": 20, "hash_ids": [3]}\n'
    '{"timestamp": 3000, "input_length": 50, "output_length": 10, "hash_ids": [4]}\n',
    "bench.json": json.dumps({"start_times": [9.0, 8.0, 8.5], "input_lens": [50, 100, 3], "output_lens": [10, 20, 0]}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_requests(tmp_path, name):
    rows = list(read_rows(written(tmp_path, FILES[name], name)))
    assert [(row.prompt, row.output) for row in rows] == [(100, 20), (50, 10)]
    assert rows[1].arrival - rows[0].arrival == pytest.approx(1.0)


def test_a_file_is_read_once_for_engines_with_blocks_of_different_sizes(tmp_path, monkeypatch):
    line = '{"timestamp": 0, "input_length": 1024, "output_length": 20, "hash_ids": [3, 4]}\n'
    stream = RequestStream(trace=str(written(tmp_path, line, "m.jsonl")))
    blocks = [read_trace(stream, 16).paths.blocks.tolist()]
    monkeypatch.setattr(trace_requests, "read_rows", lambda *_: pytest.fail("read again"))
    assert [*blocks, read_trace(stream, 32).paths.blocks.tolist()] == [[64], [32]]


BAD = {
    "a number for a list": ('{"timestamp": 0, "input_length": 9, "output_length": 4, "wait_for": 5}', 1, "no list"),
    "numbers for objects": ('{"timestamp": 0, "input_length": 9, "output_length": 4, "dependencies": 5}', 1, "no list"),
    "negative time": (HEAD + "0,1,1\n-1,1,1\n", 3, "no time"),
    "unsorted": (HEAD + "2,1,1\n1,1,1\n", 3, "before the request above"),
    "NaN": (HEAD + "0,1,1\nnan,1,1\n", 3, "no time"),
    "NaN tokens": (HEAD + "0,nan,1\n", 2, "whole number"),
    "no output": (HEAD + "0,5,0\n", 2, "out of range"),
    "half a token": (HEAD + "0,5.5,1\n", 2, "whole number"),
    "a huge request": (HEAD + "0,1e12,1\n", 2, "out of range"),
    "a short row": (HEAD + "0,5\n", 2, "2 values for 3 columns"),
    "other columns": ("a,b\n1,2\n", 1, "rename a, b to `arrival_s`, `input_tokens`, `output_tokens`"),
    "one other column": (
        "time,prompt_tokens,said\n1,2,3\n",
        1,
        "known to be `output_tokens`: .*; rename said to `output_tokens`",
    ),
    "binary": (b"\x7fELF\0\0\0\1", 1, "no text"),
    "other text": (HEAD.encode() + b"0,\xff,1\n", 2, "UTF-8"),
    "a priority of letters": ("arrival_s,input_tokens,output_tokens,priority\n0,1,1,high\n", 2, "no whole number"),
    "a priority beyond": ("arrival_s,input_tokens,output_tokens,priority\n0,1,1,1e12\n", 2, "out of range"),
    "infinite blocks": (
        '{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [Infinity]}\n',
        1,
        "block",
    ),
    "huge blocks": ('{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [1e30]}\n', 1, "block"),
    "huge tokens": ('{"timestamp": 1, "input_length": 1' + "0" * 400 + ', "output_length": 1}\n', 1, "whole number"),
    "deep JSON": ('{"a": ' + "[" * 100_000 + "\n", 1, "no JSON"),
    "cut JSON": ('{"timestamp": 1, "input_len\n', 1, "no JSON"),
    "nothing": (HEAD, None, "no requests"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_trace_is_an_error_at_its_row(tmp_path, name):
    text, line, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        list(read_rows(written(tmp_path, text)))
    assert caught.value.problems[0].location.line == line


def test_times_of_a_benchmark_may_be_of_any_kind_in_a_file_and_are_told(tmp_path):
    text = '{"start_times": [0, "x", null], "input_lens": [5, 5, 5], "output_lens": [5, 5, 5]}'
    with pytest.raises(InputError, match="start_times 'x' is no time"):
        list(read_rows(written(tmp_path, text, "bench.json")))


@pytest.mark.parametrize(
    "lists",
    [
        {"start_times": [0, 1], "input_lens": [5], "output_lens": [5, 5]}, {"start_times": [0], "input_lens": [5]},
        {"start_times": 0, "input_lens": [5], "output_lens": [5]},
        {"start_times": [], "input_lens": [], "output_lens": []},
    ],
)  # fmt: skip
def test_a_benchmark_s_lists_are_there_and_of_one_length(tmp_path, lists):
    with pytest.raises(InputError, match="lacks start_times, input_lens, output_lens of one length"):
        list(read_rows(written(tmp_path, json.dumps(lists), "bench.json")))


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_lines_end_as_on_any_system(tmp_path, end):
    path = written(tmp_path, end.join((HEAD.strip(), "0,100,20", "", "1,50,10")))
    assert [(row.line, row.prompt, row.output) for row in read_rows(path)] == [(2, 100, 20), (4, 50, 10)]


def test_a_prompt_of_a_million_tokens_names_all_its_blocks(tmp_path):
    """A cell of them has more than the 131,072 characters that Python's reader takes by itself."""
    ids = " ".join(map(str, range(10_000, 72_500)))
    assert len(ids) > 300_000
    (row,) = read_rows(written(tmp_path, f"{HEAD.strip()},block_ids\n0,1000000,1,{ids}\n"))
    assert len(row.blocks) == 62_500


def test_an_archive_of_empty_lines_ends_with_an_error(tmp_path):
    """A megabyte may hold a gigabyte of them."""
    path = written(tmp_path, gzip.compress(HEAD.encode() + b"\n" * 3_000_000), "trace.csv.gz")
    with pytest.raises(InputError, match="follows 1,000,000 empty lines"):
        list(read_rows(path))


def test_an_archive_is_as_large_as_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "MAX_BYTES", 10_000)
    path = written(tmp_path, gzip.compress((HEAD + "0,1,1\n" * 2_000).encode()), "trace.csv.gz")
    assert path.stat().st_size < 1_000
    with pytest.raises(InputError, match="is larger than"):
        list(read_rows(path))
    assert len(list(read_rows(path, count=100))) == 100


def test_a_trace_may_state_priorities(tmp_path):
    path = written(tmp_path, HEAD.strip() + ",priority\n0,5,5,-1\n1,5,5,2\n")
    assert read_trace(RequestStream(trace=str(path)), 16).priority.tolist() == [-1, 2]
    path = written(tmp_path, FILES["requests.csv"])
    assert not len(read_trace(RequestStream(trace=str(path)), 16).priority)


def test_a_damaged_archive_is_an_error(tmp_path):
    whole = gzip.compress((HEAD + "0,1,1\n" * 5_000).encode())
    with pytest.raises(InputError, match="cannot be read"):
        list(read_rows(written(tmp_path, whole[:30] + b"\xff" * 20 + whole[50:], "trace.csv.gz")))


def test_a_cut_archive_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        list(read_rows(written(tmp_path, b"\x1f\x8b\x08\0broken", "trace.csv.gz")))


def test_a_trace_begins_at_zero_and_takes_its_speed(tmp_path):
    stream = RequestStream(trace=str(written(tmp_path, HEAD + "5,8,1\n9,8,1\n")), speed=2.0)
    assert read_trace(stream, 16).arrival.tolist() == [0.0, 2.0]


def test_a_shuffle_deals_lengths_out_among_arrivals_and_sessions_stay_whole(tmp_path):
    """Each arrival and each length is there once; what a request calls comes no sooner after it than it did."""
    rows = "".join(f"{moment},{8 + moment},1\n" for moment in range(50))
    stream = RequestStream(trace=str(written(tmp_path, HEAD + rows)))
    plain, other = read_trace(stream, 16), read_trace(replace(stream, shuffle=3), 16)
    assert other.arrival.tolist() == plain.arrival.tolist()
    assert other.length.tolist() != plain.length.tolist()
    assert sorted(other.length.tolist()) == plain.length.tolist()
    assert read_trace(replace(stream, shuffle=3), 16).length.tolist() == other.length.tolist()
    calls = Calls.of(4, [0, 2], [1, 3], [5.0, 7.0])
    length = np.array([[10, 1], [11, 1], [20, 1], [21, 1]])
    sessions = Requests(np.array([0.0, np.inf, 9.0, np.inf]), length, calls, Paths.none(4), earliest=np.full(4, 1.0))
    swapped = next(one for one in (dealt(sessions, seed) for seed in range(9)) if one.length[0, 0] == 20)
    assert swapped.arrival.tolist() == [0.0, 9.0, np.inf, np.inf]
    assert swapped.length[swapped.calls.called].ravel()[::2].tolist() == [21, 11]
    assert swapped.earliest[swapped.calls.called].tolist() == [0.0, 10.0]


def test_blocks_of_a_trace_become_those_of_the_engine():
    """Two prompts of one beginning: blocks of 512 tokens are two each of 256, the last one only as far as it goes."""
    prompt, number = np.array([1024, 1300]), np.array([2, 3])
    paths = paths_of_trace(np.array([7, 8, 7, 9, 5]), number, prompt, 256, trace_block(number, prompt, "trace"))
    assert paths.blocks.tolist() == [4, 5]
    one, other = (paths.runs[first:end] for first, end in itertools.pairwise(paths.first))
    assert [each[0] for each in (one, other)] == [one[0], one[0]]
    assert paths.sizes[one].tolist() == [2, 2]
    assert paths.sizes[other].tolist() == [2, 4]  # of which the prompt has three
    assert len({*one[1:], *other[1:]}) == 2
