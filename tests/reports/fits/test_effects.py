"""What kernels of other devices, builds and libraries do not share."""

from __future__ import annotations

import numpy as np
import pytest

from reports.fits.effects import effects_of_steps, of_one_build, render


def test_a_step_between_devices_is_of_one_implementation_where_two_have_it():
    same, builds = np.array([0.1]), np.array([1.0])
    pairs = {("a/conv", "b/conv"): same, ("a/conv", "b/other-conv"): builds}
    assert of_one_build(pairs) == {("a/conv", "b/conv"): same}
    assert of_one_build({("a/conv", "b/other-conv"): builds}) == {("a/conv", "b/other-conv"): builds}


def test_an_effect_is_the_root_of_what_a_step_adds_to_squared_errors_and_none_where_it_adds_nothing():
    added = np.linspace(-0.1, 0.1, 1001)
    pair = ("a/x", "b/x")
    effects = effects_of_steps({"die/gemm/bf16": {pair: added}, "build/bmm/bf16": {pair: added - 0.1}})
    assert effects["gemm"]["die"] == effects["any"]["die"] == pytest.approx(0.06**0.5, rel=1e-2)
    assert effects["bmm"] == {"build": 0.0}


def test_the_file_states_the_effects_in_order_and_reads_as_they_are():
    text = render({"gemm": {"die": 0.123456, "unseen": 0.5}, "any": {"other": 0.25}}, ["one/two"])
    assert text.index("any: {other: 0.25}") < text.index("gemm: {die: 0.123, unseen: 0.5}")
    assert "rests_on: [one/two]" in text


def test_pairs_weigh_the_same_whatever_rows_they_have():
    added = {("a/x", "b/x"): np.full(1000, 0.01), ("a/y", "b/y"): np.full(10, 0.25)}
    assert effects_of_steps({"die/gemm/bf16": added})["gemm"]["die"] == pytest.approx(0.5)
