"""What mechanisms are worth: how they are switched off, and which of them stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from costmodel.records import replace
from costmodel.schema.case import resolve_case
from costmodel.schema.references import Library, package_root
from costmodel.study.published.reproduce import load_cases
from reports.ablation import (
    TABLE,
    Effect,
    Mechanism,
    Score,
    compared,
    effects,
    rests_on,
    states,
    switched_off,
    verdict,
    write_without,
)

TRAINED, SERVED = "megatron_lm", "aiconfigurator"  # publications with short runs
MECHANISMS = [Mechanism(**row) for row in yaml.safe_load(TABLE.read_text(encoding="utf-8"))["mechanisms"]]
PAGE = Path(__file__).parents[2] / "docs" / "mechanisms.md"
SLOWDOWN = Mechanism("slowdown", "analytic", 12, without={"sustained_slowdown": 1})


@dataclass
class Figure:
    id: str
    error: float
    publication: str = "paper"
    case_class: str = "training"
    metric: str = "step_time"
    published: float = 1.0
    low: float = 0.9
    high: float = 1.1


def effect(publication: str, with_it: float, without: float, *, has_part: bool = False) -> Effect:
    return Effect("training", publication, Score(3, with_it, 0.0, 0.0), Score(3, without, 0.0, 0.0), has_part)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([effect("a", 0.05, 0.07), effect("b", 0.05, 0.061)], "gains on 2 publications"),
        ([effect("a", 0.05, 0.07), effect("b", 0.05, 0.059)], ""),
        ([effect("a", 0.05, 0.07), effect("b", 0.05, 0.07, has_part=True)], ""),
    ],
)
def test_a_law_stays_if_it_gains_a_point_on_two_publications_without_a_part(found: list[Effect], reason: str) -> None:
    assert verdict(SLOWDOWN, found) == reason


def test_a_fact_stays_if_its_code_is_short() -> None:
    assert [verdict(Mechanism("fact", "workload", lines, fact=True), []) for lines in (9, 10)] == ["fact", ""]


def test_publications_are_compared_over_the_figures_that_both_have() -> None:
    on = [Figure("a", 0.1), Figure("b", -0.3), Figure("c", 0.5, "other")]
    off = [Figure("a", 0.2), Figure("b", -0.6, high=0.95), Figure("new", 9.0)]
    (found,) = effects(on, off, {"paper"})  # type: ignore[arg-type]
    assert (found.on.figures, found.on.mean, found.off.mean) == (2, pytest.approx(0.2), pytest.approx(0.4))
    assert (found.on.inside, found.off.inside, found.has_part) == (1.0, 0.5, True)


def test_a_run_without_its_slowdown_is_shorter() -> None:
    cases = [case for case in load_cases([TRAINED])[0] if case.skip is None]
    library = Library()
    assert all(states(SLOWDOWN, case, resolve_case(case, library=library)) for case in cases)
    (before,), (after,) = compared(cases), compared(switched_off(SLOWDOWN, cases))
    assert before.predicted is not None
    assert after.predicted is not None
    assert after.predicted > 1.1 * before.predicted  # a rate
    (case,) = switched_off(SLOWDOWN, cases)
    assert not states(SLOWDOWN, case, resolve_case(case, library=library))


def test_calibrations_are_written_without_a_key(tmp_path: Path) -> None:
    write_without(["extra_keys_per_query"], tmp_path)
    written = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.yaml")}
    stated = [
        path for path in (package_root() / "hardware").rglob("*.yaml") if "extra_keys_per_query" in path.read_text()
    ]
    assert len(written) == len(stated) > 0
    assert not any("extra_keys_per_query" in text for text in written.values())


def test_every_key_of_the_table_is_one_of_a_framework() -> None:
    for name in (TRAINED, SERVED):
        case = load_cases([name])[0][0]
        document = resolve_case(case)
        for mechanism in MECHANISMS:
            states(mechanism, case, document)  # an unknown key is an error
    with pytest.raises(Exception, match="no_such_key"):
        states(replace(SLOWDOWN, without={"no_such_key": 1}), case, document)


def test_a_mechanism_rests_on_what_its_keys_and_those_below_them_state() -> None:
    assert {"mosaicml", "vtrain"} <= set(rests_on(SLOWDOWN, Library()))
    assert rests_on(Mechanism("prompts", "analytic", 1, without={"eager_prompts": None}), Library())


def test_every_mechanism_has_a_row_on_the_page_with_a_reason_to_stay() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "| `" in line]
    assert [row[0] for row in rows] == [mechanism.name for mechanism in MECHANISMS]
    assert not [row[0] for row in rows if not row[-1]]
