"""The systems of the sources: each has its file, and their claims hold as far as the report says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

import costmodel
from costmodel.schema.files import validate
from costmodel.schema.references import Library
from costmodel.study.published.reproduce import ASSUMED, IDENTITY, PASS, SKIP, Comparison, load_cases, reproduce
from costmodel.workload.architecture import Attention
from reports.systems.__main__ import CASES, PAPERS, _is_check, scored

ENOUGH = 0.9  # of the published figures within tolerance


@pytest.fixture(scope="module")
def comparisons() -> Sequence[Comparison]:
    cases, problems = load_cases(list(CASES))
    found, more = reproduce(cases)
    assert [str(problem) for problem in (*problems, *more)] == []
    return found


def test_every_figure_is_cited_has_its_own_name_and_runs(comparisons: Sequence[Comparison]) -> None:
    assert len({(one.id, one.metric) for one in comparisons}) == len(comparisons)
    assert all(one.source for one in comparisons)
    assert [one.id for one in comparisons if one.verdict == "infeasible"] == []


def test_most_claims_hold(comparisons: Sequence[Comparison]) -> None:
    claims = scored(comparisons)
    assert sum(one.verdict == PASS for one in claims) >= ENOUGH * len(claims)


def test_what_holds_by_construction_holds_and_no_error_scores_it(comparisons: Sequence[Comparison]) -> None:
    identities = [one for one in comparisons if one.state == IDENTITY]
    assert len(identities) >= 18
    assert [one.id for one in identities if one.verdict != PASS] == []
    unscored = [one for one in comparisons if one.state in (IDENTITY, ASSUMED)]
    assert all(one.error is None and one.reason and one.predicted is not None for one in unscored)
    assert not any(one in scored(comparisons) for one in unscored)


def test_checks_of_structure_hold(comparisons: Sequence[Comparison]) -> None:
    assert [one.id for one in comparisons if _is_check(one.id) and one.verdict != PASS] == []


def test_every_paper_has_files_with_a_verdict_or_says_why_not() -> None:
    cases = load_cases(list(CASES))[0]
    named = {case.scenario.text("workload") for case in cases if case.scenario and case.skip is None}
    listed = yaml.safe_load(PAPERS.read_text())
    assert len(listed) == 46
    assert [one["paper"] for one in listed if not one["files"] and not one["left"]] == []
    own = [one["files"] for one in listed if one["files"] and not one["files"][0].startswith("../")]
    assert {name for names in own for name in names} <= set(Library().names("systems"))
    assert [names for names in own if not named & {f"systems/{name}" for name in names}] == []


@pytest.mark.parametrize(("places", "tile"), [([4096], 64), ([64, 64], 8), ([16, 16, 16], 4)])
def test_a_neighbourhood_without_tiles_is_computed_in_tiles_of_64_places(
    tmp_path: Path, places: list[int], tile: int
) -> None:
    def pairs(more: dict[str, int]) -> float:
        axes = [{"size": size, "window": 9, **more} for size in places]
        group = {"share": 1.0, "pattern": {"kind": "neighbourhood", "axes": axes}}
        mixer = {"type": "attention", "q_heads": 8, "causal": False, "head_groups": [group]}
        model = {"name": "grid", "hidden": 64, "vocabulary": 10, "layers": [{"mixer": mixer, "ffn": {"type": "none"}}]}
        scenario = {"phase": "prefill", "cluster": "nodes/a100-x1", "input_tokens": 4096, "tokens_per_device": 4096}
        path = tmp_path / "workload.yaml"
        path.write_text(json.dumps({"schema": "costmodel/workload@1", "model": model, "scenarios": {"p": scenario}}))
        (layer,) = costmodel.load(str(path)).resolved.scenarios["p"].architecture.layers
        assert isinstance(layer.mixer, Attention)
        return float(layer.mixer.head_groups[0].pattern.pairs(4096.0, 4096.0, causal=False))

    assert pairs({}) == pairs({"query_tile": tile, "key_tile": tile})
    assert pairs({"query_tile": 1, "key_tile": 1}) == 4096 * 9 ** len(places)


def test_rows_left_out_say_why(comparisons: Sequence[Comparison]) -> None:
    assert all(one.reason for one in comparisons if one.verdict == SKIP)


MODEL = """
schema: costmodel/model@1
name: wrong
hidden: 1024
vocabulary: 32000
layers:
  - mixer: {mixer}
    ffn: {{type: glu, intermediate: 2816}}
"""
ATTENTION = "{{type: attention, q_heads: 8, head_groups: [{{share: 1.0, pattern: {}}}]}}"


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        (ATTENTION.format("{kind: sink_recent, sink: 4}"), "recent"),
        (ATTENTION.format("{kind: sink_recent, sink: -4, recent: 64}"), "sink"),
        (ATTENTION.format("{kind: strided, block: 64}"), "strided"),
        (ATTENTION.format("{kind: strided_blocks, block: 64, local: 2, stride: 0}"), "stride"),
        (ATTENTION.format("{kind: elastic_window, alpha: .nan, beta: 0.5}"), "alpha"),
        (ATTENTION.format("{kind: kv_budget, budget: 0.2, full_share: 0.5}"), "budget"),
        (ATTENTION.format("{kind: neighbourhood, axes: [{size: 8, window: 16}]}"), "exceeds the axis"),
        (ATTENTION.format("{kind: neighbourhood, axes: [{size: 8, window: 4, key_tile: 2}]}"), "must be set together"),
        (ATTENTION.format("{kind: spans, scheme: axial, span: 4}"), "span"),
        (ATTENTION.format("{kind: chunked, chunk: 16, prefix: 16}"), "prefix must be smaller"),
        ("{type: attention, q_heads: 8, kv_source: {tokens: 77}}", "causal: false"),
        ("{type: attention, q_heads: 8, causal: false, kv_source: {width: 77}}", "that of another sequence"),
        ("{type: attention, q_heads: 8, causal: false, kv_source: {tokens: 7, share: 0.5}}", "own tokens"),
        ("{type: attention, q_heads: 8, score: relative}", "materialised: true"),
        ("{type: attention, q_heads: 8, route: {shared: 2, routed: 4, top_k: 2}}", "do not sum to q_heads"),
        ("{type: attention, q_heads: 8, route: {shared: 4, routed: 4, top_k: 5}}", "top_k must not exceed routed"),
        (
            "{type: linear, heads: 8, key_dim: 128, chunk: 64, memories: {number: 2, top_k: 3}}",
            "top_k must not exceed number",
        ),
        ("{type: linear, heads: 8, key_dim: 128, chunks: 64}", "chunk"),
        ("{type: memory, heads: 8, depth: 0, chunk: 64}", "depth"),
        (ATTENTION.format("{kind: window, window: -5}"), "pattern.window: -5 is too small"),
        ("{type: attention, q_heads: 8, route: {shared: 0, routed: 8}}", "write one of the two"),
        ("{type: attention, q_heads: 8, route: {shared: 0, routed: 8, top_k: 4, tokens: 0.5}}", "write one of the two"),
        ("{type: attention, q_heads: 8, kernel: {permuted: true, materialised: true}}", "permuted has no effect"),
        ("{type: attention, q_heads: 8, kernel: {one_launch: true}}", "several head groups"),
        ("{type: attention, q_heads: 8, head_groups: [{pattern: {kind: full}}]}", "either `share` or"),
        (
            "{type: attention, q_heads: 8, head_groups: [{heads: 4, pattern: {kind: full}}, "
            "{heads: 5, pattern: {kind: window, window: 64}}]}",
            "sum to 9 of 8",
        ),
    ],
)
def test_wrong_systems_are_refused_with_their_place(tmp_path: Path, mixer: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(MODEL.format(mixer=mixer))
    problems = [str(problem) for problem in validate(path)]
    assert any(message in problem and "wrong.yaml" in problem for problem in problems), problems
