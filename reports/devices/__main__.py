"""DeepSeek-V3 trained and decoded on every shipped device: times, tokens, dollars, and which devices are forecasts.

python -m reports.devices --output reports/devices
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from costmodel.analytic.capital import price_facts
from costmodel.api import load
from costmodel.errors import CostModelError
from costmodel.records import ValueRecord
from costmodel.report.plots.bars import Bar
from costmodel.report.plotting import write_plots
from costmodel.report.style import BLUE, ORANGE, Plot, styled
from costmodel.report.text import metric
from costmodel.result import Point
from costmodel.schema.files import list_names, load_cluster, load_device, load_document, load_node
from costmodel.schema.whole_files import write_whole
from costmodel.study.prices import quotes, unlike
from reports.figures import Group, groups_plot
from reports.page import rendered, write_folder

WORKLOAD, SCENARIOS, NAME = "deepseek_v3", ("training", "decode"), "deepseek_v3"
RATE = "tokens_per_second_per_device"
SHARED = 20  # processors that the workload gives to communication: chips with fewer, larger ones give none
NO_PRODUCT = ("gb200-nvl576",)  # what a link has addresses for
MILLION, MOST = 1e6, 10  # tokens; bars of a panel


class Row(ValueRecord):
    """A device in a machine. points: of the scenarios that run there; refused: why the others do not."""

    device: str
    machine: str
    announced: int | None
    is_forecast: bool
    rent: float | None
    points: Mapping[str, Point]
    refused: Mapping[str, str]

    @property
    def label(self) -> str:
        """Return the device's name, marked as a forecast."""
        return f"{self.device} (forecast)" if self.is_forecast else self.device

    def per_dollar(self, scenario: str) -> float | None:
        """Return tokens a dollar of rent, null where either is unknown."""
        point = self.points.get(scenario)
        rate = None if point is None else point.metrics[RATE]
        return None if rate is None or self.rent is None else float(rate) / self.rent


def machines() -> dict[str, str]:
    """Return the machine of each device: a torus where chips have one, else its largest node."""
    largest: dict[str, tuple[float, str]] = {}
    for name in list_names("nodes"):
        node = load_node(name)
        if name not in NO_PRODUCT:
            largest[node.device.name] = max(
                largest.get(node.device.name, (0.0, "")), (float(node.count), f"nodes/{name}")
            )
    for name in list_names("clusters"):
        cluster = load_cluster(name)
        if cluster.network is not None and cluster.network.topology == "torus" and cluster.node.count == 1:
            here = largest[cluster.device.name]
            largest[cluster.device.name] = max(here, (float(cluster.devices), f"clusters/{name}"))
    return {device: machine for device, (_, machine) in sorted(largest.items())}


def rows(names: Sequence[str] = ()) -> list[Row]:
    """Return the devices, or some of them, the latest last."""
    made = [_row(device, machine) for device, machine in machines().items() if not names or device in names]
    return sorted(made, key=lambda row: (row.announced or 0, row.device))


def _row(device: str, machine: str) -> Row:
    document, built = load_document("devices", device), load_device(device)
    rent, points, refused = built.price.rental, {}, {}
    for scenario in SCENARIOS:
        own = {f"scenarios.{scenario}.communication.processors": 0} if built.processors <= SHARED else {}
        try:
            point = load(WORKLOAD, own, cluster=machine, scenarios=[scenario]).evaluate(scenario).point()
            if point.metrics[point.headline] is None:
                refused[scenario] = (point.reason or point.reasons[point.headline]).partition(". ")[0]
            else:
                points[scenario] = point
        except CostModelError as error:
            refused[scenario] = str(error).splitlines()[0].partition(": ")[2] or str(error)
    rental = None if rent is None else float(rent)
    return Row(device, machine, document["announced"], document["forecast"], rental, points, refused)


def publish(folder: Path) -> list[Path]:
    """Write the figure, its data and the page; return the files."""
    found = rows()
    with styled():
        made = write_plots([(NAME, drawn(found))], folder)
    write_whole(folder / "README.md", [page(found).encode()])
    return [*made, folder / "README.md"]


def drawn(found: Sequence[Row]) -> Plot:
    """Return the fastest devices of each scenario as bars."""
    groups, leads = [], []
    for scenario in SCENARIOS:
        able = [row for row in found if scenario in row.points]
        fastest = sorted(able, key=lambda row: -float(row.points[scenario].metrics[RATE] or 0.0))[:MOST]
        groups.append(Group(f"{scenario}: tokens/s per device", "count", [_bar(row, scenario) for row in fastest]))
        known = next(row for row in fastest if not row.is_forecast)
        leads.append(f"{known.device} in {scenario}, {metric(RATE, known.points[scenario].metrics[RATE])} tokens/s")
    title = f"Fastest on sale for DeepSeek-V3: {'; '.join(leads)}"
    return groups_plot(title, groups, "orange: forecasts, as announced; line: 80 % interval; the ten fastest")


def _bar(row: Row, scenario: str) -> Bar:
    point = row.points[scenario]
    low, high = point.intervals[RATE] or (None, None)
    colour = ORANGE if row.is_forecast else BLUE
    return Bar(row.device, RATE, float(point.metrics[RATE] or 0.0), low, high, colour=colour)


def page(found: Sequence[Row]) -> str:
    """Return the page."""
    refusals: dict[tuple[str, str], list[str]] = {}
    for row in found:
        for scenario, why in row.refused.items():
            refusals.setdefault((row.label, why), []).append(scenario)
    able = [row for row in found if row.points]
    known = quotes([{"device": row.device, "price": price_facts(load_device(row.device))} for row in able], "rental")
    return rendered(
        "devices/page", name=NAME, scenarios=SCENARIOS, rows=found, cells=_cells, refusals=refusals, quotes=known,
        unlike=unlike(known), unknown=[row.label for row in able if row.rent is None],
    )  # fmt: skip


def _cells(row: Row) -> list[str]:
    """Return time, interval, rate and tokens a dollar of each scenario, the kind of the rent, and the basis."""
    cells: list[str] = []
    for scenario in SCENARIOS:
        point, dollars = row.points.get(scenario), row.per_dollar(scenario)
        if point is None:
            cells += [""] * 4
            continue
        name = point.headline
        low, high = point.intervals[name] or (None, None)
        cells += [
            metric(name, point.metrics[name]), "" if low is None else f"{metric(name, low)} .. {metric(name, high)}",
            metric(RATE, point.metrics[RATE]), "" if dollars is None else f"{dollars / MILLION:,.3g}",
        ]  # fmt: skip
    return [*cells, _kind(row), _rests_on(row)]


def _kind(row: Row) -> str:
    """Return the kind of a rent: tokens a dollar compare devices of one kind."""
    rental = price_facts(load_device(row.device))["rental"]
    return "" if rental is None else str(rental["kind"])


def _rests_on(row: Row) -> str:
    """Return the basis of most of the time of each scenario."""
    bases = [max(point.basis().items(), key=lambda pair: pair[1])[0] for point in row.points.values()]
    return ", ".join(dict.fromkeys(bases))


if __name__ == "__main__":
    write_folder("devices", publish)
