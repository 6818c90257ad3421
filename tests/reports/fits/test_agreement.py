"""How the error of joined fits follows from their agreement."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml

from reports.fits.agreement import Joined, agreement_of, render

NORMAL_90 = 1.2815515655446004  # standard deviations of half an 80 % interval


def kernels(device: str, claimed: float, apart: float, seed: int) -> Joined:
    """Return kernels whose errors are normal, with the half-width of these shares."""
    draw = np.random.default_rng(seed)
    expected, far = draw.uniform(0.1, 0.6, 4000), draw.uniform(0.0, 0.8, 4000)
    half = np.hypot(claimed * expected, apart * far)
    return Joined(device, np.abs(draw.normal(0.0, half / NORMAL_90)), expected, far)


def test_the_shares_that_errors_were_drawn_with_are_found_again():
    claimed, apart = agreement_of([kernels(f"device {seed}", 0.6, 1.2, seed) for seed in range(4)])
    assert (claimed, apart) == (pytest.approx(0.6, rel=0.1), pytest.approx(1.2, rel=0.1))


def test_the_file_says_what_intervals_hold_of_devices_that_were_not_seen():
    cases = [kernels(f"device {seed}", 0.6, 1.2, seed) for seed in range(3)]
    file = yaml.safe_load(render(cases, ["owner/name"], "python -m x"))
    shares = {name: math.log(family["spread"][0]["high"]) for name, family in file["families"].items()}
    assert shares == {"claimed": pytest.approx(0.6, rel=0.1), "apart": pytest.approx(1.2, rel=0.1)}
    assert file["families"]["apart"]["rows"] == 12000
    assert "intervals hold 80 % in the mean" in " ".join(file["sources"][0]["note"].split())
    assert file["sources"][0]["rests_on"] == ["owner/name"]
