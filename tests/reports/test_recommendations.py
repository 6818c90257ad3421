"""What a paper recommends: what a change of a fabric is worth, and the page of the list."""

from __future__ import annotations

from pathlib import Path

import pytest

from costmodel.errors import InputError
from costmodel.schema.what_if import load_levers, load_what_if
from costmodel.study.messages import answered, read_message
from reports.page import rendered

ROOT = Path(__file__).resolve().parents[2]


def test_a_change_of_a_fabric_is_worth_what_flows_take() -> None:
    changes = load_what_if("insights_deepseek_v3").file.alternatives
    (routing,) = (one for one in changes if one.message is not None)
    message = routing.message
    assert message is not None
    asked = read_message(message.kind, message.ranks, message.size, "deepseek-v3")
    before, after = (
        answered(asked, message.cluster, "flow", side)[0].time
        for side in (routing.against, {**routing.against, **routing.set})
    )
    assert after < before
    derived = next(one for one in changes if "23.85 GB/s" in one.term)
    assert derived.against == {"hardware.node.nic.bandwidth": "23.85 GB/s"}
    assert 50 * after / before == pytest.approx(23.85, rel=2e-3)


def test_the_page_of_recommendations_is_the_one_that_their_file_generates() -> None:
    page = ROOT / "docs" / "recommendations.md"
    assert page.read_text(encoding="utf-8") == rendered("recommendations", file=load_levers("insights_deepseek_v3"))


@pytest.mark.parametrize("option", ["size=5", "rings=", "=ring", "stride=0", "chunks=many", f"seed={'9' * 5000}"])
def test_a_message_s_options_are_its_own(option: str) -> None:
    with pytest.raises(InputError, match=r"has no option|is no whole number"):
        read_message(f"all_reduce:{option}", 8, "1 MB", "deepseek-v3")
    assert read_message("all_reduce:framework=vllm", 8, "1 MB", "deepseek-v3").framework == "vllm"
