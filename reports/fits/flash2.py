"""FlashAttention-2 on H100: the fit of the rates that the paper on its successor shows.

python -m reports.fits.flash2 hardware/calibrations/h100-sxm/flash2-rates.csv \
    --output hardware/calibrations/h100-sxm/flash2.yaml

No measurement table has these kernels. The paper's figures have 16,384 tokens of 16 heads, 128 wide, in sequences of
512 to 16,384, forward with and without a causal mask, backward without.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.attention import PrefillForm
from costmodel.cost.machine import Machine
from costmodel.fitting.interval_width import spread
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.files import load_device
from costmodel.schema.whole_files import write_whole
from costmodel.workload.operators import AttentionKernel
from reports.fits.backward_attention import Pairs
from reports.fits.backward_attention import fit as backward_share
from reports.fits.two_parameters import fitted, memory_rate

DEVICE = "h100-sxm"
TOKENS, HEADS, WIDTH = 16384.0, 16.0, 128.0  # of every row: appendix of the paper
TILE = (128, 64)  # queries and keys: Dao-AILab/flash-attention, csrc/flash_attn/src/flash_fwd_launch_template.h
LAUNCH = 1.7e-6  # that of any kernel: frameworks/default
MEASURED = "attention_prefill/bf16"  # whose share of the memory's bandwidth is taken: memory bounds no row here
NO_TAIL, TOGETHER = 0.5, 12.0  # half of an unfilled wave is lost, as the form begins with; the slower of two times
_START = (0.4, 2000.0)


class Rates(Record):
    """Published cores. seconds: forward, with the FLOP of causal halves where they are causal; share: backward."""

    cores: tuple[AttentionKernel, ...]
    seconds: Array
    backward: Pairs

    def without(self, length: float) -> Rates:
        """Return the forward rows of all other lengths."""
        kept = [at for at, core in enumerate(self.cores) if core.q_len != length]
        return Rates(tuple(self.cores[at] for at in kept), self.seconds[kept], self.backward)


def read(path: Path) -> Rates:
    """Return the rows of a table of rates. A backward core has 5/4 of the multiply-adds of two forward ones."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rates = {(row["pass"], row["causal"], float(row["length"])): 1e12 * float(row["TFLOP/s"]) for row in rows}
    forward = [(causal, length) for which, causal, length in rates if which == "forward"]
    cores = tuple(core(length, is_causal=causal == "1") for causal, length in forward)
    flops = np.array([counted(length, is_causal=causal == "1") for causal, length in forward])
    seconds = flops / np.array([rates["forward", causal, length] for causal, length in forward])
    lengths = [length for which, _, length in rates if which == "backward"]
    shares = np.array([rates["backward", "0", each] / rates["forward", "0", each] for each in lengths])
    times = np.array([2.5 * counted(each, is_causal=False) / rates["backward", "0", each] for each in lengths])
    latent = np.zeros(len(lengths), dtype=bool)
    keys = np.array(lengths)
    first = np.array([counted(each, is_causal=False) / rates["forward", "0", each] for each in lengths])
    one_key = first[keys.argmax()] / keys.max() / first  # rows have as many tokens
    return Rates(cores, seconds, Pairs((DEVICE,) * len(lengths), shares, times, latent, keys, one_key))


def counted(length: float, *, is_causal: bool) -> float:
    """Return what the paper counts: 4 * length^2 * width * heads * sequences of a forward core, half if causal."""
    return 4.0 * length * TOKENS * WIDTH * HEADS / (2.0 if is_causal else 1.0)


def core(length: float, *, is_causal: bool) -> AttentionKernel:
    """Return the forward core of a row."""
    pairs = length * (length + 1.0) / 2.0 if is_causal else length**2
    return AttentionKernel(
        "attention core", sequences=TOKENS / length, heads=HEADS, q_len=length, qk_pairs=pairs,
        macs_per_pair=2.0 * WIDTH, dtype="bf16", traffic=4.0 * TOKENS * HEADS * WIDTH * 2.0, family="attention_prefill",
        kv_heads=HEADS, kv_len=length, kv_token_bytes=4.0 * WIDTH,
    )  # fmt: skip


def form_of(compute: float, overhead: float) -> PrefillForm:
    """Return the form with the two parameters that the rates determine.

    compute: share of the dense peak; overhead: cycles of a CTA's prologue and epilogue.
    """
    memory = memory_rate(DEVICE, MEASURED)
    return PrefillForm(
        launch=LAUNCH, compute_efficiency=compute, single_cta_efficiency=compute, hbm_efficiency=memory,
        cta_overhead=overhead, cta_overhead_per_dim=0.01, wave_tail_loss=NO_TAIL, critical_path_p=TOGETHER,
        overlap_p=TOGETHER, paged_kv_penalty=0.001, combine_latency=1e-9, pack_gqa=False,
        split_kv_rule="never", tiles=(TILE,),
    )  # fmt: skip


def times(form: PrefillForm, cores: Sequence[AttentionKernel], machine: Machine) -> Array:
    """Return the predicted times of cores [s]."""
    return np.array([float(form.time(each, machine).seconds) for each in cores])


def fit(rates: Rates, machine: Machine) -> tuple[float, float]:
    """Return (compute, overhead): those of the least squares of log times."""

    def predicted(compute: float, overhead: float) -> Array:
        return times(form_of(compute, overhead), rates.cores, machine)

    return fitted(predicted, rates.seconds, _START)


def render(rates: Rates, machine: Machine) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    compute, overhead = fit(rates, machine)
    ratio = rates.seconds / times(form_of(compute, overhead), rates.cores, machine)
    lengths = sorted({float(each.q_len) for each in rates.cores})
    held_out: list[float] = []
    for length in lengths:
        form = form_of(*fit(rates.without(length), machine))
        own = [at for at, each in enumerate(rates.cores) if each.q_len == length]
        held_out.extend(times(form, [rates.cores[at] for at in own], machine) / rates.seconds[own] - 1.0)
    share = backward_share(rates.backward)
    return f"""\
schema: costmodel/calibration@1
name: {DEVICE}/flash2
device: devices/{DEVICE}
library: flash2
basis: fitted
frameworks: []                                   # no table has rows of it
families:
  attention_prefill:
    form: &form {{{_parameters(compute, overhead)}}}
    domain: &domain {{{_domain(rates)}}}
    radius: 1.0
    spread: [{{{_point(rates.seconds, spread(ratio))}}}]
    rows: {len(ratio)}
    note: "Lengths held out one after the other: {100 * float(np.mean(np.abs(held_out))):.3g} % mean error."
  attention_backward:
    form: *form
    domain: *domain
    radius: 1.0
    backward_rate: {100 * share.compute:.3g} %
    extra_keys_per_query: {share.query:g}
    spread: [{{{_point(rates.backward.seconds, (share.low, share.median, share.high))}}}]
    rows: {len(rates.backward.seconds)}
sources:
  - fields: [families]
    cite: "Shah et al., FlashAttention-3, arXiv 2407.08608, figures 5 and 6: FlashAttention-2 on H100, head width 128"
    kind: paper
    rests_on: ["arXiv 2407.08608"]
    note: Labels of the bars. Made by `python -m reports.fits.flash2`; launch and the other parameters are stated there.
"""


def _domain(rates: Rates) -> str:
    """Return the ranges of the rows along the axes of the form."""
    axes: dict[str, Sequence[Any]] = {
        "q_len": [each.q_len for each in rates.cores], "kv_len": [each.kv_len for each in rates.cores],
        "batch_heads": [each.sequences * each.heads for each in rates.cores], "heads": [HEADS], "q_per_kv": [1.0],
        "head_dims": [2.0 * WIDTH],
    }  # fmt: skip
    return ", ".join(f"{name}: [{min(values):g}, {max(values):g}]" for name, values in axes.items())


def _point(seconds: Array, found: tuple[float, float, float]) -> str:
    low, median, high = found
    middle = 1e6 * float(np.median(seconds))
    return f"time: {middle:.3g} us, low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(seconds)}"


def _parameters(compute: float, overhead: float) -> str:
    """Return the form's parameters as the file has them."""
    memory = memory_rate(DEVICE, MEASURED)
    found = {
        "launch": f"{1e6 * LAUNCH:g} us", "compute_efficiency": f"{compute:g}", "single_cta_efficiency": f"{compute:g}",
        "hbm_efficiency": f"{memory:g}", "cta_overhead": f"{overhead:g}", "cta_overhead_per_dim": "0.01",
        "wave_tail_loss": f"{NO_TAIL:g}", "critical_path_p": f"{TOGETHER:g}", "overlap_p": f"{TOGETHER:g}",
        "paged_kv_penalty": "0.001", "combine_latency": "1 ns", "pack_gqa": "false", "split_kv_rule": "never",
        "tiles": f"[{list(TILE)}]",
    }  # fmt: skip
    return ", ".join(f"{name}: {value}" for name, value in {"kind": "prefill", **found}.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the table of published rates; write the calibration file."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.flash2", description=main.__doc__)
    parser.add_argument("rates", type=Path, help="table: pass, causal, length, TFLOP/s")
    parser.add_argument("--output", type=Path, required=True, help="calibration file to write")
    chosen = parser.parse_args(arguments)
    device = load_device(DEVICE)
    text = render(read(chosen.rates), Machine(device, default_framework(), device.processors))
    write_whole(chosen.output, [text.encode()])
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
