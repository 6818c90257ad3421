"""Messages from fitted forms: protocols by size, copies by kind of link, and what better links change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import FRAMEWORK
from pydantic import ValidationError

from costmodel.calibration.fit_files import read
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.collective import ClusterSteps, CollectiveForm, CustomAllReduce, HostBridge, Nvls
from costmodel.cost.expert_all_to_all import LowLatencyForm, NormalForm
from costmodel.cost.form_registry import FORMS as FORMS_BY_KIND
from costmodel.cost.parameter import declarations
from costmodel.cost.residual import Domain
from costmodel.cost.time import Machine
from costmodel.errors import InfeasibleError
from costmodel.hardware import Cluster
from costmodel.network.expert_all_to_all import token_copies
from costmodel.network.group_links import require_group_links
from costmodel.records import replace
from costmodel.schema.calibration import FORM_FILES, FitsFile
from costmodel.schema.files import load_node
from costmodel.schema.references import Library
from costmodel.workload.operators import Collective, ExpertAllToAll, Group

NODE = load_node("hgx-h800")
LINK, NIC = NODE.intra, NODE.nic
assert LINK.latency is not None
assert NIC is not None
NCCL = CollectiveForm(
    launch=3e-6,
    small_step=0.5,
    small_efficiency=0.2,
    large_latency=1e-5,
    large_step=1.0,
    large_efficiency=0.8,
    protocol_switch=1e6,
    switch_sharpness=6.0,
    nvls=Nvls(nvls_efficiency=0.6, nvls_latency=0.0),
)
PEERS = replace(NCCL, nvls=None, custom_all_reduce=CustomAllReduce(one_shot_efficiency=0.5, two_shot_efficiency=0.7))
NORMAL = NormalForm(
    launch=2e-5, inter_hops=2.0, inter_setup=9e-6, rank_latency=1e-6, token_latency=4e-7,
    send_bandwidth=2e10, forward_cost=3.0,
    intra_efficiency=0.7, inter_efficiency=0.9, fabric_exponent=0.3, overlap_p=6.0,
    processors=20.0, fabric_max_nodes=8.0,
)  # fmt: skip
DIRECT = LowLatencyForm(
    launch=5e-6,
    inter_hops=1.0,
    inter_setup=6e-6,
    expert_latency=2e-8,
    rank_latency=1e-7,
    token_latency=1e-6,
    send_bandwidth=5e9,
    intra_efficiency=0.55,
    inter_efficiency=0.95,
    overlap_p=3.0,
    uses_intra_links=True,
)
STEPS = ClusterSteps(intra_step=2e-6, inter_step=4e-6, tree_step=8e-6)
STEPPED = replace(NCCL, nvls=None, inter_efficiency=0.9, cluster_steps=STEPS)
FORMS = [
    (NCCL, "all_reduce"), (NCCL, "all_gather"), (STEPPED, "all_reduce"), (STEPPED, "all_gather"),
    (NCCL, "all_to_all"), (NCCL, "send_recv"), (PEERS, "all_reduce"),
    (NORMAL, "normal"), (DIRECT, "low_latency"), (replace(DIRECT, uses_intra_links=False), "low_latency"),
]  # fmt: skip


def machine(link: float = 1.0, nic: float = 1.0, latency: float = 1.0, held: float = 24.0) -> Machine:
    """Return 32 nodes whose bandwidths and latencies are multiples of the stated ones."""
    intra = replace(LINK, bandwidth=LINK.bandwidth * link, latency=LINK.latency * latency)
    own = replace(NIC, bandwidth=NIC.bandwidth * nic, latency=NIC.latency * latency)
    node = replace(NODE, intra=intra, nic=own)
    device = node.device
    return Machine(device, FRAMEWORK, device.processors - held, cluster=Cluster(node.name, node, 32.0, None))


def operator(kind: str, size, ranks: float):
    """Return a collective of `size` bytes, or an exchange of as many bytes in tokens of 7,168."""
    if kind in ("normal", "low_latency"):
        return ExpertAllToAll(
            "dispatch",
            tokens=size / 7168,
            token_bytes=7392.0,
            top_k=8,
            experts=256.0,
            expert_groups=1.0,
            group_top_k=1,
            group=Group(ranks),
            mode=kind,
            expert_load=1.0,
            family="moe_dispatch",
        )
    return Collective(kind, kind, size, Group(ranks))


def seconds(form, kind: str, size, ranks: float = 8.0, on: Machine | None = None):
    return form.time(operator(kind, size, ranks), machine() if on is None else on).seconds


@pytest.mark.parametrize(("form", "kind"), FORMS)
@pytest.mark.parametrize("ranks", [2.0, 8.0, 64.0])
def test_better_links_are_never_slower_and_some_link_matters(form, kind, ranks):
    sizes = np.geomspace(7168.0, 1e9, 40)
    before = seconds(form, kind, sizes, ranks)
    faster = [
        seconds(form, kind, sizes, ranks, machine(**{name: factor}))
        for name, factor in (("link", 4.0), ("nic", 4.0), ("latency", 0.25))
    ]
    assert all(np.all(each <= before * (1 + 1e-12)) for each in faster)
    assert np.all(np.min(faster, axis=0) < before)


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_a_group_of_one_takes_no_time_and_an_array_what_each_takes(form, kind):
    assert seconds(form, kind, 1e6, 1.0) == 0
    sizes = np.array([0.0, 7168.0, 1e6, 1e8])
    each = [seconds(form, kind, float(size), 16.0) for size in sizes]
    assert seconds(form, kind, sizes, 16.0) == pytest.approx(each, rel=1e-12)
    assert np.isfinite(each).all()


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_what_is_fixed_is_what_an_empty_message_takes(form, kind):
    time = form.time(operator(kind, 1e6, 8.0), machine())
    assert 0 < time.fixed < time.seconds
    assert time.network == pytest.approx(time.seconds - time.fixed)


def test_a_large_message_gets_the_share_of_large_ones_and_a_small_one_its_steps():
    volume = 7 / 8 * 1e9
    assert seconds(NCCL, "all_gather", 1e9) == pytest.approx(
        3e-6 + 1e-5 + volume / (0.8 * LINK.bandwidth) + 7 * LINK.latency, rel=1e-3
    )
    assert seconds(NCCL, "all_gather", 64.0) == pytest.approx(3e-6 + 7 * 0.5 * LINK.latency, rel=1e-2)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter"])
def test_rings_over_nodes_wait_at_every_rank(kind):
    """512 ranks on 64 nodes: 448 steps inside nodes and 63 to another one; seven of eight hops are over their links."""
    wire = 511 / 512 * 1e8 / (0.8 * LINK.bandwidth * 8 / 7)
    steps = 448 * 2e-6 + 63 * (4e-6 + NIC.latency)
    assert seconds(STEPPED, kind, 1e8, 512.0) == pytest.approx(3e-6 + 1e-5 + wire + steps, rel=1e-9)


def test_a_broadcast_over_nodes_passes_every_rank_and_sends_all():
    """Two ranks of two nodes: all bytes once over a NIC, and one step; on 64 nodes as many steps as a ring."""
    pair = seconds(replace(STEPPED, large_efficiency=0.8), "broadcast", 1e8, 16.0)
    wire = 1e8 / min(0.8 * LINK.bandwidth * 8 / 7, 8 * 0.9 * NIC.bandwidth)
    assert pair == pytest.approx(3e-6 + 1e-5 + wire + 14 * 2e-6 + 4e-6 + NIC.latency, rel=1e-9)
    waits = seconds(STEPPED, "broadcast", 1e8, 512.0) - seconds(STEPPED, "broadcast", 1e8, 256.0)
    assert waits == pytest.approx(224 * 2e-6 + 32 * (4e-6 + NIC.latency), rel=1e-6)


def test_an_all_reduce_over_nodes_takes_a_tree_where_a_ring_has_more_steps():
    """On 64 nodes a tree has six levels and seven steps inside a node, where a ring has 63 and 448."""

    def waits(ranks: float) -> float:
        whole = seconds(STEPPED, "all_reduce", 1e8, ranks)
        bandwidth = min(STEPPED.large_efficiency * LINK.bandwidth * 8 / 7, 8 * STEPPED.inter_efficiency * NIC.bandwidth)
        return whole - STEPPED.launch - STEPPED.large_latency - 2 * (ranks - 1) / ranks * 1e8 / bandwidth

    assert waits(512.0) == pytest.approx(2 * (7 * 2e-6 + 6 * (8e-6 + NIC.latency)), rel=1e-6)
    assert waits(16.0) == pytest.approx(2 * (7 * 2e-6 + 8e-6 + NIC.latency), rel=1e-6)


@pytest.mark.parametrize("form", [STEPPED, replace(PEERS, cluster_steps=STEPS)])
def test_a_small_all_reduce_over_nodes_waits_for_the_steps_of_nccl(form):
    small = ClusterSteps(intra_step=1e-6, inter_step=3e-6, tree_step=5e-6)
    stepped = replace(form, small_cluster_steps=small)
    expected = 2 * (7 * 1e-6 + min(5e-6, 8 * 1e-6 + 3e-6) + NIC.latency)
    assert seconds(stepped, "all_reduce", 1.0, 16.0) - form.launch == pytest.approx(expected, rel=1e-3)
    assert seconds(stepped, "all_reduce", 1.0, 8.0) == seconds(form, "all_reduce", 1.0, 8.0)
    assert seconds(stepped, "all_reduce", 1.0, 64.0) > seconds(stepped, "all_reduce", 1.0, 16.0)


def test_steps_between_nodes_are_stated_together():
    known = {
        "kind": "collective", "launch": "1 us", "small_step": 0.5, "small_efficiency": 0.5, "large_latency": "1 us",
        "large_step": 1.0, "large_efficiency": 0.5, "protocol_switch": "1 MB", "switch_sharpness": 2.0,
    }  # fmt: skip
    steps = {"intra_step": "2 us", "inter_step": "4 us", "tree_step": "8 us"}
    file = FORM_FILES["collective"](**known, **steps)
    assert file.inter_step == pytest.approx(4e-6)
    with pytest.raises(ValidationError, match="stated together: inter_step, tree_step is missing"):
        FORM_FILES["collective"](**known, intra_step="2 us")


def test_steps_between_nodes_change_nothing_inside_one():
    for kind in ("all_reduce", "all_gather", "all_to_all"):
        plain = replace(STEPPED, cluster_steps=None)
        assert seconds(STEPPED, kind, 1e8, 8.0) == seconds(plain, kind, 1e8, 8.0)


def test_switches_that_add_up_halve_what_a_large_all_reduce_sends():
    ring = replace(NCCL, nvls=None)
    assert seconds(ring, "all_reduce", 1e9) / seconds(NCCL, "all_reduce", 1e9) == pytest.approx(
        (14 / 8 / 0.8) / (9 / 8 / 0.6), rel=0.01
    )
    assert seconds(NCCL, "all_reduce", 1e9, 64.0) == seconds(ring, "all_reduce", 1e9, 64.0)


def test_reading_all_peers_at_once_wins_small_and_in_two_steps_large():
    once, twice = (
        replace(PEERS, custom_all_reduce=CustomAllReduce(one_shot_efficiency=one, two_shot_efficiency=two))
        for one, two in ((0.5, 1e-9), (1e-9, 0.7))
    )
    assert seconds(PEERS, "all_reduce", 1e4) == seconds(once, "all_reduce", 1e4)
    assert seconds(PEERS, "all_reduce", 6e5) == seconds(twice, "all_reduce", 6e5)


def test_without_peer_access_large_messages_pass_the_host():
    node = load_node("rtx-4090-x8")
    staged = replace(NCCL, host_staged_efficiency=0.5)

    def bandwidth(peer_to_peer: bool) -> float:
        cluster = Cluster("box", replace(node, peer_to_peer=peer_to_peer), 1.0, None)
        on = Machine(node.device, FRAMEWORK, node.device.processors, cluster=cluster)
        return 1e9 / seconds(staged, "send_recv", 1e9, 2.0, on)

    assert bandwidth(peer_to_peer=True) == pytest.approx(0.8 * node.intra.bandwidth, rel=0.01)
    assert bandwidth(peer_to_peer=False) == pytest.approx(0.5 * node.intra.bandwidth / 2, rel=0.01)


def test_calls_follow_each_other():
    fit = FamilyFit(basis="fitted", form=NCCL)
    once, thrice = operator("all_gather", 1e6, 8.0), replace(operator("all_gather", 1e6, 8.0), calls=3.0)
    assert fit.fitted_time(NCCL, thrice, machine()).seconds == 3 * fit.fitted_time(NCCL, once, machine()).seconds


def test_more_processors_move_tokens_faster_until_the_links_bind():
    held = [float(seconds(NORMAL, "normal", 1e9, 8.0, machine(held=count))) for count in (1.0, 2.0, 24.0, 64.0)]
    assert held == sorted(held, reverse=True)
    assert held[0] / held[1] == pytest.approx(2.0, rel=0.02)
    assert held[2] / held[3] < 1.2


def test_where_a_scenario_holds_no_processors_the_library_s_own_number_is_taken():
    assert seconds(NORMAL, "normal", 1e8, 8.0, machine(held=0.0)) == seconds(
        NORMAL, "normal", 1e8, 8.0, machine(held=20.0)
    )


def test_kernels_that_send_everything_over_the_nic_do_not_know_the_links_inside():
    first = replace(DIRECT, uses_intra_links=False)
    assert seconds(first, "low_latency", 1e7, 8.0) > 2 * seconds(DIRECT, "low_latency", 1e7, 8.0)
    assert seconds(first, "low_latency", 1e7, 8.0, machine(link=10.0)) == seconds(first, "low_latency", 1e7, 8.0)


def test_a_message_without_a_cluster_is_an_error():
    alone = replace(machine(), cluster=None)
    with pytest.raises(InfeasibleError, match="all_gather: no cluster says how its ranks are connected"):
        seconds(NCCL, "all_gather", 1e6, 8.0, alone)


def test_ranks_behind_several_switches_share_the_host_s_bridges():
    node = load_node("rtx-pro-6000-server-x8")
    bridge = HostBridge(bridge_efficiency=0.5, bridge_sharing=1.0, switch_ranks=2, bridge_max_ranks=8.0)
    bridged = replace(NCCL, nvls=None, host_bridge=bridge)

    def bandwidth(form: CollectiveForm, ranks: float) -> float:
        on = Machine(
            node.device, FRAMEWORK, node.device.processors, cluster=Cluster("box", replace(node, count=8.0), 1.0, None)
        )
        return 2e9 * (ranks - 1) / ranks / seconds(form, "all_reduce", 1e9, ranks, on)

    plain = replace(bridged, host_bridge=None)
    assert bandwidth(bridged, 2.0) == bandwidth(plain, 2.0)
    assert bandwidth(bridged, 4.0) == pytest.approx(0.25 * bandwidth(plain, 4.0), rel=0.01)
    assert bandwidth(bridged, 8.0) == pytest.approx(0.125 * bandwidth(plain, 8.0), rel=0.01)


def test_messages_that_the_host_stores_pass_no_bridge():
    node = replace(load_node("rtx-4090-x8"), peer_to_peer=False)
    on = Machine(node.device, FRAMEWORK, node.device.processors, cluster=Cluster("box", node, 1.0, None))
    staged = replace(NCCL, nvls=None, host_staged_efficiency=0.5)
    bridge = HostBridge(bridge_efficiency=0.1, bridge_sharing=1.0, switch_ranks=2, bridge_max_ranks=8.0)
    bridged = replace(staged, host_bridge=bridge)
    assert seconds(bridged, "all_reduce", 1e9, 8.0, on) == seconds(staged, "all_reduce", 1e9, 8.0, on)


def test_a_quicker_nic_saves_its_latency_once_for_each_message_that_is_waited_for():
    """A microsecond less: one of a low-latency exchange, two of a normal one; what is fitted beside it stays."""
    slow, quick = machine(), machine()
    nic = replace(NIC, latency=NIC.latency - 1e-6)
    quick = replace(quick, cluster=replace(quick.cluster, network=None, node=replace(quick.cluster.node, nic=nic)))
    slow = replace(slow, cluster=replace(slow.cluster, network=None))
    for form, mode, messages in ((DIRECT, "low_latency", 1), (NORMAL, "normal", 2)):
        saved = float(seconds(form, mode, 1e6, 16.0, slow)) - float(seconds(form, mode, 1e6, 16.0, quick))
        assert saved == pytest.approx(messages * 1e-6, rel=1e-6), mode

    def time(form: LowLatencyForm, ranks: float, where: Machine) -> float:
        return float(seconds(form, "low_latency", 1e6, ranks, where))

    assert time(DIRECT, 8.0, slow) == time(DIRECT, 8.0, quick)
    dearer = replace(DIRECT, inter_setup=DIRECT.inter_setup + 3e-6)
    assert time(dearer, 16.0, slow) - time(DIRECT, 16.0, slow) == pytest.approx(3e-6, rel=1e-6)


def test_a_copy_to_another_node_costs_its_sender_as_much_as_several_to_ranks():
    """On two nodes: copies to ranks and three for each to the other node, shared by 24 processors."""
    exchange, held = operator("normal", 1e6, 16.0), machine(held=24.0)
    assert isinstance(exchange, ExpertAllToAll)
    terms = NORMAL.terms(exchange, held)
    copies = token_copies(exchange, require_group_links(exchange.group, held.cluster, "test"))
    sent = copies.reached + 3.0 * copies.inter
    assert copies.inter > 0
    assert terms["copies_sent"] == pytest.approx(sent, rel=1e-12)
    per_token = 4e-7 + sent * exchange.token_bytes / 2e10
    assert terms["send_time"] == pytest.approx(exchange.tokens / 24 * per_token, rel=1e-12)


def test_more_nodes_slow_their_fabric_by_its_exponent():
    """Per byte, eight nodes take (8/2)^0.3 of what two do."""

    def per_byte(ranks: float) -> float:
        exchange = operator("normal", 1e6, ranks)
        assert isinstance(exchange, ExpertAllToAll)
        terms = NORMAL.terms(exchange, machine())
        return float(terms["inter_time"] / terms["inter_copies"] / exchange.tokens)

    assert per_byte(16.0) == pytest.approx(7392.0 / (0.9 * NIC.bandwidth), rel=1e-9)
    assert per_byte(64.0) == pytest.approx(4.0**0.3 * per_byte(16.0), rel=1e-9)


def test_an_exponent_acts_up_to_the_widest_group_that_was_measured_and_widens_the_interval_past_it():
    """Past eight nodes a byte takes what it does on eight; half of the interval is how far the exponent would go."""
    fit = FamilyFit(form=NORMAL, basis="fitted", domain=Domain(np.full(5, -100.0), np.full(5, 100.0), 1.0))

    def at(nodes: float) -> tuple[float, float, str]:
        exchange = operator("normal", 1e9, 8.0 * nodes)
        terms, time = NORMAL.terms(exchange, machine()), NORMAL.time(exchange, machine())
        low, high = (fit.ratio(time, time.seconds, *end) for end in ((1.0, 0.0), (0.0, 1.0)))
        assert math.log(high) == pytest.approx(-math.log(low)) == pytest.approx(float(time.beyond))
        return float(terms["inter_time"] / terms["inter_copies"]), float(time.beyond), fit.basis_at(exchange, time)

    (eight, none, basis), (sixteen, some, _), (thirty_two, more, extrapolated) = map(at, (8.0, 16.0, 32.0))
    assert eight == pytest.approx(sixteen, rel=1e-12) == pytest.approx(thirty_two, rel=1e-12)
    assert none == 0.0 < some < more <= 0.3 * math.log(4.0)
    assert more == pytest.approx(0.3 * math.log(4.0), rel=0.1)  # links between nodes take nearly all of the time
    assert (basis, extrapolated) == ("fitted", "extrapolated")
    grid = NORMAL.time(replace(operator("normal", 1e9, 8.0), group=Group(8.0 * np.array([8.0, 16.0]))), machine())
    assert np.asarray(grid.beyond).tolist() == pytest.approx([none, some])


def test_bridges_are_shared_up_to_the_ranks_that_were_measured():
    node = replace(load_node("rtx-pro-6000-server-x8"), count=16.0)
    on = Machine(node.device, FRAMEWORK, node.device.processors, cluster=Cluster("box", node, 1.0, None))
    bridge = HostBridge(bridge_efficiency=0.5, bridge_sharing=1.0, switch_ranks=2, bridge_max_ranks=8.0)
    bridged, few = (replace(NCCL, nvls=None, host_bridge=replace(bridge, bridge_max_ranks=r)) for r in (8.0, 16.0))
    eight, sixteen = (bridged.time(operator("all_reduce", 1e9, ranks), on) for ranks in (8.0, 16.0))
    assert sixteen.seconds < 1.1 * eight.seconds
    assert eight.beyond == 0.0
    assert sixteen.beyond == pytest.approx(math.log(2.0), rel=0.01)
    assert few.time(operator("all_reduce", 1e9, 16.0), on).seconds == pytest.approx(2 * sixteen.seconds, rel=0.01)


@pytest.mark.parametrize("form", FORMS_BY_KIND.values(), ids=FORMS_BY_KIND)
def test_every_exponent_of_a_form_has_a_range(form):
    """All but those of a share, which is one at most: the switch between two protocols."""
    known = declarations(form)
    exponents = [name for name, each in known.items() if each.kind.meaning.startswith("exponent")]
    limits = [name for name, each in known.items() if "up to which the exponent acts" in each.kind.meaning]
    assert len(limits) == len(set(exponents) - {"switch_sharpness"})


def test_the_shipped_exchanges_end_their_exponent_where_rows_do():
    """All tables are of nodes of eight devices."""
    library = Library(())
    names = [name for name in library.names("calibrations") if "/deepep" in name and "-moe" not in name]
    files = [read(library, "calibrations", name, FitsFile) for name in names]
    fits = [fit for file in files for fit in file.families.values() if fit.form and fit.form.kind == "normal"]
    assert len(fits) >= 12
    assert all(8.0 * float(fit.form.fabric_max_nodes) == float(fit.domain["ranks"][1]) for fit in fits)


def test_an_exchange_inside_a_node_has_no_latency_of_its_nics():
    few, many = machine(), machine(latency=3.0)
    inside = [NORMAL.terms(operator("normal", 7168.0, 8.0), on)["links_latency"] for on in (few, many)]
    across = [NORMAL.terms(operator("normal", 7168.0, 16.0), on)["links_latency"] for on in (few, many)]
    assert inside[1] == pytest.approx(3.0 * inside[0])
    assert inside[0] <= LINK.latency
    assert across[0] >= 2.0 * NIC.latency  # both hops of NORMAL
