"""Tests of the harness where torch is not installed: those that need it are skipped, the others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
COLLECT = """
import sys, pytest
sys.modules["torch"] = None
sys.exit(pytest.main(["--collect-only", "-q", *sys.argv[1:]]))
"""


def test_no_file_of_tests_needs_torch_to_be_read() -> None:
    files = [*TESTS.glob("unit/profiling/test_*.py"), *TESTS.glob("cli/test_profile*.py")]
    command = [sys.executable, "-c", COLLECT, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "test_running.py" in done.stdout  # a pretended GPU needs none
    assert "test_kernels.py::" not in done.stdout  # its kernels are torch's
