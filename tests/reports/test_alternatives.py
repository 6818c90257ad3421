"""The paper's what-ifs: the closed-form alternatives exactly, each alone, and the others as two evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.schema.what_if import AlternativeFile, WhatIf, load_what_if
from reports.waterfall import waterfall
from reports.what_if.alternatives import alternatives, main

LAYERS, TOKENS, WIDTH, BANDWIDTH = 61, 32, 7000, 50e9


def test_each_alternative_of_the_bound_stands_against_14_76_ms_alone() -> None:
    found = alternatives(load_what_if("ep_decode_bound"))
    base = 2 * LAYERS * 3 * TOKENS * 9 * WIDTH / BANDWIDTH
    expected = [base * 2 / 3, base * 2.25 / 3, base * 4 / 9, base / 9, base * 50 / 900]
    assert [one.before for one in found] == pytest.approx([base] * 5, rel=1e-12)
    assert [one.after for one in found] == pytest.approx(expected, rel=1e-12)
    assert [f"{1e3 * value:.2f}" for value in (base, *expected)] == ["14.76", "9.84", "11.07", "6.56", "1.64", "0.82"]
    assert all(one.limit and one.cite for one in found)


def test_the_ladder_multiplies_the_same_factors() -> None:
    ladder = waterfall("ep_decode_bound")
    assert ladder.terms[-1].after == pytest.approx(ladder.start * 2 / 3 / 9 * 50 / 900, rel=1e-12)


def test_every_change_of_the_paper_is_two_evaluations_or_says_why_not() -> None:
    what_if = load_what_if("insights_deepseek_v3")
    assert all(bool(one.set) != bool(one.why) for one in what_if.file.alternatives)
    found = {(one.term, one.scenario): one for one in alternatives(what_if)}
    both = found["FP32 accumulation and native block scaling", "training"]
    alone = found["FP32 accumulation", "training"], found["native block scaling", "training"]
    assert all(one.after == one.before for one in alone)  # one FFMA promotes and scales: it stays for the other
    assert both.after < both.before
    freed = found["communication co-processor, no SMs for messages", "training"]
    changed = costmodel.load("deepseek_v3", set={"scenarios.training.communication.processors": "0"})
    assert freed.after == changed.evaluate("training").metrics["step_time"]
    slower = {one.term for one in found.values() if one.after > one.before * (1 + 1e-12)}
    assert slower == {
        f"combine in LogFMT-10, encoded by the exchange's kernels at {share} % more time" for share in (50, 100)
    }
    assert all(one.ratio is None or one.ratio[0] <= one.after / one.before <= one.ratio[1] for one in found.values())


def only(what_if: WhatIf, alternative: AlternativeFile) -> WhatIf:
    return replace(what_if, file=what_if.file.model_copy(update={"alternatives": [alternative]}))


def test_errors_that_both_sides_share_do_not_blur_what_a_change_is_worth() -> None:
    what_if = load_what_if("insights_deepseek_v3")
    memory = next(one for one in what_if.file.alternatives if one.term.startswith("stacked DRAM"))
    found = alternatives(only(what_if, memory))
    assert {one.scenario for one in found} == {"training", "prefill", "decode"}
    for one in found:
        result = costmodel.load("deepseek_v3", scenarios=[one.scenario]).evaluate(one.scenario)
        interval = result.interval(one.metric)
        assert one.ratio is not None
        assert interval is not None
        assert np.log(one.ratio[1] / one.ratio[0]) < 0.5 * np.log(float(interval[1]) / float(interval[0]))
        assert one.clear


def test_a_change_of_a_fabric_is_worth_what_flows_take() -> None:
    what_if = load_what_if("insights_deepseek_v3")
    (routing,) = (one for one in what_if.file.alternatives if one.message is not None)
    (found,) = alternatives(only(what_if, routing))
    assert found.after < found.before
    derived = next(one for one in what_if.file.alternatives if "23.85 GB/s" in one.term)
    assert derived.against == {"hardware.node.nic.bandwidth": "23.85 GB/s"}
    assert 50 * found.after / found.before == pytest.approx(23.85, rel=2e-3)


def test_the_page_has_every_alternative(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ep_decode_bound", "--output", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert capsys.readouterr().out in page
    for words in ("9.838 ms", "6.559 ms", "1.64 ms", "819.8 us", "0.68 to 1.37 ms"):
        assert words in page


def test_an_alternative_without_changes_or_reason_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "workloads" / "what_ifs"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text(
        "schema: costmodel/what_if@1\ntitle: t\nworkload: deepseek_v3\nscenario: decode\nmetric: tpot\n"
        "alternatives: [{term: nothing}]\n"
    )
    with pytest.raises(InputError, match="has either `set` or `why`"):
        load_what_if("bad", (str(tmp_path),))
