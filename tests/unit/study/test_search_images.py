"""Layouts of images and videos: a search finds what trying every layout finds."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.study.goals import read_goal
from costmodel.study.layouts import diffusion_space
from costmodel.study.search import Space, search

NAMES = ("parallel.tp", "parallel.cp", "parallel.dp", "guidance_parallel")


@pytest.fixture(scope="module")
def workload() -> costmodel.Workload:
    return costmodel.load("stable-diffusion-3.5-large", cluster="nodes/dgx-h100", set={"scenarios.diffusion.batch": 1})


def test_the_best_layout_is_the_best_of_all(workload):
    found = search(workload, "diffusion", read_goal("diffusion", "diffusion", None, (), {}), Space([4]))
    times = {}
    for layout in itertools.product((1, 2, 4), (1, 2, 4), (1, 2, 4), (1, 2)):
        if math.prod(layout[:3]) == 4 and layout[2] % layout[3] == 0:
            setting = {f"scenarios.diffusion.{name}": value for name, value in zip(NAMES, layout, strict=True)}
            with contextlib.suppress(InputError):  # of degrees that do not divide
                done = workload.changed(setting).evaluate("diffusion")
                times[layout] = float(done.metrics["latency"])
    assert len(times) == 4  # 38 heads go to one or two ranks of a product
    assert found.best[0].objective == pytest.approx(min(times.values()), rel=1e-9)


def test_layouts_fill_the_devices_and_passes_divide_ranks(workload):
    columns = diffusion_space(workload.scenario("diffusion"), [1, 6]).columns
    tp, cp, dp, passes = (columns[name] for name in NAMES)
    assert set((tp * cp * dp).tolist()) == {1.0, 6.0}
    assert not (dp % passes).any()
    assert len({*zip(tp, cp, dp, passes, strict=True)}) == len(tp)
