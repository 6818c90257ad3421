"""What-ifs of hardware: H100 for H800, NVLink from slow to fast, a gaming card for a data-centre one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from costmodel.analytic.capital import price_facts
from costmodel.api import load
from costmodel.report.style import BLUE, GREEN, ORANGE
from costmodel.report.text import metric, quantity
from costmodel.schema.files import load_device, load_document
from costmodel.study.prices import quotes, unlike
from reports.what_if.asked import FLAGSHIP, Asked, bar, curve, point, rests_on
from reports.what_if.bar_groups import Group, groups_plot
from reports.what_if.curves import Curve, Panel, curves_figure

LINK = "hardware.links.nvlink.bandwidth"
H800, H100 = "h800-sxm", "h100-sxm"
SCENARIOS = ("training", "decode")


def of_h100() -> Asked:
    """Return V3 on H800, with the NVLink of H100, and with the kernels that were measured on H100."""
    fast = _link(H100)
    groups, says = [], []
    for scenario in SCENARIOS:
        ours, linked = point(scenario), point(scenario, {LINK: fast})
        other = point(scenario, cluster="nodes/dgx-h100")
        groups.append(Group(f"{scenario}: {ours.headline.replace('_', ' ')}", "time", [
            bar("H800", ours, kind="H800", colour=BLUE),
            bar("H800 kernels, H100's NVLink", linked, kind="the same kernels on H100", colour=GREEN),
            bar("H100 as its own files have it", other, kind="other kernels", colour=ORANGE),
        ]))  # fmt: skip
        gain = 1.0 - _headline(linked) / _headline(ours)
        says.append(
            f"{scenario}: H100's NVLink ({quantity(fast, 'bandwidth')} a direction for "
            f"{quantity(_link(H800), 'bandwidth')}) "
            f"saves {gain:.1%} with the same kernels ({metric(ours.headline, _headline(ours))} to "
            f"{metric(ours.headline, _headline(linked))}): the two chips differ in little else. The third bar rests on "
            f"{rests_on(other)}: public measurements of H100 lack {_lacking(other)}, so that it prices other software."
        )
    commands = [
        f"costmodel simulate {FLAGSHIP} --scenario SCENARIO --set {LINK}='{quantity(fast, 'bandwidth')}'",
        f"costmodel simulate {FLAGSHIP} --scenario SCENARIO --cluster nodes/dgx-h100",
    ]
    drawn = groups_plot(groups)
    return Asked("h800_h100", "H800 against H100, for training and decoding DeepSeek-V3", drawn, says, commands)


def _link(device: str) -> float:
    found: Any = load_document("devices", device)
    return float(found["links"]["nvlink"]["bandwidth"])


def _headline(found: Any) -> float:
    value = found.metrics[found.headline]
    assert value is not None
    return float(value)


def _lacking(found: Any) -> str:
    """Return the kernels of which nothing was measured, as the notes name them."""
    names = [note.partition("has no measurements of ")[2].partition("; ")[0] for note in found.notes]
    return " and ".join(dict.fromkeys(filter(None, names))) or "nothing"


def of_nvlink() -> Asked:
    """Return V3's training step, prefill and decoding over NVLink's bandwidth."""
    speeds = np.geomspace(50e9, 900e9, 13)
    panels, says = [], []
    marks = [(_link(H800), "H800"), (_link(H100), "H100")]
    for scenario in ("training", "prefill", "decode"):
        loaded = load(FLAGSHIP, scenarios=[scenario])
        result = loaded.evaluate(scenario, vary={LINK: speeds})
        name = result.point(0).headline
        made = curve("", speeds, result, name)
        what = f"{scenario}: {name.replace('_', ' ')}"
        panels.append(Panel(("NVLink, one direction", "bandwidth"), (what, "time"), name, [made], marks))
        half = np.interp(_link(H800) / 2, speeds, made.value)
        whole, double = np.interp(_link(H800), speeds, made.value), np.interp(_link(H100), speeds, made.value)
        says.append(
            f"{scenario}: half of H800's NVLink costs {half / whole - 1:+.1%}, H100's {double / whole - 1:+.1%}."
        )
    says.append("Decoding exchanges its tokens by the low-latency kernels, which send across the NICs alone.")
    command = f"costmodel sweep {FLAGSHIP} --scenario training --vary {LINK}=50GB/s..900GB/s:13:log --output DIR"
    return Asked("nvlink", "NVLink from slow to fast", curves_figure(panels), says, [command])


def of_dollars() -> Asked:
    """Return what a million tokens of Llama 3 8B cost on an RTX 4090 and on an A100, over their rents."""
    workload, rents = "llama3_8b_rtx4090", np.linspace(0.2, 3.2, 16) / 3600.0
    cards = {"RTX 4090": "nodes/rtx-4090-x1", "A100 80 GB": "nodes/a100-x1"}
    panels, says = [], []
    name, path = "cost_per_million_tokens", "hardware.price.rental"
    for scenario, title in (("batch", "batch of 32"), ("chat", "one user")):
        curves: list[Curve] = []
        rates: list[float] = []
        for card, node in cards.items():
            result = load(workload, cluster=node, scenarios=[scenario]).evaluate(scenario, vary={path: rents})
            curves.append(curve(card, rents * 3600.0, result, name))
            rates.append(float(np.max(np.asarray(result.metrics["tokens_per_second_per_device"]))))
        panels.append(Panel(("rent, $ an hour", "count"), (f"$/M tokens, {title}", "count"), name, curves, linear=True))
        says.append(
            f"{title}: {rates[1]:,.0f} tokens/s on the A100, {rates[0]:,.0f} on the RTX 4090: the cheaper card wins as "
            f"long as the A100 costs more than {rates[1] / rates[0]:.2f} times its rent."
        )
    says += [
        f"Rents, from the device files: {device}: {_price_source(device)}" for device in ("rtx-4090", "a100-sxm-80gb")
    ]
    prices = [{"device": device, "price": price_facts(load_device(device))} for device in ("rtx-4090", "a100-sxm-80gb")]
    says += [f"{line[0].upper()}{line[1:]}." for line in unlike(quotes(prices, "rental"))]
    commands = [
        f"costmodel sweep {workload} --scenario batch --cluster {node} --vary '{path}=0.2 $/h..3.2 $/h:16' --output DIR"
        for node in cards.values()
    ]
    return Asked(
        "rtx4090_a100", "RTX 4090 against A100 per dollar, Llama 3 8B", curves_figure(panels), says, commands
    )  # fmt: skip


def _price_source(device: str) -> str:
    """Return where a device file has its rent from."""
    found: Mapping[str, Any] = load_document("devices", device)
    cites = [str(one["cite"]) for one in found["sources"] if {"price", "price.rental"} & set(one["fields"])]
    return "; ".join(cites)
