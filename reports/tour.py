"""Makes the figures of the tour of serving, each by the commands of its how-to: python -m reports.tour"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from costmodel.schema.whole_files import make_folder, write_whole

ROOT = Path(__file__).resolve().parents[1]
HOWTO = ROOT / "docs" / "howto"
BLOCK = re.compile(r"^```(?:yaml\n# (\S+)|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMAGE = re.compile(r"!\[[^\]]*\]\((figures/[^)]+\.svg)\)")
TOUR = (
    "serve_requests", "serve_rag", "serve_agents", "serve_from_two_pools", "serve_with_drafts", "serve_offline",
)  # fmt: skip


def make(page: str) -> None:
    """Write the figure that a page shows and its table, as the page's commands draw it in a folder of its own."""
    text = (HOWTO / f"{page}.md").read_text(encoding="utf-8")
    shown = HOWTO / IMAGE.findall(text)[0]
    make_folder(shown.parent)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in BLOCK.findall(text):
            if file:
                (folder / file).write_text(content, encoding="utf-8")
                continue
            for line in content.splitlines():
                words = shlex.split(line, comments=True)
                if {"--trace", "--output"} & set(words):  # what leads to the figure
                    command = [sys.executable, "-m", *words]
                    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (figure,) = folder.glob(f"*/{shown.name}")
        for each in (figure, figure.with_suffix(".csv")):
            write_whole(shown.parent / each.name, [each.read_bytes()])


if __name__ == "__main__":
    for one in TOUR:
        make(one)
