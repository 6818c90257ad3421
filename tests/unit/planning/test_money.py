"""Money of a plan: totals are their parts, what is linear in a price stays so, and break-even by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from costmodel.errors import ImplausibleInput, InputError
from costmodel.planning.money import (
    HOUR,
    KILOWATT_HOUR,
    YEAR,
    Prices,
    api_rate,
    break_even,
    owned,
    owning_rate,
    purchase_of,
    read_prices,
    turning_points,
)
from costmodel.report.plan_file import front, marks, write_plan
from costmodel.schema.files import load_cluster, load_device

CLUSTER = load_cluster("nodes/dgx-h100")
ENTRY: dict[str, Any] = {
    "cluster": "nodes/dgx-h100", "devices": 8, "holds": True, "cost_rate": 20.0, "energy_per_million": 0.36 * 3.6e6,
    "cost_per_million": {"input": 1.0, "cached": None, "output": 4.0, "all": 0.8},
}  # fmt: skip


def test_bought_servers_break_even_as_by_hand() -> None:
    # 272,010 $; 20 $/h of rent less 10 kW at 0.1 $/kWh = 19 $/h saved
    after = break_even(272_010.0, 20.0 / HOUR, 10e3, 0.1 / KILOWATT_HOUR)
    assert after is not None
    assert after / HOUR == pytest.approx(272_010 / 19)
    assert break_even(1.0, 1.0 / HOUR, 20e3, 0.1 / KILOWATT_HOUR) is None  # power alone costs more than the rent
    rate = owning_rate(272_010.0, 4 * YEAR, 10e3, 0.1 / KILOWATT_HOUR)
    assert rate * HOUR == pytest.approx(272_010 / (4 * 8766) + 1.0)


def test_a_purchase_is_the_sum_of_its_parts_and_linear_in_each() -> None:
    device, host = CLUSTER.device.price.purchase, CLUSTER.node.host.price
    assert device is not None
    assert host is not None
    assert purchase_of(CLUSTER, 4, Prices()) == pytest.approx(4 * device + host / 2)
    double = Prices(purchase={"h100-sxm": 2.0 * device}, host={"dgx-h100": 2.0 * host})
    assert purchase_of(CLUSTER, 4, double) == pytest.approx(2.0 * (4 * device + host / 2))
    assert purchase_of(load_cluster("nodes/gh200-x1"), 1, Prices()) is None  # nobody states what one costs


def test_the_money_of_an_entry_follows_from_its_rates() -> None:
    prices = Prices(electricity=0.1 / KILOWATT_HOUR, amortisation=4 * YEAR, api={"input": 1.0, "output": 3.0})
    answers = owned({"nodes/dgx-h100": CLUSTER}, ENTRY, prices)
    # 20 $/h at 4 $/M is 5 M output tokens an hour, of 0.36 kWh a million: 1.8 kW; 20 M input tokens an hour
    assert answers["owning_rate"] == pytest.approx(answers["capital"] / (4 * 8766) + 0.18)
    assert answers["break_even"] == pytest.approx(answers["capital"] / (20 - 0.18) / 24)
    assert answers["api_rate"] == pytest.approx(20 * 1.0 + 5 * 3.0)
    assert api_rate(prices, {"input": 2e6, "output": 1e6, "cached": 1e6}) == pytest.approx(5.0)
    assert owned({"nodes/dgx-h100": CLUSTER}, ENTRY, Prices())["lacks"] == [
        "no electricity: add it to --prices", "no amortisation: add it to --prices",
    ]  # fmt: skip
    pools = {"prefill": {"cluster": "nodes/h100-x1", "devices": 3}, "decode": {**ENTRY, "devices": 5}}
    clusters = {name: load_cluster(name) for name in ("nodes/dgx-h100", "nodes/h100-x1")}
    bought = Prices(purchase={"h100-sxm": 100.0}, host={"h100-x1": 10.0, "dgx-h100": 1000.0})
    # 3 whole nodes of one device, and the 5 devices of the other pool rent all 8 of a node
    assert owned(clusters, ENTRY | pools, bought)["capital"] == pytest.approx(3 * 110.0 + 8 * 100.0 + 1000.0)
    pools["prefill"]["cluster"] = "nodes/gh200-x1"  # nobody states what one costs
    clusters["nodes/gh200-x1"] = load_cluster("nodes/gh200-x1")
    assert owned(clusters, ENTRY | pools, bought)["capital"] is None


def test_a_choice_turns_where_both_cost_as_much() -> None:
    other = {**ENTRY, "cluster": "nodes/hgx-b200", "devices": 4, "cost_rate": 24.0}
    (turn,) = turning_points([ENTRY, other])
    assert (turn["rent"], turn["turns_at"], turn["other"]) == (2.5, 3.0, "nodes/hgx-b200")
    assert 8 * turn["turns_at"] == other["cost_rate"]
    assert turning_points([ENTRY]) == []


def test_a_price_file_is_read_with_its_units_and_its_errors_say_where(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "rent: {h100-sxm: 2 $/h}\npurchase: {h100-sxm: 25000 $}\nelectricity: 0.08 $/kWh\namortisation: 5 years\n"
        "api: {input: 0.5 $, output: 1.5 $}\n", "utf-8",
    )  # fmt: skip
    prices = read_prices(str(path))
    assert prices.rental(CLUSTER.device) == pytest.approx(2.0 / HOUR)
    assert prices.rental(load_device("devices/b200-sxm")) == pytest.approx(6.79 / HOUR)
    assert (prices.electricity, prices.amortisation) == (pytest.approx(0.08 / 3.6e6), 5 * YEAR)
    for text, told in (
        ("rents: {}", "is no price file"),
        ("rent: {h100-sxm: 2}", "has no unit"),
        ("rent: {h100: 2 $/h}", r"rent\.h100: no such device; did you mean .*`h100-sxm`"),
        ("host: {dgx-h10: 2 $}", r"host\.dgx-h10: no such node"),
        ("electricity: 3 $/h", "kWh"),
        ("electricity: 1e400 $/kWh", "kWh"),
        ("rent: 2 $/h", r"prices\.yaml:1:7: rent: must be a price of each name; write `rent: \{NAME: 2 \$/h\}`"),
        ("api: [1]", "api: must be a price of each name"),
        ("api: {outptu: 1 $}", "no such token; did you mean `output`"),
        ("rent: {h100-sxm: {price: 2 $/h}}", r"rent\.h100-sxm: is a mapping, not a price"),
        ("rent: {h100-sxm: -2 $/h}", "is below zero"),
        ("rent: {1: 2 $/h}", "no such device"),
        ("x: 2023-99-99", "is no price file"),
        (f"rent: {{h100-sxm: {'9' * 5000}}}", "h100-sxm"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(InputError, match=told):
            read_prices(str(path))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rent: {h100-sxm: 250 $/h}", r"1:18: rent\.h100-sxm: 250 \$/h is .*did you mean 2\.5 \$/h\?$"),
        ("host: {dgx-h100: 32000 k$}", r"host\.dgx-h100: 4e\+06 \$ a device is .*shipped nodes"),
        ("electricity: 9 $/kWh", r"electricity: 9 \$ is .*a kWh costs .*did you mean 0\.09 \$\?$"),
        ("amortisation: 48 years", r"amortisation: 48 is .*years .*did you mean 4\?$"),
        ("amortisation: 1461 years", r"did you mean 4\?$"),
        ("api: {input: 0.003 $}", r"api\.input: 0\.003 \$ is .*a million tokens.*did you mean 0\.3 \$\?$"),
    ],
)
def test_a_price_that_nothing_costs_is_asked_about(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text, "utf-8")
    with pytest.warns(ImplausibleInput, match=told):
        read_prices(str(path))


def test_a_price_that_is_known_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("rent: {h100-sxm: 2.5 $/h}\npurchase: {h100-sxm: 25 k$}\nhost:", "utf-8")
    assert read_prices(str(path)).purchase == {"h100-sxm": 25e3}


def test_a_grace_blackwell_costs_more_than_a_blackwell() -> None:
    """GB200 and B200 are the same die; the former comes with a CPU and a rack: no list has it cheaper."""
    gb200, b200 = (load_device(f"devices/{name}").price for name in ("gb200", "b200-sxm"))
    assert gb200.rental > b200.rental
    assert gb200.purchase > b200.purchase


def test_a_page_holds_every_deployment_and_the_front_only_what_nothing_beats(tmp_path: Path) -> None:
    entries = [
        {
            **ENTRY, "replicas": 1, "framework": "vllm", "precision": "bf16", "parallel": {"tp": tp}, "binds": "TPOT",
            "metrics": {"ttft": ttft, "tpot": tpot, "ttft_p99": ttft}, "devices": tp,
        }
        for tp, ttft, tpot in ((1, 0.3, 0.03), (2, 0.2, 0.02), (4, 0.4, 0.04))
    ]  # fmt: skip
    throughput, _ = marks(entries)
    best = front(throughput, lower_x=False, lower_y=False)
    assert [round(mark.x) for mark in best] == [33, 50]  # the third is slower for its user and wider
    document = {"request": {"model": "m"}, "plans": entries, "left_out": ["<b>"]}
    for suffix in (".json", ".csv", ".md", ".html"):
        write_plan(tmp_path / f"plan{suffix}", document)
    text = (tmp_path / "plan.html").read_text("utf-8")
    assert text.count("<circle") == 6
    assert "<b>" not in text
    assert (tmp_path / "plan.csv").read_text("utf-8").count("nodes/dgx-h100") == 3
    with pytest.raises(InputError, match="says no format"):
        write_plan(tmp_path / "plan.txt", document)
