"""How many requests a step of the simulated engine may hold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.serving.decoding import growth
from costmodel.serving.simulation import policy_of
from costmodel.serving.state import Calls, Paths, Requests
from costmodel.workload.plans import Serving


def policy(changes):
    """Return the policy for 2,000 requests of the shipped server, whose budget is 512 tokens."""
    workload = costmodel.load("llama3_8b_rtx4090", set=changes, scenarios=["serving"])
    scenario = workload.resolved.scenarios["serving"]
    assert isinstance(scenario.plan, Serving)
    requests = Requests(np.zeros(2000), np.tile([512, 256], (2000, 1)), Calls.none(2000), Paths.none(2000))
    return policy_of(scenario, scenario.plan, requests, 768)


def test_without_a_limit_a_step_holds_as_many_requests_as_its_budget_has_tokens():
    assert (policy({}).budget, policy({}).max_seqs) == (512, 512)


def test_a_stated_limit_that_the_budget_cannot_hold_is_refused():
    assert policy({"scenarios.serving.scheduler.max_num_seqs": 64}).max_seqs == 64
    with pytest.raises(InputError, match="600 requests need 600 tokens of a step, which has 512"):
        policy({"scenarios.serving.scheduler.max_num_seqs": 600})
    drafts = {"model.mtp": "{depth: 1}", "scenarios.serving.speculative": "{depth: 1, acceptance: 50 %}"}
    assert policy(drafts | {"scenarios.serving.scheduler.max_num_seqs": 256}).max_seqs == 256
    with pytest.raises(InputError, match="257 requests need 514 tokens of a step, which has 512"):
        policy(drafts | {"scenarios.serving.scheduler.max_num_seqs": 257})


@pytest.mark.parametrize("accepted", [1.0, 1.25, 1.8, 3.0])
def test_steps_give_whole_tokens_of_which_none_is_lost(accepted):
    """Of a fraction each step gives what is whole by then."""
    given = [
        growth(
            SimpleNamespace(policy=SimpleNamespace(tokens_per_step=accepted), state=SimpleNamespace(decode_steps=at))
        )
        for at in range(20)
    ]
    assert sum(given) == 20 * accepted
    assert max(given) - min(given) <= 1
