"""Money of a plan: one's own prices, servers that are bought, a stated API price, and when the choice turns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.analytic.capital import capital, lacking
from costmodel.equations import equation
from costmodel.errors import ImplausibleInput, InputError, kind_of, suggest
from costmodel.hardware import Cluster, Device
from costmodel.records import ValueRecord, field
from costmodel.schema.files import load_node
from costmodel.schema.loader import read_tree
from costmodel.schema.plausible import unlike
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree
from costmodel.units import parse

HOUR, YEAR, MILLION = 3600.0, 365.25 * 86400.0, 1e6
KILOWATT_HOUR = 3.6e6  # joules
_KEYS = {"rent": "money_rate", "purchase": "money", "host": "money", "api": "money"}
_SHOWN = {"rent": "$/h", "purchase": "$", "host": "$", "api": "$"}
_OF = {"rent": "devices", "purchase": "devices", "host": "nodes"}
_BANDS = {
    "rent": "price.rental", "purchase": "price.purchase", "host": "host.price a device", "api": "prices.api",
}  # fmt: skip
_API = ("input", "cached", "output")
_UNITS = {"electricity": ("$/kWh", 1.0 / KILOWATT_HOUR), "amortisation": ("years", YEAR)}


class Prices(ValueRecord):
    """A price file. rent [$/s] and purchase [$] by device, host [$] by node: a node without its devices.

    electricity: [$/J]; amortisation: life of bought servers [s]; api: $ a million tokens, `input`, `cached`, `output`.
    """

    rent: Mapping[str, float] = field(default_factory=dict)
    purchase: Mapping[str, float] = field(default_factory=dict)
    host: Mapping[str, float] = field(default_factory=dict)
    electricity: float | None = None
    amortisation: float | None = None
    api: Mapping[str, float] = field(default_factory=dict)

    def rental(self, device: Device) -> float | None:
        """Return the rent of a device [$/s]: the file's, else the device's own, null where neither states one."""
        own = device.price.rental
        return self.rent.get(device.name, None if own is None else float(own))


def read_prices(path: str, search_path: tuple[str, ...] = ()) -> Prices:
    """Return a price file; warns of what no shipped device costs.

    Raises InputError with its line on a key, name, unit or number that is none.
    """
    values: dict[str, Any] = {}
    for key, stated in read_tree(Path(path), path).value.items():
        if key in _UNITS:
            values[key] = _single(key, stated)
        elif key not in _KEYS:
            raise InputError.single(
                "is no price file: has an unknown key", hint=suggest(key, [*_KEYS, *_UNITS]), field=key,
                location=stated.key,
            )  # fmt: skip
        elif stated.value is not None:
            if not stated.is_mapping:
                raise stated.error("must be a price of each name", f"write `{key}: {{NAME: 2 {_SHOWN[key]}}}`", key)
            kind = _OF.get(key)
            names = _API if kind is None else list(Library(search_path).names(kind))
            values[key] = {name: _price(key, name, names, each) for name, each in stated.value.items()}
            for name, each in values[key].items():
                share = load_node(name, search_path).count if key == "host" else 1.0
                _warn(_BANDS[key], each / share, stated.value[name], f"{key}.{name}")
    return Prices(**values)


def _warn(band: str, value: float, stated: Tree, field: str) -> None:
    """Warn of a price unlike those that are known."""
    odd = unlike(band, value, "node" if band.startswith("host.") else "device")
    if odd is not None:
        error = stated.error(odd[0], odd[1].rstrip("; "), field)
        warnings.warn(str(error.problems[0]), ImplausibleInput, stacklevel=3)


def _price(key: str, name: str, names: Sequence[str], stated: Tree) -> float:
    """Return one price of a table [$, $/s]. names: those that it may be of."""
    field = f"{key}.{name}"
    if isinstance(stated.value, dict | list):
        raise stated.error(f"is {kind_of(stated.value)}, not a price", f'write it as "2 {_SHOWN[key]}"', field)
    try:
        value = parse(str(stated.value), _KEYS[key])
    except InputError as error:
        raise stated.error(error.problems[0].message, error.problems[0].hint, field) from None
    if name not in names:
        raise InputError.single(
            f"no such {_OF.get(key, 'tokens')[:-1]}", hint=suggest(name, names), field=field, location=stated.key
        )
    if value < 0.0:
        raise stated.error("is below zero", "write what it costs", field)
    return value


def _single(key: str, stated: Tree) -> float:
    """Return the price of electricity [$/J], or the life of servers [s]."""
    unit, factor = _UNITS[key]
    number, _, written = str(stated.value).partition(" ")
    if written.strip() not in (unit, unit.rstrip("s")) or not _is_positive(number):
        raise stated.error(f"{str(stated.value)[:40]!r} is no price", f"write it in {unit}", key)
    _warn(f"prices.{key}", float(number), stated, key)
    return float(number) * factor


def _is_positive(text: str) -> bool:
    try:
        return 0.0 < float(text) < math.inf
    except ValueError:
        return False


def purchase_of(cluster: Cluster, devices: float, prices: Prices) -> float | None:
    """Return what devices cost with their share of nodes and fabric [$], null where a price is missing."""
    parts = capital(cluster, devices)
    own, host = prices.purchase.get(cluster.device.name), prices.host.get(cluster.node.name)
    bought = parts.devices if own is None else own * devices
    hosts = parts.hosts if host is None else host * devices / cluster.node.count
    if bought is None or hosts is None or parts.network is None:
        return None
    return float(bought + hosts + parts.network)


@equation
def owning_rate(capital: float, amortisation: float, power: float, electricity: float) -> float:
    """Return what bought servers cost a second [$/s]: capital [$], amortisation [s], power [W], electricity [$/J].

    rate = capital / amortisation + power * electricity
    """
    return capital / amortisation + power * electricity


@equation
def break_even(capital: float, rent: float, power: float, electricity: float) -> float | None:
    """Return after which time bought servers have cost less than rented ones [s], null where they never do.

    t = capital / (rent - power * electricity)
    """
    saved = rent - power * electricity
    return capital / saved if saved > 0.0 else None


def api_rate(prices: Prices, rates: Mapping[str, float]) -> float | None:
    """Return what an API would take for the same tokens [$/s]: price * rate of each kind; rates in tokens/s."""
    if "input" not in prices.api or "output" not in prices.api:
        return None
    cached = rates.get("cached", 0.0)
    at = prices.api.get("cached", prices.api["input"])
    fresh = rates["input"] - cached
    return (prices.api["input"] * fresh + at * cached + prices.api["output"] * rates["output"]) / MILLION


def owned(clusters: Mapping[str, Cluster], entry: Mapping[str, Any], prices: Prices) -> dict[str, Any]:
    """Return a plan's entry with money beyond its rent; null where a price is missing, and `lacks` says which.

    capital [$], owning_rate and api_rate [$/h], break_even [days]; entry: of `plan --json`; clusters: by their names.
    """
    bought = [(clusters[name], devices) for name, devices in _in_whole_nodes(entry, clusters).items()]
    known = [purchase_of(cluster, devices, prices) for cluster, devices in bought]
    spent = None if None in known else sum(each or 0.0 for each in known)
    rent = entry["cost_rate"]
    costs, energy = entry["cost_per_million"], entry.get("energy_per_million")
    rates = {name: rent / HOUR / cost * MILLION for name, cost in costs.items() if rent and cost}
    power = energy / MILLION * rates["output"] if energy is not None and "output" in rates else None
    lacks = [line for cluster, devices in bought for line in lacking(cluster, devices)] if spent is None else []
    lacks += [f"no {name}: add it to --prices" for name in _UNITS if getattr(prices, name) is None]
    answers: dict[str, Any] = {"capital": spent, "owning_rate": None, "break_even": None, "api_rate": None}
    if spent is not None and power is not None and prices.electricity is not None:
        if prices.amortisation is not None:
            answers["owning_rate"] = owning_rate(spent, prices.amortisation, power, prices.electricity) * HOUR
        after = break_even(spent, rent / HOUR, power, prices.electricity)
        answers["break_even"] = None if after is None else after / 86400.0
    asked = api_rate(prices, {"cached": 0.0, **rates}) if {"input", "output"} <= set(rates) else None
    answers["api_rate"] = None if asked is None else asked * HOUR
    return answers | {"lacks": lacks}


def _in_whole_nodes(entry: Mapping[str, Any], clusters: Mapping[str, Cluster]) -> dict[str, int]:
    """Return the devices of an entry's nodes on each cluster, those that stay empty as well."""
    if len(clusters_of(entry)) == 1:
        return {entry["cluster"]: _of_nodes(entry)}
    whole: dict[str, int] = {}
    for pool in (entry["prefill"], entry["decode"]):  # which share no node
        node = int(clusters[pool["cluster"]].node.count)
        whole[pool["cluster"]] = -(-pool["devices"] // node) * node
    return whole


def _of_nodes(entry: Mapping[str, Any]) -> int:
    """Return the devices of an entry's nodes on its one cluster, those that stay empty as well."""
    return int(entry["devices"] + entry.get("empty", 0))


def clusters_of(entry: Mapping[str, Any]) -> set[str]:
    """Return the clusters of an entry, two where its pools are on different ones."""
    return {pool["cluster"] for pool in (entry.get("prefill"), entry.get("decode")) if pool} or {entry["cluster"]}


def turning_points(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how far rents can move before another cluster is the cheapest: its rent a device and hour at equality.

    rent of the first device at which the other costs as much = cost rate of the other / devices of the first's nodes.
    """
    rented = [entry for entry in entries if entry["cost_rate"] is not None and len(clusters_of(entry)) == 1]
    priced = [entry for entry in rented if entry["holds"]]
    first = priced[0] if priced else None
    others = {entry["cluster"]: entry for entry in reversed(priced) if first and entry["cluster"] != first["cluster"]}
    return [
        {
            "cluster": first["cluster"], "rent": first["cost_rate"] / _of_nodes(first), "other": name,
            "turns_at": other["cost_rate"] / _of_nodes(first),
        }
        for name, other in others.items()
        if first is not None
    ]  # fmt: skip
