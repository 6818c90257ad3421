"""The how-to pages: the files that they show are written, and the commands that they show are run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from costmodel.schema.references import package_root

PAGES = sorted((package_root() / "docs/howto").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:yaml|csv|json))\n")


@pytest.mark.skipif(not PAGES, reason="the pages are not in the wheel")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_works(page: Path, run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = 0
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if named := FILE.match(text):
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for line in text.splitlines() if language == "sh" else ():
            if line.startswith("costmodel "):
                done = run(*shlex.split(line)[1:])
                assert (done.code, done.err) == (0, ""), line
                commands += 1
    assert commands


def test_adding_a_gpu_takes_one_short_page() -> None:
    page = package_root() / "docs/howto/add_a_gpu.md"
    if not page.is_file():
        pytest.skip("the pages are not in the wheel")
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 80
