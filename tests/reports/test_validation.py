"""The evidence of whole scenarios: errors, bars, groups, pages and figures of small case files."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from small_world import problems_of, write

from costmodel.calibration.fit_files import read
from costmodel.records import replace
from costmodel.report.plots.validation import POINTS, quantity_kind
from costmodel.report.style import figure_bytes, styled
from costmodel.schema.case import AccuracyTargetFile, ValidationFile, ValueSelectionFile
from costmodel.schema.references import Library
from costmodel.study.published.accuracy import errors_of
from costmodel.study.published.reproduce import Comparison, load_cases
from reports.validation.__main__ import main, publish
from reports.validation.scored import ScoredValue, chosen, figures_of, judge, settings, validation_plot

CASES = """
schema: costmodel/case@1
source: {cite: "a paper", verified: true}
cases:
  - id: fast
    class: training
    scenario: {model: models/tiny, phase: training, cluster: clusters/pair, parallel: {dp: 8}, global_batch: 16,
               sequence: 128}
    expect: [{metric: step_time, value: 1 s, tolerance: 10 %}, {metric: tokens_per_second, value: 1e6, check: lower}]
  - id: slow
    class: training
    scenario: {model: models/tiny, phase: training, cluster: clusters/pair, parallel: {dp: 8}, global_batch: 32,
               sequence: 128}
    expect: [{metric: step_time, value: 1 us, tolerance: 10 %}]
  - {id: none, skip: "nothing is stated"}
"""
PLAN = """
schema: costmodel/validation@1
name: mine
bars:
  - {name: steps, figures: {metrics: [step_time]}, statistic: mean, bar: 5 %}
  - {name: absent, figures: {publications: [other]}, statistic: mean, bar: 5 %}
causes:
  - {figures: {cases: ["s*"]}, text: the clock was wrong}
discrepancies:
  - {figures: {cases: [fast]}, text: two pages differ, source: {cite: "a paper, page 2"}}
tools:
  - {tool: other, compared: itself, error: 1 %, source: {cite: "its page"}}
"""


@pytest.fixture
def small(world):
    """Return the small world with one publication and what is said of it."""
    write(world, "workloads/published/paper.yaml", CASES)
    write(world, "workloads/validations/mine.yaml", PLAN)
    write(world, "hardware/fit_plans/end_to_end.yaml", "schema: costmodel/fit_plan@1\nname: end_to_end\nterms: []\n")
    return world


def comparison(error=None, low=None, high=None, **changed):
    predicted = 1.0 + (error or 0.0)
    made = Comparison(
        id="a",
        publication="paper",
        case_class="training",
        metric="step_time",
        unit="s",
        published=1.0,
        predicted=predicted,
        low=low,
        high=high,
        error=error,
        verdict="pass",
        source="cite",
        state="unseen",
    )
    return replace(made, **changed)


def figures(small, *comparisons):
    (case, *_), _ = load_cases([str(small / "workloads/published/paper.yaml")], [str(small)])
    return [ScoredValue(case, one, one) for one in comparisons]


def test_errors_are_means_medians_and_shares_of_intervals():
    rows = [comparison(0.1, 0.9, 1.3), comparison(-0.3, 0.6, 0.8), comparison(0.5), comparison()]
    found = errors_of(rows)
    assert (found.figures, found.mean, found.median, found.worst) == (3, pytest.approx(0.3), 0.3, 0.5)
    assert found.bias == pytest.approx(0.1)
    assert (found.intervals, found.inside) == (2, 0.5)
    assert found.half_width == pytest.approx(((0.2 / 1.1 + 0.1 / 0.7) / 2) / 0.2)
    assert errors_of([comparison()]) is None


def test_an_interval_of_no_width_holds_nothing():
    found = errors_of([comparison(0.0, 1.0, 1.0)])
    assert (found.intervals, found.inside, found.half_width) == (0, None, None)


def test_figures_that_follow_from_one_another_share_one_weight():
    found = errors_of(
        [*(replace(comparison(0.3), group="step") for _ in range(9)), replace(comparison(0.1), group="other")]
    )
    assert (found.figures, found.groups) == (10, 2)
    assert found.mean == pytest.approx(0.2)
    assert found.median == pytest.approx(0.2)


def test_an_interval_that_rests_on_the_figure_holds_nothing():
    found = errors_of([replace(comparison(0.1, 0.9, 1.3), interval_unseen=False)])
    assert (found.figures, found.intervals, found.inside) == (1, 0, None)


def test_an_in_sample_figure_decides_on_no_bar(small):
    (one,) = figures(small, replace(comparison(0.01), state="in-sample"))
    asked = AccuracyTargetFile(name="steps", figures=ValueSelectionFile(), statistic="mean", bar="5 %")
    assert not judge([one], asked).reached


def test_the_second_column_decides_on_a_bar(small):
    (one,) = figures(small, comparison(0.01))
    asked = AccuracyTargetFile(name="steps", figures=ValueSelectionFile(), statistic="mean", bar="5 %")
    assert judge([one], asked).reached
    missed = judge([replace(one, unseen=comparison(0.2))], asked)
    assert (missed.stated, missed.unseen, missed.reached) == (pytest.approx(0.01), pytest.approx(0.2), False)
    assert not judge([], asked).reached


def test_a_share_of_intervals_has_to_be_at_least_its_bar(small):
    held, lost = figures(small, comparison(0.1, 0.9, 1.3), comparison(-0.3, 0.6, 0.8))
    asked = AccuracyTargetFile(name="all", figures=ValueSelectionFile(), statistic="inside", bar="50 %")
    assert judge([held, lost], asked).reached
    assert not judge([lost], asked).reached


@pytest.mark.parametrize(
    ("wanted", "count"),
    [({}, 2), ({"metrics": ["step_*"]}, 1), ({"cases": ["b"]}, 0), ({"classes": ["memory"]}, 0), ({"cases": ["a"]}, 2)],
)
def test_figures_are_chosen_by_every_condition(small, wanted, count):
    rows = figures(small, comparison(0.1), comparison(0.1, metric="mfu"))
    assert len(chosen(rows, ValueSelectionFile(**wanted))) == count


def test_settings_are_those_of_the_case_with_its_devices(small):
    (case, *_), _ = load_cases([str(small / "workloads/published/paper.yaml")], [str(small)])
    found = settings(replace(case, overrides={"scenarios.case.parallel.tp": "2", "model.layers.0.repeat": "3"}))
    assert (found["tp"], found["dp"], found["devices"], found["layers"]) == ("2", "8", "16", "3")
    assert found["model"] == "models/tiny"


def test_a_large_figure_shows_a_sample_that_is_the_same_every_time(small):
    rows = figures(small, *(comparison(0.1, 0.5, 2.0, published=float(at)) for at in range(1, 4 * POINTS)))
    with styled():
        again = [validation_plot("training", rows) for _ in range(2)]
        first, second = (figure_bytes(drawn.figure, "svg") for drawn in again)
    assert first == second
    assert f"{POINTS} shown".encode() in first
    assert again[0].data[""].count(b"\n") == 4 * POINTS  # with the headings, every figure


def test_nothing_scored_draws_nothing(small):
    with styled():
        assert validation_plot("training", figures(small, comparison())) is None


def test_kinds_of_quantities_share_a_panel():
    assert quantity_kind("step_time") == quantity_kind("schedule.bubble") == "time"
    assert quantity_kind("tokens_per_second_per_user") == "tokens/s"
    assert quantity_kind("mfu") == "share"
    assert quantity_kind("tokens_per_day") == "tokens_per_day"


def test_pages_have_errors_bars_and_remarks_and_are_the_same_again(small, tmp_path):
    out = tmp_path / "out"
    path = [str(small)]
    names = [str(small / "workloads/published/paper.yaml")]
    made = publish(out, names, path, "mine")
    assert [one.name for one in made] == ["training.svg", "training.png", "training.csv", "training.md", "README.md"]
    page, whole = (out / "training.md").read_text(), (out / "README.md").read_text()
    assert "![training: predicted against published](training.svg)" in page
    assert "| paper | `slow` | step_time | 1 us |" in page
    assert "the clock was wrong |" in page
    assert "| paper | `fast` | tokens_per_second | 1,000,000 |" in page
    assert "| steps | 2 | mean | ≤ 5.00 % |" in whole
    assert "**missed**" in whole
    assert "absent" not in whole
    assert "| other | itself | 1 % | its page; as reported, not read at its source |" in whole
    assert "two pages differ | a paper, page 2 |" in whole
    assert "| 1 | nothing is stated |" in whole
    assert str(small) not in page + whole
    before = [one.read_bytes() for one in made]
    assert [one.read_bytes() for one in publish(out, names, path, "mine")] == before


def test_a_wrong_plan_is_one_clear_error(small):
    write(
        small, "workloads/validations/wrong.yaml", PLAN.replace("statistic: mean, bar: 5 %", "statistic: mode, bar: -1")
    )
    told = problems_of(lambda: read(Library([str(small)]), "validations", "wrong", ValidationFile))
    assert {problem.field for problem in told} >= {"bars.steps.statistic", "bars.steps.bar"}
    assert all(problem.location is not None for problem in told)


def test_what_ships_speaks_of_figures_that_exist():
    said = read(Library(), "validations", "public", ValidationFile)
    cases, problems = load_cases([])
    assert not problems
    known = [
        ScoredValue(case, shown, shown)
        for case in cases
        for each in case.expect
        for shown in [
            comparison(0.0, id=case.id, publication=case.publication, case_class=case.case_class, metric=each.metric)
        ]
    ]
    for one in (*said.bars, *said.causes, *said.discrepancies):
        assert chosen(known, one.figures), one


def test_the_command_asks_for_a_folder():
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 2
    assert "--output" in done.output


def test_cases_are_compared_twice(small):
    cases, _ = load_cases([str(small / "workloads/published/paper.yaml")], [str(small)])
    found, problems = figures_of(cases, [str(small)])
    assert not problems
    assert [one.case.id for one in found] == ["fast", "fast", "slow", "none"]
    assert all(one.stated == one.unseen for one in found)  # no term is declared
