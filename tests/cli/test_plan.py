"""`costmodel plan`: requirements in, a deployment out."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ttft", "1s@p42"], "--ttft: '1s@p42' limits no known statistic; write one of mean, p50"),
        (["--ttft", "1"], "--ttft: "),
        (["--rate", "20/s", "--users", "3"], "--users: --rate and --users contradict each other; keep one of them"),
        (["--users", "none"], "--users: 'none' is no number above zero; write a number such as 2000, 10M or 15T"),
        (["--confidence", "150%"], "--confidence: '150%' is no probability; write one such as 90%"),
        (["--budget", "0 $/h"], "--budget: '0 $/h' is not above zero"),
    ],
)
def test_an_option_that_says_nothing_is_refused(run, arguments, message):
    refused = run("plan", "qwen3-32b", "--cluster", "nodes/dgx-h100", *arguments)
    assert refused.code == 2
    assert refused.err.startswith(message)
