"""The README and the pages of docs: files that they show are written, blocks of code run, a page as one script."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOWTO = sorted((ROOT / "docs" / "howto").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run: ([^\n]*) -->\n)?(?:^<!-- \w+ -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
NAMED = re.compile(r"# (\S+\.(?:yaml|csv|json))\n")
ROW = re.compile(r"^\| [^|`]* \| `(costmodel [^`]*)` \|$", re.MULTILINE)  # a question and the command that answers it
RUN = ("bash", "sh", "python")
START = "from costmodel.cli.main import main; main()"


@dataclass(frozen=True)
class Block:
    """A block of code. name: of the file that it shows, null for none; reason: why it is not run, null where it is."""

    language: str
    text: str
    name: str | None
    reason: str | None


def blocks(page: Path) -> list[Block]:
    found = []
    for reason, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        name = NAMED.match(text)
        found.append(Block(language, text, name[1] if name else None, reason or None))
    return found


def title(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


WITH_CODE = [page for page in PAGES if any(one.language in RUN and not one.reason for one in blocks(page))]
NOT_RUN = [(page, one) for page in PAGES for one in blocks(page) if one.reason]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a new working folder; beside it stand `costmodel` and `python` of this interpreter."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, line in {"costmodel": f"-c '{START}' \"$@\"", "python": '"$@"'}.items():
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" {line}\n')
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    work = tmp_path / "work"
    work.mkdir()
    return work


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder.parent / "tools"), os.environ["PATH"]])
    package = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": package, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("page", WITH_CODE, ids=title)
def test_the_code_of_a_page_runs(page: Path, folder: Path) -> None:
    if page.parent == ROOT:  # its reader stands in the repository
        (folder / "workloads").mkdir()
        (folder / "workloads" / "deepseek_v3.yaml").write_bytes((ROOT / "workloads" / "deepseek_v3.yaml").read_bytes())
    script = []
    for one in blocks(page):
        if one.name:
            (folder / one.name).parent.mkdir(parents=True, exist_ok=True)
            # JSON has no comments: the line that names the file is not part of it
            text = one.text.partition("\n")[2] if one.name.endswith(".json") else one.text
            (folder / one.name).write_text(text, encoding="utf-8")
        elif one.language in RUN and not one.reason:
            script.append(f"python - <<'PYTHON'\n{one.text}PYTHON" if one.language == "python" else one.text)
    done = run("\n".join(script), folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_each_question_of_the_readme_has_a_command_that_answers_it(folder: Path) -> None:
    commands = ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(commands) >= 8
    done = run("\n".join(["costmodel simulate deepseek_v3 --scenario decode --json > result.json", *commands]), folder)
    assert done.returncode == 0, done.stderr


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
            assert one.language in RUN, f"{one.language!r} is no language that a test runs: {one.text[:60]!r}"


def test_how_to_pages_write_no_file_of_another_one() -> None:
    written: dict[str, str] = {}
    for page in HOWTO:
        for one in blocks(page):
            if one.language == "bash":
                for name in set(re.findall(r"(?:> |--output |--trace )(\S+\.\w+(?:\.gz)?)", one.text)):
                    assert written.setdefault(name, page.stem) == page.stem, name


def test_there_are_pages_and_they_are_short() -> None:
    assert HOWTO
    for page in HOWTO:
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 80, f"{page.name} is longer than 80 lines"
