"""Which shipped fit a framework's kernels rest on."""

from __future__ import annotations

import pytest

from costmodel.calibration.fit_lookup import load_calibration


@pytest.mark.parametrize(
    ("device", "source"),
    [("h20", "h20/flashinfer"), ("h800-sxm", "h800-sxm/flashinfer-vllm"), ("h100-sxm", "h100-sxm/fa3-vllm")],
)
def test_what_was_measured_on_a_device_stands_before_what_its_siblings_lend(device: str, source: str) -> None:
    fit = load_calibration(device, "vllm").families["attention_decode/bf16"]
    assert fit.source == f"calibrations/{source}"
