"""What KTransformers' experts on the CPU reach: shares of the host's peaks, and the host's time of a layer.

python -m reports.fits.host_products          prints the fit, its errors, and each row from the others

A decoding step takes t = R + L * layer + H / e: R of the device, H of the host's products at its memory's bandwidth, e
their share of it, L layers. A prompt takes t = R + L * layer + A / c, A at the host's arithmetic peak. Rows with six
experts in place of eight tell e from `layer`: they change H alone. e and `layer` minimise the squared log errors of the
decoding rates, c then those of the prompts'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import least_squares

from costmodel.api import load
from costmodel.quantities import Array
from costmodel.records import Record

WORKLOAD, BARE = "deepseek_v3_hybrid", {"framework": "frameworks/default"}
SOCKET = {"hardware.node.host.bandwidth": "307.2 GB/s", "hardware.node.host.sockets": 1}
SIX: dict[str, object] = {"model.layers.1.ffn.top_k": 6}
DECODING: Mapping[str, tuple[dict[str, object], float]] = {
    "one socket, 8 experts": ({**SOCKET}, 8.73),
    "two sockets, 8 experts": ({}, 12.208),
    "one socket, 6 experts": ({**SOCKET, **SIX}, 10.303),
    "two sockets, 6 experts": (SIX, 13.69),
}  # tokens/s: workloads/published/ktransformers.yaml
ARITHMETIC: dict[str, object] = {"hardware.node.host.bandwidth": "18 TB/s"}  # so that nothing else binds
PROMPTS: Mapping[str, tuple[dict[str, object], float]] = {
    "prompt, one socket": ({**ARITHMETIC, "hardware.node.host.peak.bf16": "64 TFLOP/s"}, 54.21),
    "prompt, two sockets": (ARITHMETIC, 82.94),
}
HOST = ("expert up", "expert down")
START = (0.6, 3e-4)


class Row(Record):
    """A published rate: its time [s], and the model's with the host at its peaks: of the host, and of all else."""

    name: str
    measured: float
    host: float
    rest: float
    layers: float

    def seconds(self, share: float, layer: float) -> float:
        """Return the time with the host at a share of its peak and `layer` more a layer."""
        return self.rest + self.layers * layer + self.host / share


def row(name: str, scenario: str, changes: Mapping[str, object], rate: float) -> Row:
    """Return a published rate beside the bare model."""
    keys = {f"scenarios.{scenario}.{key}": value for key, value in BARE.items()}
    workload = load(WORKLOAD, set={**keys, **changes}, scenarios=[scenario])
    point = workload.evaluate(scenario).point()
    tokens = 512.0 if scenario == "prefill" else 1.0
    total = tokens / float(point.metrics["tokens_per_second_per_device"] or np.nan)
    host = sum(line.time for line in point.breakdown if line.name in HOST)
    layers = sum(float(group.repeat) for group in workload.scenario(scenario).architecture.layers)
    return Row(name, tokens / rate, host, total - host, layers)


def fitted(rows: Sequence[Row]) -> Array:
    """Return (share of the memory's bandwidth, time of a layer [s]) that decoding rows have together."""

    def misfit(values: Array) -> Array:
        share, layer = np.exp(values)
        return np.array([np.log(each.seconds(share, layer) / each.measured) for each in rows])

    found: Array = np.exp(least_squares(misfit, np.log(START)).x)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shares that CPU kernels reach, the host's time of a layer, and their errors."""
    argparse.ArgumentParser(prog="python -m reports.fits.host_products", description=main.__doc__).parse_args(arguments)
    decoding = [row(name, "decode", *case) for name, case in DECODING.items()]
    share, layer = fitted(decoding)
    sys.stdout.write(f"hbm_efficiency {share:.4g}  layer {1e6 * layer:.4g} us\n")
    errors = []
    for each in decoding:
        others = fitted([other for other in decoding if other is not each])
        own, held = (each.measured / each.seconds(*values) - 1.0 for values in ((share, layer), others))
        errors.append(abs(held))
        sys.stdout.write(
            f"{each.name}: rate {1 / each.measured:.4g}/s, error {own:+.1%}, from the others {held:+.1%}\n"
        )
    sys.stdout.write(f"held-out mean error {np.mean(errors):.1%}\n")
    prompts = [row(name, "prefill", *case) for name, case in PROMPTS.items()]
    logs = [np.log(each.host / (each.measured - each.rest - each.layers * layer)) for each in prompts]
    compute = float(np.exp(np.mean(logs)))
    sys.stdout.write(f"compute_efficiency {compute:.4g}\n")
    for each, log in zip(prompts, logs, strict=True):
        sys.stdout.write(f"{each.name}: {512 / each.measured:.4g} tokens/s, {np.exp(log):.4g} of the peak by itself\n")


if __name__ == "__main__":
    main()
