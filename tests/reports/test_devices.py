"""The page over all devices: the machine of each, forecasts, refusals and what a dollar buys."""

from __future__ import annotations

import pytest

from reports.devices.__main__ import machines, page, rows


def test_a_device_is_in_its_largest_machine() -> None:
    found = machines()
    assert found["gb200"] == "nodes/gb200-nvl72"  # 576 is what a link has addresses for: no product
    assert found["ascend-910c"] == "nodes/cloudmatrix384"
    assert found["tpu-v7"] == "clusters/tpu-v7-9216"
    assert found["h800-sxm"] == "nodes/hgx-h800"


def test_rows_have_times_forecasts_dollars_and_refusals() -> None:
    found = {row.device: row for row in rows(["h800-sxm", "vr200", "rtx-4090"])}
    assert list(found) == ["rtx-4090", "h800-sxm", "vr200"]  # by the year of announcement
    sold, forecast, small = found["h800-sxm"], found["vr200"], found["rtx-4090"]
    assert (sold.label, forecast.label) == ("h800-sxm", "vr200 (forecast)")
    assert sold.rent == pytest.approx(2 / 3600)
    rate = sold.points["decode"].metrics["tokens_per_second_per_device"]
    assert sold.per_dollar("decode") == pytest.approx(rate * 3600 / 2)
    assert forecast.per_dollar("training") is None
    assert not small.points
    assert all("does not fit" in reason for reason in small.refused.values())


def test_chips_of_few_processors_give_none_to_communication() -> None:
    (chip,) = rows(["trainium2"])
    assert set(chip.points) == {"training", "decode"}


def test_the_page_names_what_cannot_run_and_what_has_no_rent() -> None:
    text = page(rows(["h800-sxm", "h200-sxm", "rtx-4090", "vr200"]))
    assert "- rtx-4090, training: does not fit in memory" in text
    assert "No source states a rent of vr200 (forecast)" in text
    assert "different kinds" in text  # H200 has an offer, H800 an assumption of a publication
