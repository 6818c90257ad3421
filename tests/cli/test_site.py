"""The documentation site builds without a warning, and its pages lead only to what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not find_spec("zensical"), reason="zensical is not installed: extra `docs`")


def test_the_site_builds_without_a_warning_and_holds_the_reports(tmp_path: Path) -> None:
    line = [sys.executable, ROOT / "docs" / "site.py", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'src="reports/front/hero.png"' in start
    assert (tmp_path / "site" / "reports" / "devices" / "deepseek_v3.svg").is_file()
    outside = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', start)
    assert outside == []
