"""Processes of one group, as `torchrun` starts them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence

from command_line import PATIENCE, Ran, surroundings


def group_of_two(program: Sequence[str]) -> list[Ran]:
    """Return what both ranks of a program leave; one that hangs ends with the test."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    group = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
               "MASTER_ADDR": "localhost", "MASTER_PORT": port}  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        group.append(subprocess.Popen(program, text=True, env=surroundings(**own), **pipes))
    try:
        outputs = [each.communicate(timeout=PATIENCE) for each in group]
    finally:
        for each in group:
            each.kill()
    return [Ran(each.returncode, *output) for each, output in zip(group, outputs, strict=True)]
