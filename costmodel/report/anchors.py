"""The terminal view of `calibrate --run`: measured steps next to predictions, and what they say of their site."""

from __future__ import annotations

import math
from pathlib import Path

from costmodel.report.page import show, table
from costmodel.report.text import metric
from costmodel.study.anchoring import AnchoredSite


def show_site(site: AnchoredSite, output: Path) -> None:
    """Print the steps, the site's factor, and how to use the file."""
    show(f"{site.framework} on {site.cluster} ({site.device})", "bold")
    rows = table("run", "metric", ">measured", ">predicted", ">time: measured/predicted")
    for (name, step), ratio in zip(site.steps.items(), site.anchored.ratios, strict=True):
        values = metric(step.metric, step.value), metric(step.metric, site.predicted[name])
        rows.add(name, step.metric, *values, f"{ratio:.3f}")
    show(rows)
    logs = [math.log(ratio) for ratio in site.anchored.ratios]
    show(f"times of these runs are {math.exp(sum(logs) / len(logs)):.3f} times the predicted ones (geometric mean)")
    show(f"wrote {output}; name it in a scenario of this framework and device: anchor: ./{output.name}")
