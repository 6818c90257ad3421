"""What the first rank keeps and which stages ranks hold, in closed form, are those of the orders themselves."""

from __future__ import annotations

import pytest

from costmodel.errors import InputError
from costmodel.workload.schedules.catalogue import SCHEDULES, order
from costmodel.workload.schedules.schedule import first_rank_chunks, placement_of


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("pp", [1, 2, 4, 6])
@pytest.mark.parametrize("virtual", [1, 2, 3])
def test_the_closed_forms_are_those_of_the_order(name: str, pp: int, virtual: int) -> None:
    tried = 0
    for micro_batches in (1, 2, 4, 6, 8, 12, 24):
        try:
            schedule = order(name, pp, virtual, micro_batches)
        except InputError:  # the schedule asks for other numbers
            continue
        tried += 1
        assert placement_of(name, pp, virtual) == schedule.placement
        chunks = first_rank_chunks(name, pp, micro_batches)
        expected = (chunks.first, *[chunks.others] * (len(schedule.placement[0]) - 1))
        states = schedule.in_flight(0)
        assert any(all(least <= most for least, most in zip(expected, state, strict=True)) for state in states)
    assert tried or (SCHEDULES[name].virtual or 2) != virtual or (name == "dualpipe" and pp % 2)
