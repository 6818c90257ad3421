"""What `import costmodel` gives: a workload that answers as the commands do, and results for notebooks and tables.

Studies and reports load when a method needs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from costmodel import api, result
from costmodel.errors import InputError
from costmodel.quantities import Array
from costmodel.records import field, fields, replace
from costmodel.schema.metrics import unit_of
from costmodel.schema.tree import Tree

if TYPE_CHECKING:
    import pandas
    import polars
    import xarray

    from costmodel.report.explain import Explanation
    from costmodel.study.goals import SearchResult
    from costmodel.study.sensitivity import Sensitivity
    from costmodel.study.what_if import Worth

ENDS = ("low", "high")  # of an 80 % interval
MOST_ROWS = 20  # of a grid in a notebook


class Result(result.Result, dict=True):
    """One scenario over a grid, as `Workload.evaluate` returns it, with the values of its axes.

    axes: path -> its values in SI, one axis for each entry of `vary`; of linked paths the first one.
    linked: path -> its values, of paths that vary together with an axis, and which axis that is.
    """

    axes: Mapping[str, Array] = field(default_factory=dict)
    linked: Mapping[str, tuple[str, Array]] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, str]:
        """Return the SI unit of each metric and its interval, `1` for counts and ratios."""
        return {name: unit for each in self.metrics for name, unit in _units(each)}

    def columns(self) -> dict[str, Array]:
        """Return every axis, metric and end of an interval as a column, a row for each point of the grid."""
        shape = tuple(len(values) for values in self.axes.values())
        grids = dict(zip(self.axes, np.meshgrid(*self.axes.values(), indexing="ij"), strict=True)) if shape else {}
        places = dict(zip(self.axes, np.indices(shape), strict=True))
        grids |= {path: values[places[axis]] for path, (axis, values) in self.linked.items()}
        return {name: np.broadcast_to(values, shape).reshape(-1) for name, values in (grids | self._values()).items()}

    def to_pandas(self) -> pandas.DataFrame:
        """Return the columns as a pandas frame, whose `attrs["units"]` has the SI unit of each metric.

        Raises InputError where pandas is not installed.
        """
        frame: pandas.DataFrame = _package("pandas").DataFrame(self.columns())
        frame.attrs = {"scenario": self.scenario, "units": self.units}
        return frame

    def to_polars(self) -> polars.DataFrame:
        """Return the columns as a polars frame. Units are in `units`. Raises InputError where polars is missing."""
        frame: polars.DataFrame = _package("polars").DataFrame(self.columns())
        return frame

    def to_xarray(self) -> xarray.Dataset:
        """Return the metrics as xarray arrays over the axes, each with its `units`.

        Raises InputError where xarray is not installed.
        """
        names, units = tuple(self.axes), self.units
        shape = tuple(len(values) for values in self.axes.values())
        arrays = {
            name: (names, np.broadcast_to(values, shape), {"units": units.get(name, "1")})
            for name, values in self._values().items()
        }
        also = {path: (axis, values) for path, (axis, values) in self.linked.items()}
        coordinates = {**self.axes, **also}
        return _package("xarray").Dataset(arrays, coords=coordinates, attrs={"scenario": self.scenario})

    def _values(self) -> dict[str, Array]:
        """Return metrics and ends of intervals, NaN where a point cannot run, and which points can."""
        values: dict[str, Any] = {"fits": np.asarray(self.fits)}
        for name, metric in self.metrics.items():
            values[name] = np.asarray(np.nan if metric is None else metric, dtype=np.float64)
            interval = self.intervals[name]
            for end, number in zip(ENDS, (np.nan, np.nan) if interval is None else interval, strict=True):
                values[f"{name}_{end}"] = np.asarray(number, dtype=np.float64)
        return values

    def _repr_html_(self) -> str:
        """Return the result as notebooks show it: its metrics with intervals, or the first points of a grid."""
        from costmodel.report.page import table
        from costmodel.report.simulate import metrics_table
        from costmodel.report.text import metric, title_of
        from costmodel.report.web.markup import html_table

        if not self.axes:
            point = self.point()
            return html_table(self.scenario, metrics_table(point.metrics, point.intervals, title_of))
        columns, headline = self.columns(), next(iter(self.metrics))
        rows = table(*(f">{path}" for path in self.axes), f">{title_of(headline)}", "fits")
        for i in range(min(len(columns["fits"]), MOST_ROWS)):
            value = float(columns[headline][i])
            shown = metric(headline, None if np.isnan(value) else value)
            rows.add(*(f"{columns[path][i]:g}" for path in self.axes), shown, "yes" if columns["fits"][i] else "no")
        return html_table(f"{self.scenario}, {len(columns['fits']):,} points", rows)


class Workload(api.Workload):
    """A workload whose methods answer as the commands of the same names do."""

    def evaluate(self, scenario: str, vary: api.Vary | None = None, engine: str = "analytic") -> Result:
        """Return one scenario, over the grid that `vary` spans: path -> values: SI numbers, text, factors.

        A tuple of paths with a tuple of value lists varies them together. engine: `analytic` or `event`.
        Raises InputError on an unknown scenario, path, unit or engine.
        """
        evaluated = super().evaluate(scenario, vary, engine)
        axes: dict[str, Array] = {}
        linked: dict[str, tuple[str, Array]] = {}
        for paths, values in (vary or {}).items():
            first, *others = self._axis(scenario, paths, values).items()
            axes[first[0]] = first[1]
            linked |= {path: (first[0], numbers) for path, numbers in others}
        known = {name: getattr(evaluated, name) for name in fields(evaluated)}
        return Result(**known, axes=axes, linked=linked)

    def sweep(self, scenario: str, *varied: str) -> Result:
        """Return one scenario over axes written as for `--vary`: `hardware.node.nic.bandwidth=0.5x..2x:3:log`.

        Raises InputError on a bad axis, and on one of names, which change the structure: `costmodel sweep` takes these.
        """
        from costmodel.study.sweep import plan_sweep

        if not all(isinstance(each, str) for each in varied):
            raise InputError.single("an axis is a text", hint='write sweep(scenario, "PATH=0.5x..2x:3", …)')
        links = plan_sweep(self.changed({}, [scenario]), varied, every=True).links
        names = [axis.path for axes in links for axis in axes if axis.texts]
        if names:
            raise InputError.single(
                "varies names; a grid in Python varies numbers", field=names[0], hint="load the workload for each name"
            )
        return self.evaluate(
            scenario, {tuple(axis.path for axis in axes): tuple(axis.values for axis in axes) for axes in links}
        )

    def search(
        self, scenario: str, objective: str | None = None, constraints: Sequence[str] = (),
        devices: Sequence[int] = (), varied: Sequence[str] = (),
    ) -> SearchResult:  # fmt: skip
        """Return the best layouts of a scenario, as `costmodel search` does.

        objective: such as `minimise tpot` (default: of the phase). constraints: such as `tpot <= 60 ms`.
        devices: numbers of them (default: as many as the scenario takes). varied: further axes, as of `sweep`.
        Raises InputError on bad text, and where there are too many layouts.
        """
        from costmodel.study.search import Space, searched
        from costmodel.study.sweep import Wanted

        return searched(self, scenario, objective, Wanted({}, tuple(constraints)), Space(tuple(devices), tuple(varied)))

    def sensitivity(self, scenario: str, metric: str | None = None) -> list[Sensitivity]:
        """Return the hardware parameters that move a metric (default: the headline), the best to improve first.

        Raises InputError on an unknown metric, InfeasibleError where the scenario cannot run.
        """
        from costmodel.study.sensitivity import sensitivities

        headline = result.PHASES[self.scenario(scenario).result_kind][0]
        return sensitivities(self, scenario, headline if metric is None else metric)

    def what_if(self, scenario: str, levers: str = "insights_deepseek_v3") -> list[Worth]:
        """Return what each change of a list is worth in a scenario, as `costmodel what-if` does."""
        from costmodel.study.levers import hypothetical, levers_of, worths_of

        with hypothetical(self, levers):
            return worths_of(
                self, scenario, levers_of(levers, tuple(map(str, self._library.search_path))), (), lambda _: None
            )

    def plan(
        self, clusters: str | Sequence[str], *, devices: int | Sequence[int] = (),
        set: Mapping[str, object] | None = None, **asked: Any,  # noqa: A002  the name that the command line uses
    ) -> dict[str, Any]:  # fmt: skip
        """Return the cheapest servers of this model on each cluster, as `costmodel plan --json` prints them.

        clusters: `nodes/NAME` or `clusters/NAME`. asked: the options of the command as people write them, such as
        `rate="20/s", isl=2000, osl=500, ttft="1s@p99"`; with `train=True, tokens="15T"` a training run, for which
        devices are the numbers of them that it may take, and set its fields: path -> value.
        Raises InputError on bad text, on options that contradict and on a model that the catalogue does not have.
        """
        from costmodel.planning import deployments, servers, training
        from costmodel.planning.request import read_request

        model = self.scenario(self.scenarios[0]).architecture.name
        known = {"model": model, "clusters": api.several(clusters), "search_path": self._library.search_path}
        numbers = (devices,) if isinstance(devices, int) else tuple(devices)
        request = replace(
            read_request({**asked, **known, "devices": numbers}), devices=numbers,
            changes=tuple((path, str(value)) for path, value in (set or {}).items()),
        )  # fmt: skip
        if request.train:
            return training.document(training.plan_training(request, lambda _: None))
        return deployments.document(servers.plan_servers(request, lambda _: None))

    def explain(self, scenario: str, name: str) -> list[Explanation]:
        """Return an operator, a metric, a wait or a part of memory with the equations of the code and their values.

        Raises InputError on an unknown name, with the nearest ones.
        """
        from costmodel.report.explain import explain

        return explain(self, scenario, result.stored_line(name))


def load(
    source: str | Path | Tree | Mapping[str, Any],
    set: Mapping[str, object] | None = None,  # noqa: A002  the name that the command line uses
    *,
    cluster: str | Sequence[str] | None = None,
    search_path: Sequence[str | Path] = (),
    scenarios: str | Iterable[str] | None = None,
    phases: str | Sequence[str] = (),
) -> Workload:
    """Return the workload of a file, a name, a mapping as files have it, or the smallest one of a model.

    A model is a name of the catalogue, a model file, a config.json or its folder, or an id in the cache of Hugging
    Face. It needs a cluster. phases: of a model, those that run (default: prefill and decode).
    set: path of the resolved document -> value: a string with its unit, a number in SI, or a factor (`2x`, `+10%`).
    cluster: stands for every scenario's own, of several each scenario runs on all, as `NAME@CLUSTER`.
    search_path: folders that are searched before $COSTMODEL_PATH and the package's data.
    scenarios: those to load (default: all). Raises InputError with every problem, its location and its fix. Warns of
    implausible hardware.
    """
    if isinstance(source, Mapping):
        if "scenarios" not in source and ("model_type" in source or "architectures" in source):
            hint = 'save it as config.json and load its path: costmodel.load("config.json", cluster="nodes/dgx-h100")'
            raise InputError.single("is the config.json of a model, and no workload", field="the mapping", hint=hint)
        from costmodel.schema.loader import parse_tree

        source = parse_tree(json.dumps(source), "the mapping")
    loaded = api.load(
        source, set, cluster=cluster, search_path=search_path, scenarios=scenarios, phases=phases
    )  # fmt: skip
    return Workload(**{name: getattr(loaded, name) for name in fields(loaded)})


def _units(metric: str) -> Iterable[tuple[str, str]]:
    unit = unit_of(metric)
    yield metric, unit
    yield from ((f"{metric}_{end}", unit) for end in ENDS)


def _package(name: str) -> Any:
    """Return an optional package. Raises InputError, with how to install it, where it is missing."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError.single(f"{name} is not installed", hint="pip install 'costmodel[tables]'") from None
