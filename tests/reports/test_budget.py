"""The budget of the package: what it may hold and cost."""

from pathlib import Path

from benchmarks.budget import calls, counts, lines


def test_what_can_be_counted_keeps_its_budget():
    above = [f"{each.name}: {each.measured:,.0f} of {each.limit:,.0f}" for each in counts() if not each.is_met]
    assert not above, f"{above}: make it smaller, or raise benchmarks/budget.yaml by hand and say why in the commit"


def test_lines_are_those_of_python_files_in_all_folders_of_a_room(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "one.py").write_text("a = 1\nb = 2\n")
    (tmp_path / "inner" / "two.py").write_text("c = 3\n")
    (tmp_path / "data.yaml").write_text("d: 4\n")
    assert lines(tmp_path) == 3


def test_the_same_point_takes_the_same_calls():
    assert calls() == calls() > (1000, 1000)
