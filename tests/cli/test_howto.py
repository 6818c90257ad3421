"""The pages of docs/howto: files that they show are written, ```bash blocks run, a page as one script."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^```\w+\n(# (\S+\.(?:yaml|csv|json))\n.*?)^```$", re.MULTILINE | re.DOTALL)
START = "from costmodel.cli.main import main; main()"


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for content, name in FILE.findall(text):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # JSON has no comments: the line that names the file is not part of it
        (folder / name).write_text(content.partition("\n")[2] if name.endswith(".json") else content, encoding="utf-8")
    script = "\n".join(BLOCK.findall(text))
    path = os.pathsep.join([str(folder.parent / "tools"), os.environ["PATH"]])
    package = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": package, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_there_are_pages_and_they_are_short() -> None:
    assert PAGES
    for page in PAGES:
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 80, f"{page.name} is longer than 80 lines"
