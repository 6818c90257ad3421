"""The published figures of DeepSeek-V3: its result, two sweeps, and a page that shows them.

python -m reports.deepseek_v3 --output reports/deepseek_v3
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from costmodel.api import load
from costmodel.records import ValueRecord
from costmodel.report.plotting import draw
from costmodel.schema.results import read_result
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.files import as_json
from costmodel.study.points import read_sweep, write_sweep
from costmodel.study.sweep import plan_sweep
from reports.page import rendered, write_folder

WORKLOAD = "deepseek_v3"


class WhatIf(ValueRecord):
    """A published sweep: the scenario, its axes, and what it asks."""

    scenario: str
    varied: tuple[str, ...]
    question: str

    @property
    def command(self) -> str:
        """Return how to sweep the same."""
        axes = " ".join(f"--vary {axis}" for axis in self.varied)
        return f"costmodel sweep {WORKLOAD} --scenario {self.scenario} {axes} --output DIR"


WHAT_IFS = (
    WhatIf(
        "training",
        ("hardware.node.nic.bandwidth=50Gbit/s..800Gbit/s:13:log",),
        "How fast NICs have to be for a training step",
    ),
    WhatIf(
        "decode",
        ("scenarios.decode.batch_per_device=16..256:16", "hardware.memory.hbm.bandwidth=2TB/s,3.35TB/s,4.8TB/s"),
        "What a larger batch costs each user, and where memory ends it",
    ),
)
SCENARIOS = ("training", "prefill", "decode")


def publish(folder: Path) -> list[Path]:
    """Write every figure, the data beside each, and the page."""
    made: list[Path] = []
    with tempfile.TemporaryDirectory() as place:
        aside = Path(place)
        result = aside / "result.json"
        write_whole(result, [as_json(load(WORKLOAD, scenarios=SCENARIOS).simulate())])
        made += draw(read_result(result), aside / "figures")
        for what_if in WHAT_IFS:
            swept = aside / what_if.scenario
            workload = load(WORKLOAD, scenarios=[what_if.scenario])
            write_sweep(plan_sweep(workload, what_if.varied, every=True), swept)
            made += draw(read_sweep(swept), aside / "figures")
        make_folder(folder)
        for path in made:
            write_whole(folder / path.name, [path.read_bytes()])
    figures = [path.stem for path in made if path.suffix == ".svg" and not path.stem.startswith("sweep-")]
    page = rendered(
        "deepseek_v3/page", workload=WORKLOAD, what_ifs=WHAT_IFS, figures=figures, folder=folder.as_posix()
    )  # fmt: skip
    write_whole(folder / "README.md", [page.encode()])
    return [*(folder / path.name for path in made), folder / "README.md"]


if __name__ == "__main__":
    write_folder("deepseek_v3", publish)
