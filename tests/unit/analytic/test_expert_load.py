"""What a scenario's routing makes of an expert layer: rows, experts that are read, replicas, capacity, drops."""

from __future__ import annotations

import numpy as np
import pytest
from builders import BF16, DECODE, DENSE_MODEL, GQA, MOE_MODEL, PREFILL, SERVING, STEP, context, scenario
from hypothesis import given
from hypothesis import strategies as st

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.expert_load import routing_facts
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.serving.engine_state import admission, steady_state
from costmodel.analytic.training.step_model import step_model
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Quantity
from costmodel.records import replace
from costmodel.workload import memory
from costmodel.workload.architecture import Architecture, Layer, MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.engine import Scheduler
from costmodel.workload.expert_load import ExpertLoad, expert_load
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Elementwise, ExpertAllToAll, Gemm
from costmodel.workload.scenario import Communication, Parallelism, Routing, Scenario
from costmodel.workload.validity import rules

EIGHT = MoeFfn(experts=8.0, intermediate=512.0, top_k=2)
MIXTURE = Architecture("mixture", 1024.0, 32_000.0, (Layer(4, GQA, EIGHT),))
BALANCED, UNIFORM, ZIPF = Routing(), Routing("uniform"), Routing("zipf", exponent=1.0)


def view(tokens: Quantity, ep: Quantity = 1.0, routing: Routing = BALANCED) -> Context:
    """Return the view of one of `ep` ranks that each decode `tokens` sequences."""
    seen = context(MIXTURE, Parallelism(dp=ep, ep=ep), "decode", tokens, 1.0, 512.0)
    return replace(seen, routing=routing)


def load(tokens: Quantity, ep: Quantity = 1.0, routing: Routing = BALANCED) -> ExpertLoad:
    return expert_load(view(tokens, ep, routing), EIGHT)


def product(seen: Context, name: str = "expert up") -> Gemm:
    (found,) = (each for each in model_work(seen).layers[0].forward if each.name == name)
    assert isinstance(found, Gemm)
    return found


# ---- experts that are read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "hit"), [(1.0, 2.0), (2.0, 3.5), (4.0, 8 * (1 - 0.75**4)), (256.0, 8.0)])
def test_experts_without_a_token_are_not_hit(tokens: float, hit: float) -> None:
    """A token leaves three of four experts out: 8 * (1 - (3/4)^T)."""
    for routing in (BALANCED, UNIFORM):
        assert load(tokens, routing=routing).active_experts == pytest.approx(hit, rel=1e-6)
        assert load(tokens, routing=routing).rows == pytest.approx(2 * tokens)


def test_weights_of_experts_without_a_token_are_not_read() -> None:
    one, many = product(view(1.0)), product(view(256.0))
    matrix = 1024 * 2 * 512 * 2.0
    assert one.groups == 2
    assert one.m == 1
    assert one.traffic == pytest.approx(2 * matrix + 2 * (1024 + 2 * 512) * 2.0)
    assert many.groups == pytest.approx(8)
    assert many.traffic == pytest.approx(8 * matrix + 512 * (1024 + 2 * 512) * 2.0)


def test_experts_without_a_token_are_in_memory_all_the_same() -> None:
    few, many = (model_work(view(tokens)).layers[0].parameters for tokens in (1.0, 256.0))
    assert [item.local for item in few] == [item.local for item in many]


def test_a_rank_whose_only_expert_is_busy_reads_it_whole() -> None:
    """Eight experts on eight ranks, one token: some rank has a row, and waits for its expert's weights."""
    found = load(0.125, 8.0, UNIFORM)
    assert (found.rows, found.active_experts) == (pytest.approx(1.0), pytest.approx(1.0))
    assert load(0.125, 8.0).active_experts == 1


# ---- load of the fullest rank ---------------------------------------------------------------------------------------


def test_balanced_is_the_default_and_has_no_fuller_rank() -> None:
    for tokens in (1.0, 64.0, 4096.0):
        found = load(tokens, 8.0)
        assert (found.load, found.rows_std, found.dropped) == (1.0, 0.0, 0.0)
        assert found.rows == 2 * tokens


def test_a_stated_load_overrides_the_routing() -> None:
    stated = replace(view(64.0, 8.0, ZIPF), communication=Communication(expert_load=1.4))
    found = expert_load(stated, EIGHT)
    assert (found.load, found.rows) == (1.4, pytest.approx(1.4 * 128))


def test_load_multiplies_rows_permutes_and_exchanges_alike() -> None:
    even, skewed = view(512.0, 8.0), view(512.0, 8.0, ZIPF)
    found = expert_load(skewed, EIGHT)
    assert found.load > 2.9
    for name in ("expert up", "expert down"):
        assert product(skewed, name).flop == pytest.approx(found.load * product(even, name).flop)
    work = {seen: {each.name: each for each in model_work(seen).layers[0].forward} for seen in (even, skewed)}
    for name in ("expert permute", "expert activation", "expert unpermute"):
        before, after = work[even][name], work[skewed][name]
        assert isinstance(before, Elementwise)
        assert isinstance(after, Elementwise)
        assert after.traffic == pytest.approx(found.load * before.traffic)
    sent = work[skewed]["dispatch"]
    assert isinstance(sent, ExpertAllToAll)
    assert sent.expert_load == pytest.approx(found.load)


def test_deduplicated_copies_of_the_fullest_rank_are_never_more_than_all_tokens() -> None:
    for routing in (UNIFORM, ZIPF, Routing("zipf", exponent=4.0)):
        for tokens in (1.0, 16.0, 4096.0):
            seen = view(tokens, 2.0, routing)
            sent = next(each for each in model_work(seen).layers[0].forward if isinstance(each, ExpertAllToAll))
            assert sent.targets(2.0) / 2 * sent.most_loaded(2.0) <= 1 + 1e-9
            assert sent.most_loaded(2.0) >= 1 - 1e-9


def test_rows_of_the_experts_of_a_rank_differ_by_chance_and_by_popularity() -> None:
    """Two experts a rank with about 512 rows each by chance: deviation sqrt(512 * (1 - 1/2))."""
    chance = load(1024.0, 4.0, UNIFORM)
    assert chance.rows_std == pytest.approx((chance.rows / 4) ** 0.5, rel=0.01)
    assert load(1024.0, 4.0, ZIPF).rows_std > 5 * float(chance.rows_std)
    seen = view(1024.0, 4.0, UNIFORM)
    assert product(seen).m_std == chance.rows_std
    gradients = [each for each in model_work(seen).layers[0].weight_gradient if each.name.startswith("expert up")]
    assert [each.m_std for each in gradients if isinstance(each, Gemm)] == [0.0]


@pytest.mark.parametrize("plan", [STEP, PREFILL, DECODE])
def test_skewed_routing_is_slower(plan: object) -> None:
    def headline(routing: Routing) -> float:
        assert isinstance(plan, type(STEP) | type(PREFILL) | type(DECODE))
        asked = replace(scenario(plan, MOE_MODEL, Parallelism(dp=8.0, ep=8.0)), routing=routing)
        evaluation = evaluate(asked, Calibration())
        value = evaluation.metrics(None)[evaluation.headline]
        assert value is not None
        return float(value)

    times = [headline(each) for each in (BALANCED, UNIFORM, Routing("zipf", exponent=0.5), ZIPF)]
    assert times == sorted(times)
    assert times[-1] > 1.01 * times[0]


def test_executed_flop_are_those_of_the_mean_rank_whatever_the_load() -> None:
    def flop(routing: Routing) -> float:
        asked = replace(scenario(STEP, MOE_MODEL, Parallelism(dp=8.0, ep=8.0)), routing=routing)
        return float(step_model(asked, STEP, Calibration()).executed_flop)

    assert flop(UNIFORM) == pytest.approx(flop(BALANCED), rel=1e-9)
    assert flop(ZIPF) == pytest.approx(flop(BALANCED), rel=1e-9)
    assert flop(Routing(capacity=1.5)) > flop(BALANCED)


# ---- replicas -------------------------------------------------------------------------------------------------------


def test_replicas_are_weights_of_the_rank_and_not_of_the_model() -> None:
    plain, replicated = view(64.0, 8.0), view(64.0, 8.0, Routing(redundant=8.0))
    assert expert_load(replicated, EIGHT).local_experts == 2
    for before, after in zip(
        model_work(plain).layers[0].parameters, model_work(replicated).layers[0].parameters, strict=True
    ):
        assert after.local == (2 if before.expert else 1) * before.local
        assert (after.total, after.active) == (before.total, before.active)


def test_replicas_of_popular_experts_lower_the_load() -> None:
    loads = [float(load(512.0, 8.0, replace(ZIPF, redundant=8.0 * more)).load) for more in range(4)]
    assert loads == sorted(loads, reverse=True)
    assert loads[0] > 2.9
    assert loads[3] < 1.3


# ---- capacity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25, 2.0])
@pytest.mark.parametrize("routing", [BALANCED, UNIFORM, ZIPF, Routing("counts", counts=(1.0, 2.0) * 4)])
def test_what_is_kept_and_what_is_dropped_are_all_copies(routing: Routing, factor: float) -> None:
    """1024 tokens of a rank, room for 256*factor of them at each of eight experts; kept copies by draws."""
    found = load(1024.0, 4.0, replace(routing, capacity=factor))
    room = np.ceil(256 * factor)
    shares = {
        "balanced": np.full(8, 1 / 8),
        "uniform": np.full(8, 1 / 8),
        "zipf": np.arange(1.0, 9) ** -1 / sum(1 / rank for rank in range(1, 9)),
        "counts": np.tile([1 / 12, 2 / 12], 4),
    }[routing.load]
    expected = 2048 * shares
    if routing.load in ("uniform", "zipf"):
        expected = np.random.default_rng(5).binomial(1024, 2 * shares, (20_000, 8))
    kept = np.minimum(expected, room).sum(axis=-1).mean()
    assert found.dropped == pytest.approx(1 - kept / 2048, abs=5e-4)
    assert found.rows == 2 * 4 * room
    assert found.load == pytest.approx(factor)
    assert (found.active_experts, found.rows_std, found.padded) == (2.0, 0.0, True)


def test_room_is_no_row_more_than_the_factor_says() -> None:
    """40 tokens, ten copies an expert: room for eleven."""
    assert load(40.0, 8.0, Routing(capacity=1.1)).rows == 8 * 11
    assert load(40.0, 8.0, Routing(capacity=1.11)).rows == 8 * 12


def test_less_is_dropped_with_more_room_and_nothing_without_a_limit() -> None:
    drops = [float(load(64.0, 8.0, replace(ZIPF, capacity=factor)).dropped) for factor in (0.5, 1.0, 1.5, 2.0, 4.0)]
    assert drops == sorted(drops, reverse=True)
    assert drops[0] > 0.4
    assert drops[-1] == 0
    assert load(64.0, 8.0, ZIPF).dropped == 0


def test_padded_buffers_travel_full_and_once_to_each_expert() -> None:
    seen = view(64.0, 8.0, Routing("uniform", capacity=1.25))
    sent = next(each for each in model_work(seen).layers[0].forward if isinstance(each, ExpertAllToAll))
    assert not sent.deduplicates
    assert sent.expert_load == pytest.approx(np.ceil(20) * 8 / 128)
    assert memory._received_bytes(sent) == pytest.approx(sent.tokens * sent.top_k * sent.token_bytes * 1.25)


# ---- grids and facts ------------------------------------------------------------------------------------------------


def axis(values: list[float], place: int, dimensions: int) -> Array:
    return np.array(values).reshape(tuple(-1 if dimension == place else 1 for dimension in range(dimensions)))


@pytest.mark.parametrize(
    "routing",
    [
        BALANCED,
        UNIFORM,
        Routing("zipf", exponent=axis([0.0, 0.8], 2, 3)),
        Routing("zipf", exponent=0.5, redundant=axis([0.0, 16.0], 2, 3)),
        Routing("uniform", capacity=axis([0.75, 1.5], 2, 3)),
        Routing("counts", counts=tuple(float(1 + expert % 5) for expert in range(64))),
    ],
)
def test_a_grid_equals_its_points(routing: Routing) -> None:
    degrees, batches = axis([1.0, 8.0, 16.0, 3.0], 0, 3), axis([2.0, 8.0, 64.0], 1, 3)
    plan = replace(DECODE, batch_per_device=batches)
    grid = replace(scenario(plan, MOE_MODEL, Parallelism(dp=degrees, ep=degrees)), routing=routing)
    shape = (4, 3, 2)
    result = evaluate_grid(grid, Calibration(), shape)
    facts = result.routing
    assert facts is not None
    fits = np.asarray(result.fits)
    assert fits.any()
    for index in np.ndindex(*shape):
        if not fits[index]:
            continue
        point = result.at(*index)
        assert np.asarray(result.metrics["tpot"])[index] == pytest.approx(point["metrics"]["tpot"], rel=1e-9)
        for name, values in facts.items():
            assert np.asarray(values)[index] == pytest.approx(point["routing"][name], rel=1e-9)


def test_facts_are_means_over_expert_layers_and_there_are_none_without() -> None:
    layers = (Layer(1, GQA, EIGHT), Layer(3, GQA, replace(EIGHT, experts=16.0)))
    asked = scenario(DECODE, replace(MIXTURE, layers=layers), Parallelism(dp=8.0, ep=8.0))
    facts = routing_facts(asked)
    assert facts is not None
    assert facts["experts_held"] == pytest.approx((1 * 1 + 3 * 2) / 4)
    assert facts["expert_load"] == 1
    document = evaluate_point(asked, Calibration()).document()
    assert document["routing"].keys() == {"expert_load", "experts_hit", "experts_held", "dropped_share"}
    dense = scenario(DECODE, DENSE_MODEL, Parallelism(dp=8.0))
    assert routing_facts(dense) is None
    assert "routing" not in evaluate_point(dense, Calibration()).document()


def broken(of: Scenario) -> dict[str, str]:
    return {rule.field: rule.message for rule in rules(of) if not rule.holds}


def test_routings_that_cannot_be_are_named() -> None:
    layout = Parallelism(dp=8.0, ep=8.0)
    serving, training = scenario(DECODE, MIXTURE, layout), scenario(STEP, MIXTURE, layout)
    assert broken(replace(serving, routing=Routing(redundant=8.0))) == {}
    assert "do not divide" in broken(replace(serving, routing=Routing(redundant=4.0)))["routing.redundant"]
    assert "training" in broken(replace(training, routing=Routing(redundant=8.0)))["routing.redundant"]
    ordered = Routing(redundant=8.0, placement="sequential")
    assert "by load" in broken(replace(serving, routing=ordered))["routing.placement"]
    roomy = Routing(redundant=8.0, capacity=1.25)
    assert "capacity" in broken(replace(serving, routing=roomy))["routing.redundant"]
    stated = replace(serving, routing=Routing(capacity=1.25), communication=Communication(expert_load=1.2))
    assert "capacity" in broken(stated)["communication.expert_load"]
    assert "no routed experts" in broken(replace(scenario(DECODE, DENSE_MODEL), routing=UNIFORM))["routing"]


def test_replicas_let_a_number_of_ranks_serve_that_does_not_divide_the_experts() -> None:
    layout = Parallelism(dp=12.0, ep=12.0)
    plain = scenario(DECODE, MIXTURE, layout, BF16, Communication(mode="low_latency"))
    assert "parallel.ep" in broken(plain)
    assert broken(replace(plain, routing=Routing(redundant=4.0))) == {}


@given(tokens=st.integers(1, 4096), ep=st.sampled_from([1.0, 2.0, 4.0, 8.0]), exponent=st.floats(0.0, 3.0))
def test_the_fullest_rank_lies_between_the_mean_and_all_that_can_reach_it(
    tokens: int, ep: float, exponent: float
) -> None:
    found = load(float(tokens), ep, Routing("zipf", exponent=exponent))
    local = 8 / ep
    assert 1 - 1e-9 <= found.load <= min(2.0, local) * ep / 2 + 1e-9
    assert 1 - 1e-9 <= found.active_experts <= local + 1e-9
    assert found.rows >= found.active_experts - 1e-6


def test_facts_of_chunked_serving_count_the_prompts_that_ride_along() -> None:
    """As of as many rows in passes of one kind: each kind of step as often as it runs."""
    plan = replace(SERVING, concurrency=16.0, output_tokens=64.0, scheduler=Scheduler(token_budget=512.0))
    of = replace(scenario(plan, MIXTURE), routing=UNIFORM)
    state = steady_state(of, plan, admission(of, plan).admitted)
    rows = float(state.co_batched + state.prompts * state.prompt_tokens), float(state.active)
    assert 0 < float(state.prompt_steps) < 1
    assert rows[0] > 2 * rows[1]
    facts = routing_facts(of)
    assert facts is not None
    hits = [float(load(each, routing=UNIFORM).active_experts) for each in rows]
    assert facts["experts_hit"] == pytest.approx(
        float(state.prompt_steps) * hits[0] + float(state.decode_only_steps) * hits[1]
    )
    alone = routing_facts(replace(of, plan=replace(plan, scheduler=Scheduler(token_budget=None))))
    assert alone is not None
    assert alone["experts_hit"] < facts["experts_hit"]
