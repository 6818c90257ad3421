"""README and docs: the files that they show are written and the code that they show runs, page by page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import PYTHON, ROOT, SHELL, Block, Reader, blocks, split

HOWTO = sorted((ROOT / "docs" / "howto").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ERRAND = re.compile(r"^\*\*[^*]+\?\*\*\n\n```sh\n(costmodel [^\n]*)\n```\n\n((?:    [^\n]*\n)+)", re.MULTILINE)
MOST_WORDS = 1100  # of README


def title(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


WITH_CODE = [page for page in PAGES if any(block.runs for block in blocks(page))]
NOT_RUN = [(page, block) for page in PAGES for block in blocks(page) if block.reason]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(tmp_path, monkeypatch)


@pytest.mark.parametrize("page", WITH_CODE, ids=title)
def test_the_code_of_a_page_runs(page: Path, reader: Reader, request: pytest.FixtureRequest, long: bool) -> None:
    """Servers are planned in a small space; those of the README, whose answers are compared below, of one framework."""
    if not long:
        request.getfixturevalue("one_engine" if page.name == "README.md" else "small_plans")
    if page.parent == ROOT:  # its reader stands in the repository
        for name in ("workloads", "hardware", "reports", "docs"):
            (reader.folder / name).symlink_to(ROOT / name)
    for block in blocks(page):
        reader.follow(block)


@pytest.mark.parametrize(
    "block", [one for _, one in NOT_RUN], ids=[f"{title(page)}-{at}" for at, (page, _) in enumerate(NOT_RUN)]
)
def test_a_block_that_is_not_run_says_why(block: Block) -> None:
    assert block.reason
    pytest.skip(block.reason)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_block_is_code_that_runs_or_a_file_with_a_name(page: Path) -> None:
    for one in blocks(page):
        if one.language in ("yaml", "json"):
            assert one.name, f"the block does not say which file it is: {one.text[:60]!r}"
        else:
            assert one.language in (*SHELL, PYTHON), f"no test runs {one.language!r}: {one.text[:60]!r}"


def test_how_to_pages_write_no_file_of_another_one() -> None:
    written: dict[str, str] = {}
    for page in HOWTO:
        for one in blocks(page):
            if one.language in SHELL:
                for name in set(re.findall(r"(?:> |--output |--trace )(\S+\.\w+(?:\.gz)?)", one.text)):
                    assert written.setdefault(name, page.stem) == page.stem, name


def test_there_are_pages_and_they_are_short() -> None:
    assert HOWTO
    for page in HOWTO:
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 80, f"{page.name} is longer than 80 lines"


@pytest.mark.parametrize(
    "line",
    [
        "ls",
        "costmodel model list | head -n 3",
        "costmodel model list; costmodel hardware list",
        "costmodel model show $NAME",
        "costmodel validate *.yaml",
        "costmodel model list > a.txt > b.txt",
        "python - <<'PYTHON'",
        "python program.py",
        "costmodel model list &",
        "&& costmodel model list",
        "> a.txt",
    ],
)
def test_a_line_that_needs_a_whole_shell_is_refused(line: str, reader: Reader) -> None:
    with pytest.raises(pytest.fail.Exception, match="a page"):
        reader.shell(line)


def test_a_command_that_exits_with_another_code_than_stated_fails_with_its_message(reader: Reader) -> None:
    reader.shell("costmodel model show nothing   # exits with 2, and says what there is")
    with pytest.raises(AssertionError, match=r"exits with 2:\n.*nothing"):
        reader.shell("costmodel model show nothing")
    with pytest.raises(AssertionError, match="exits with 0"):
        reader.shell("costmodel --version   # exits with 2")


def test_output_goes_where_a_line_sends_it(reader: Reader) -> None:
    reader.shell("costmodel --version > a.txt && echo 'x: {y: 1}' >> a.txt   # two lines\nexport COSTMODEL_TABLE=csv")
    first, second = (reader.folder / "a.txt").read_text().splitlines()
    assert (first.split()[0], second) == ("costmodel,", "x: {y: 1}")
    reader.shell("echo 1 \\\n  2 > a.txt")
    assert (reader.folder / "a.txt").read_text() == "1 2\n"


def test_what_the_readme_shows_is_what_its_commands_print(
    reader: Reader, request: pytest.FixtureRequest, long: bool
) -> None:
    """With --long it is the best of all frameworks that serve."""
    if not long:
        request.getfixturevalue("one_engine")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.findall(r"bin/(costmodel [^\n]*)\n```\n\n<!-- answer -->\n\n(.*?)\n\n<!-- /answer", readme, re.DOTALL)
    errands = ERRAND.findall(readme)
    assert len(errands) >= 6
    for name in ("workloads", "reports"):
        (reader.folder / name).symlink_to(ROOT / name)
    for command, shown in [*first, *errands]:
        printed = [f"    {line}".rstrip() for line in reader.run(split(command), command).out.splitlines()]
        lines = shown.rstrip("\n").split("\n")
        assert lines == printed[: len(lines)], f"{command}\nmake README anew: python -m reports front"


def test_the_readme_is_short() -> None:
    text = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(text.split()) <= MOST_WORDS
