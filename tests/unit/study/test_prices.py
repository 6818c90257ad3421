"""Prices keep their kind, date and source; costs of unlike prices are marked."""

from __future__ import annotations

from typing import Any

import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.study.prices import quotes, unlike

DECODE = {"scenarios": ["decode"]}


def hardware(set: dict[str, object] | None = None, cluster: str | None = None) -> dict[str, Any]:  # noqa: A002
    """Return the device and its prices of DeepSeek-V3's decoding, as JSON has them."""
    workload = costmodel.load("deepseek_v3", set=set or {}, cluster=cluster, scenarios=["decode"])
    return dict(workload.simulate()["scenarios"]["decode"]["hardware"])


def test_a_price_has_the_kind_the_date_and_the_source_of_its_file() -> None:
    rental = hardware()["price"]["rental"]
    assert rental["value"] == pytest.approx(2.0 / 3600)
    assert (rental["kind"], rental["date"]) == ("assumption", "2024-12")
    assert "2412.19437" in rental["source"]


def test_a_bare_number_replaces_kind_date_and_source() -> None:
    rental = hardware({"hardware.price.rental": "2.4 $/h"})["price"]["rental"]
    assert rental == {"value": pytest.approx(2.4 / 3600), "kind": "stated", "date": None, "source": None}


def test_the_rent_of_the_system_is_that_of_its_devices() -> None:
    workload = costmodel.load("deepseek_v3", **DECODE)  # type: ignore[arg-type]
    found = workload.evaluate("decode", vary={"hardware.price.rental": [1.0 / 3600, 3.0 / 3600]})
    assert found.metrics["cost_rate"] == pytest.approx([128.0 / 3600, 384.0 / 3600])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{price: 2 $/h, kind: ondemand, date: 2026}", "did you mean `on-demand`"),
        ("{price: 2 $/h, kind: spot}", "a mapping of price, kind and date"),
        ("{price: 2 $/h, kind: spot, date: May}", "is no date"),
        ("{price: 2, kind: spot, date: 2026}", "has no unit"),
    ],
)
def test_a_wrong_price_is_told(value: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        hardware({"hardware.price.rental": value})


def test_costs_of_unlike_prices_are_marked_and_of_one_kind_are_not() -> None:
    h800, h100, h200 = (hardware(cluster=name) for name in (None, "nodes/dgx-h100", "nodes/hgx-h200"))
    (line,) = unlike(quotes([h800, h100], "rental"))
    assert "h800-sxm's an assumption" in line
    assert "h100-sxm's the price of one cloud" in line
    assert not list(unlike(quotes([h100, h200], "rental")))
    assert not list(unlike(quotes([h800, h800], "rental")))
    h20 = hardware(cluster="nodes/hgx-h20")
    assert list(unlike(quotes([h800, h20], "rental"))), "two assumptions are no market"
    stated = [
        hardware({"hardware.price.rental": "2 $/h"}),
        hardware({"hardware.price.rental": "2 $/h"}, "nodes/dgx-h100"),
    ]
    assert not list(unlike(quotes(stated, "rental")))
