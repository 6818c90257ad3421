"""The published what-ifs: the page, its figures, and how a few of them follow from what the model says."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from costmodel.report.style import styled
from costmodel.schema.files import load_model
from costmodel.schema.what_if import load_levers, load_what_if
from costmodel.study.messages import answered, read_message
from costmodel.study.what_if import Worth
from costmodel.workload.counting import kv_bytes_per_token
from reports.page import rendered
from reports.what_if.hardware import of_dollars
from reports.what_if.model import MODELS, of_cache, ranked

FOLDER = Path(__file__).resolve().parents[2] / "reports" / "what_if"


@pytest.fixture(autouse=True)
def _style():
    with styled():
        yield


def rows(asked):
    return list(csv.DictReader(io.StringIO(asked.drawn.data[""].decode())))


def test_the_published_page_shows_every_figure_with_its_data() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"\]\((\w+)\.svg\)", page))
    assert drawn == {path.stem for path in FOLDER.glob("*.svg")}
    for name in drawn:
        assert (FOLDER / f"{name}.csv").is_file()
        assert f"({name}.csv)" in page


def test_a_cache_grows_with_its_context_by_the_bytes_of_a_token() -> None:
    asked = of_cache()
    for name in MODELS:
        each = float(kv_bytes_per_token(load_model(name)))
        own = [row for row in rows(asked) if row["curve"].startswith(f"{name} ")]
        assert own
        for row in own:
            assert float(row["value"]) == each * float(row["context length (tokens)"])


def test_a_token_costs_its_share_of_the_rent() -> None:
    asked = of_dollars()
    own = [row for row in rows(asked) if row["curve"] == "one user"]
    per_rent = {round(float(row["value"]) / float(row["A100 rent ÷ RTX 4090 rent"]), 9) for row in own}
    assert len(per_rent) == 1
    assert f"more than {1 / per_rent.pop():.2f} to" in asked.drawn.figure.get_suptitle().replace("\n", " ")
    assert any("rtx-4090: RunPod, Secure Cloud on demand" in line for line in asked.says)


def test_recommendations_are_ranked_and_what_gains_nothing_is_named() -> None:
    def worth(term: str, after: float) -> Worth:
        return Worth(term, "decode", "tpot", {}, before=1.0, after=after, ratio=(after * 0.9, after * 1.1))

    refused = Worth("another", "decode", "tpot", {}, before=1.0, refused="the scenario has it already")
    asked = ranked("some", {"decode": [worth("small", 0.98), worth("none", 1.0), refused, worth("large", 0.5)]})
    assert [row["bar"] for row in rows(asked)] == ["large", "small"]
    assert [(row["low"], row["high"]) for row in rows(asked)] == [
        (repr(1 - 0.5 * 1.1), repr(1 - 0.5 * 0.9)), (repr(1 - 0.98 * 1.1), repr(1 - 0.98 * 0.9)),
    ]  # fmt: skip
    assert asked.says[0] == "decode, no gain by this model: none (+0.0%)."
    assert asked.drawn.figure.get_suptitle() == "Large: saves most, 50% of decode"


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
    page = FOLDER.parents[1] / "docs" / "recommendations.md"
    assert page.read_text(encoding="utf-8") == rendered("what_if/levers", file=load_levers("insights_deepseek_v3"))
