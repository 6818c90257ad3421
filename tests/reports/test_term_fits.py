"""Numbers of frameworks fitted to whole runs: known values are found again, and what is left out says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from small_world import edit, write

from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.schema.case import Case, load_case_file
from costmodel.schema.files import validate
from costmodel.schema.fit_plan import TermFile
from costmodel.schema.references import Library
from costmodel.study.published.predictions import predict
from costmodel.study.published.refits import leave_out, left_out, read_terms
from costmodel.study.published.reproduce import load_cases, reproduce
from reports.fits.term_fits import MOST, figures_of, fit_terms, refit

LAUNCH = 5e-6
PLAN = """
schema: costmodel/fit_plan@1
name: end_to_end
terms:
  - {path: framework.launch, bounds: [1 us, 20 us], frameworks: [default], classes: [training], publications: [a, b, c]}
"""
CASE = """
  - id: %s
    class: training
    scenario: {model: models/tiny, phase: training, cluster: clusters/pair, framework: default, parallel: {dp: 8},
               global_batch: %d, sequence: %d}
    expect: [{metric: %s, value: %s, tolerance: 10 %%}]
"""
ROWS = {"a": ((16, 128), (32, 64)), "b": ((64, 64), (8, 256)), "c": ((24, 128),)}


@pytest.fixture
def published(world: Path) -> Path:
    """Return the small world with three publications whose runs were measured with a launch of five microseconds."""
    edit(world, "hardware/devices/chip.yaml", "architecture: test", "architecture: test\ncalibration: {inherit: null}")
    write(world, "hardware/fit_plans/end_to_end.yaml", PLAN)
    for name, rows in ROWS.items():
        metric = "tokens_per_second_per_device" if name == "b" else "step_time"
        _write(world, name, [(batch, length, metric, "1" if name == "b" else "1 s") for batch, length in rows])
    at_five = {"scenarios.case.framework.launch": "5 us"}
    for name, rows in ROWS.items():
        metric = "tokens_per_second_per_device" if name == "b" else "step_time"
        told = []
        for case in _cases(world, name):
            value = predict(replace(case, overrides=at_five), [str(world)]).value(metric, {}).value
            assert value is not None
            told.append(f"{value:.9g}" if name == "b" else f"{value:.9g} s")
        _write(world, name, [(*row, metric, value) for row, value in zip(rows, told, strict=True)])
    return world


def _write(world: Path, name: str, rows: Sequence[tuple[int, int, str, str]]) -> None:
    head = f'schema: costmodel/case@1\nsource: {{cite: "paper {name}", verified: true}}\ncases:\n'
    entries = (CASE.lstrip("\n") % (f"{name}{at}", *row) for at, row in enumerate(rows))
    write(world, f"workloads/published/{name}.yaml", head + "".join(entries))


def _cases(world: Path, *names: str) -> list[Case]:
    found = [load_case_file(world / f"workloads/published/{name}.yaml", [world]) for name in names or ROWS]
    return [case for cases in found for case in cases]


def _terms(world: Path) -> Sequence[TermFile]:
    return read_terms(Library([world]))


def test_a_known_value_is_found_again(published: Path) -> None:
    terms, library = _terms(published), Library([published])
    figures = figures_of(_cases(published), terms, library)
    fitted = fit_terms(figures, terms, library)
    assert fitted.figures == 5
    assert fitted.values[0] == pytest.approx(LAUNCH, rel=1e-3)
    assert fitted.after < 1e-3 < fitted.before


def test_a_publication_that_is_left_out_does_not_move_its_own_fit(published: Path) -> None:
    terms, library = _terms(published), Library([published])
    _write(published, "c", [(24, 128, "step_time", "9 s")])  # far off
    cases = _cases(published)
    found = leave_out(cases, refit(cases, terms, library), terms, library)
    launch = {name: change["scenarios.case.framework.launch"].value for name, change in found.changes.items()}  # type: ignore[attr-defined]
    assert launch["c0"] == pytest.approx(LAUNCH, rel=1e-3)
    assert launch["a0"] == launch["a1"] > 1.01 * LAUNCH


def test_the_comparison_is_made_with_the_values_and_says_so(published: Path) -> None:
    terms, library = _terms(published), Library([published])
    cases = _cases(published)
    plain, _ = reproduce(cases, [str(published)])
    refitted, problems = reproduce(
        cases, [str(published)], leave_out(cases, refit(cases, terms, library), terms, library).changes
    )
    assert not problems
    assert all(abs(one.error or 0.0) > 0.02 for one in plain)
    assert all(abs(one.error or 0.0) < 1e-3 for one in refitted)
    assert refitted[0].document()["terms"] == {"scenarios.case.framework.launch": pytest.approx(LAUNCH, rel=1e-3)}
    assert "terms" not in plain[0].document()


def _with_prior(world: Path, factor: float) -> Sequence[TermFile]:
    prior = f"prior: {{value: 9 us, factor: {factor}, cite: somebody}}}}"
    write(world, "hardware/fit_plans/end_to_end.yaml", PLAN.replace("c]}", f"c], {prior}"))
    return _terms(world)


@pytest.mark.parametrize(("factor", "least", "most"), [(1.001, 8.5e-6, 9e-6), (100.0, 5e-6, 5.05e-6)])
def test_what_is_known_beside_runs_holds_a_term_as_firmly_as_it_says(
    published: Path, factor: float, least: float, most: float
) -> None:
    terms, library = _with_prior(published, factor), Library([published])
    value = fit_terms(figures_of(_cases(published), terms, library), terms, library).values[0]
    assert value is not None
    assert least < value <= most


def test_without_a_declared_term_nothing_changes(published: Path) -> None:
    write(
        published, "hardware/fit_plans/end_to_end.yaml", "schema: costmodel/fit_plan@1\nname: end_to_end\nterms: []\n"
    )
    assert left_out(_cases(published), [str(published)]).changes == {}


def test_terms_without_fits_say_who_fits_them(published: Path) -> None:
    with pytest.raises(InputError, match="no fits of its terms"):
        left_out(_cases(published), [str(published)])


def test_a_term_of_one_publication_stays_as_it_is(published: Path) -> None:
    terms, library = _terms(published), Library([published])
    figures = figures_of(_cases(published, "a"), terms, library)
    assert figures
    assert fit_terms(figures, terms, library).values == (None,)


def test_what_was_not_read_at_its_source_is_not_fitted_to(published: Path) -> None:
    terms, library = _terms(published), Library([published])
    unread = [
        replace(case, source=case.source.model_copy(update={"verified": False})) for case in _cases(published, "a")
    ]
    assert figures_of(unread, terms, library) == []


def test_a_long_table_does_not_outnumber_the_others(published: Path) -> None:
    terms, library = _terms(published), Library([published])
    (one,) = _cases(published, "c")
    many = [replace(one, id=f"c{at}") for at in range(3 * MOST)]
    assert len(figures_of(many, terms, library)) == MOST


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("framework.launch", "framework.lunch", "'framework.lunch' is no number of a framework"),
        ("framework.launch", "framework.name", "'framework.name' is no number of a framework"),
        ("framework.launch", "parallel.tp", "'parallel.tp' is no number of a framework"),
        ("[1 us, 20 us]", "[20 us, 1 us]", "the bounds enclose nothing"),
        ("[1 us, 20 us]", "[1 us]", "bounds"),
        ("[1 us, 20 us]", "[1, 20]", "1 has no unit"),
        ("[1 us, 20 us]", "[-1 us, 20 us]", "too small"),
        ("[1 us, 20 us]", "[1 GB, 20 us]", "wrong unit"),
        ("[a, b, c]", "[]", "publications"),
        ("[a, b, c]", "[a, a]", "a publication stands twice"),
        ("[training]", "[trainnig]", "did you mean `training`"),
        ("c]}", "c], prior: {value: 30 us, factor: 2, cite: x}}", "the prior is outside the bounds"),
        ("c]}", "c], prior: {value: 3 us, factor: 1, cite: x}}", "the prior is outside the bounds or has no spread"),
        ("c]}", "c], prior: {value: 3, factor: 2, cite: x}}", "3 has no unit"),
        ("", "", "framework.launch of default is fitted twice"),
    ],
)  # fmt: skip
def test_a_wrong_term_is_told(world: Path, old: str, new: str, told: str) -> None:
    text = PLAN.replace(old, new) if old else PLAN + PLAN.splitlines()[-1] + "\n"
    path = write(world, "hardware/fit_plans/end_to_end.yaml", text)
    texts = [str(one) for one in validate(path, [world])]
    assert any(told in one for one in texts), texts


def test_the_shipped_plan_names_publications_and_frameworks_that_ship() -> None:
    names = {case.publication for case in load_cases([])[0]}
    for term in read_terms(Library()):
        assert set(term.publications) <= names
