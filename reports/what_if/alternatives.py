"""What single changes are worth: each against the workload as it stands, not one after the other.

python -m reports.what_if.alternatives insights_deepseek_v3 --output reports/what_if/insights_deepseek_v3.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.api import load
from costmodel.errors import InfeasibleError
from costmodel.records import ValueRecord
from costmodel.schema.what_if import AlternativeFile, MessageFile, WhatIf, load_what_if
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.messages import answered, read_message
from costmodel.study.what_if import change_interval
from reports.waterfall import waterfall
from reports.what_if.alternatives_page import markdown

_OWN = "scenario."  # begins a path of the scenario at hand
_ROUTED = "deepseek-v3"  # whose experts a message reaches, as of `costmodel collective`


class ChangeEffect(ValueRecord):
    """One change in one scenario, or to one message: the metric without it and with it.

    against: changes that both sides have; ratio: the 80 % interval of with over without, in which the errors that both
    share cancel, null where nothing is uncertain.
    """

    term: str
    scenario: str
    metric: str
    against: tuple[str, ...]
    changes: tuple[str, ...]
    before: float
    after: float
    ratio: tuple[float, float] | None
    limit: str | None
    cite: str | None

    @property
    def clear(self) -> bool:
        """Tell whether the change is certain to move the metric one way."""
        return self.before != self.after if self.ratio is None else not self.ratio[0] <= 1.0 <= self.ratio[1]


def alternatives(what_if: WhatIf, search_path: tuple[str, ...] = ()) -> list[ChangeEffect]:
    """Return what each change of a what-if file is worth in each of its scenarios: two evaluations each.

    Raises InfeasibleError where one side cannot run.
    """
    found = []
    plain: dict[str, Evaluation] = {}
    for one in what_if.file.alternatives:
        if one.message is not None:
            found.append(_of_message(one, one.message, search_path))
        elif one.set:
            scenarios = one.scenarios or [what_if.file.scenario]
            found += [_of_scenario(what_if, one, scenario, search_path, plain) for scenario in scenarios]
    return found


def _of_message(one: AlternativeFile, file: MessageFile, search_path: tuple[str, ...]) -> ChangeEffect:
    """Return what a change is worth to a message by itself, flow by flow."""
    asked = read_message(file.kind, file.ranks, file.size, _ROUTED, search_path)
    before, after = (
        answered(asked, file.cluster, "flow", changes, search_path)[0].time
        for changes in (one.against, {**one.against, **one.set})
    )
    scenario = f"{file.kind} of {file.size} among {file.ranks} of {file.cluster}"
    return ChangeEffect(
        term=one.term, scenario=scenario, metric="time", against=_told(one.against), changes=_told(one.set),
        before=before, after=after, ratio=None, limit=one.limit,
        cite=one.cite,
    )  # fmt: skip


def _of_scenario(
    what_if: WhatIf, one: AlternativeFile, scenario: str, search_path: tuple[str, ...], plain: dict[str, Evaluation]
) -> ChangeEffect:
    """Return what a change is worth in a scenario. plain: sides without a change that are known, and then this one."""
    workload = what_if.file.workload
    key = f"{scenario} {one.against!r}"
    if key not in plain:
        plain[key] = _side(workload, scenario, _for(scenario, one.against), search_path)
    without = plain[key]
    with_it = _side(workload, scenario, _for(scenario, {**one.against, **one.set}), search_path)
    metric = what_if.file.metric if scenario == what_if.file.scenario else without.headline
    before, after = (_value(side, metric, one, scenario) for side in (without, with_it))
    return ChangeEffect(
        term=one.term, scenario=scenario, metric=metric, against=_told(one.against), changes=_told(one.set),
        before=before, after=after,
        ratio=change_interval(without, with_it, metric, after / before), limit=one.limit, cite=one.cite,
    )  # fmt: skip


def _side(workload: str, scenario: str, changes: Mapping[str, object], search_path: tuple[str, ...]) -> Evaluation:
    """Return one side of a comparison; raise InfeasibleError where it does not run."""
    loaded = load(workload, set=changes, search_path=search_path, scenarios=[scenario])
    point = loaded.evaluate(scenario)
    if not np.all(point.fits):
        raise InfeasibleError(f"{scenario} with {', '.join(_told(changes))}: {point.point().reason}")
    chosen = loaded.scenario(scenario)
    return evaluate(chosen, loaded.calibration(chosen))


def _value(side: Evaluation, metric: str, one: AlternativeFile, scenario: str) -> float:
    value = side.metrics(None)[metric]
    if value is None:
        raise InfeasibleError(f"{scenario} with {one.term}: {metric} is not known")
    return float(value)


def _for(scenario: str, changes: Mapping[str, object]) -> dict[str, object]:
    """Return changes with the paths of the scenario at hand."""
    return {
        f"scenarios.{scenario}.{path.removeprefix(_OWN)}" if path.startswith(_OWN) else path: value
        for path, value in changes.items()
    }


def _told(changes: Mapping[str, object]) -> tuple[str, ...]:
    """Return changes as `--set` takes them, those of the scenario at hand with NAME for it."""
    return tuple(
        f"{f'scenarios.NAME.{path.removeprefix(_OWN)}' if path.startswith(_OWN) else path}={_text(value)}"
        for path, value in changes.items()
    )


def _text(value: object) -> str:
    """Return a value as YAML writes it in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_text(item)}' for key, item in value.items())}}}"
    return str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the alternatives of a what-if file as a Markdown page, and print it."""
    parser = argparse.ArgumentParser(prog="python -m reports.what_if.alternatives", description=main.__doc__)
    parser.add_argument("name", help="what-if file, by name")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--path", action="append", default=[], help="folder to search first")
    chosen = parser.parse_args(arguments)
    search_path = tuple(chosen.path)
    what_if = load_what_if(chosen.name, search_path)
    ladder = waterfall(chosen.name, search_path) if what_if.file.steps else None
    page = markdown(what_if, alternatives(what_if, search_path), ladder)
    again = f"\nRegenerate: `python -m reports.what_if.alternatives {chosen.name} --output {chosen.output}`\n"
    make_folder(chosen.output.parent)
    write_whole(chosen.output, [(page + again).encode()])
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
