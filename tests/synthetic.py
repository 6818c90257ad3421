"""Measurement tables made by a form whose parameters are known, with noise: what a fit has to find again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_world import write

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.calibration import Form
from costmodel.cost.elementwise import ElementwiseForm
from costmodel.cost.parameter import parameters
from costmodel.cost.time import Machine
from costmodel.schema.files import load_device
from costmodel.workload.operators import Elementwise

HEADER = "row_id,device,op,sub_op,dtype_in,m,n,framework,kernel,timing,time_us"
LAUNCH, MEMORY, NOISE = 5e-6, 0.7, 0.04
WIDTHS = (256, 512, 768, 1024, 2048, 3072, 4096, 5120, 8192, 12288)


def stream_form() -> Form:
    """Return a form of streams with a known launch and share of the memory's bandwidth."""
    known = {"launch": LAUNCH, "hbm_efficiency": MEMORY}
    start = {name: parameter.start for name, parameter in parameters(ElementwiseForm).items()}
    return ElementwiseForm(**(start | known))


def stream_table(
    root: Path, name: str, *, rows: int = 400, seed: int = 0, device: str = "CHIP", sub_op: str = "silu_and_mul"
) -> Path:
    """Write a table of gated activations that took the form's time, `NOISE` of it scattered; return its path."""
    generator = np.random.default_rng(seed)
    chip = load_device("chip", [root])
    machine = Machine(chip, default_framework([root]), chip.processors)
    form, lines = stream_form(), [HEADER]
    for row in range(rows):
        m, n = int(2 ** generator.uniform(2, 16)), int(generator.choice(WIDTHS))
        seconds = form.time(Elementwise("x", 6.0 * m * n), machine).seconds
        measured = 1e6 * float(seconds) * float(np.exp(generator.normal(0.0, NOISE)))
        lines.append(f'{row},{device},elementwise,{sub_op},bf16,{m},{n},"lib, 1.0",act,graph,{measured:.6g}')
    return write(root, name, "\n".join(lines) + "\n")
