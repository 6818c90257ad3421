"""How tests start the command line as a process of its own."""

from __future__ import annotations

import sys


def command(*arguments: object) -> list[str]:
    """Return how a shell starts `costmodel ARGUMENTS` with this interpreter."""
    return [sys.executable, "-c", "from costmodel.cli.main import main; main()", *map(str, arguments)]
