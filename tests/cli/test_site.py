"""The documentation site builds without a warning, and its pages lead only to what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not (find_spec("mkdocs") and find_spec("material")), reason="mkdocs-material is not installed: extra `docs`"
)


def test_the_site_builds_without_a_warning_and_holds_the_reports(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'src="reports/front/hero.png"' in start
    assert (tmp_path / "reports" / "what_if" / "nvlink.svg").is_file()
    outside = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', start)
    assert outside == []
