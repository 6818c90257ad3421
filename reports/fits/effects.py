"""What kernels of other devices, builds, libraries and shapes do not share: `hardware/calibrations/effects.yaml`.

python -m reports.fits.effects MEASUREMENTS --output hardware/calibrations/effects.yaml

Without `--shapes` what unmeasured groups and sizes add stays as the file has it: these are fits to part of the rows of
every family (`reports.fits.unseen_groups`), which take longer. What a generation adds, `reports.fits.backcasts` says:
`--generation` states it, and it stays as well unless architectures are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from costmodel.calibration.device_relations import ARCHITECTURE, DIE, OTHER, OWN, REFRESH, RELATIONS, TWIN
from costmodel.calibration.effects import held_out_error
from costmodel.calibration.fit_files import DeviceFits, FitStore, default_framework, read
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.calibration.row_times import Choice, times_of, variant_of
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.gemm import TwoTileForm
from costmodel.fitting.samples import Samples
from costmodel.measurements.row_group import OperatorRows
from costmodel.quantities import Array
from costmodel.schema.calibration import EffectsFile
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile
from costmodel.schema.references import Library
from costmodel.workload.operators import Gemm
from reports.fits.measured import Measured, Origin, device_of, options, publish
from reports.fits.source_agreement import Pair, pooled
from reports.fits.unseen_groups import effects_of_shapes

MOST = 100  # rows of one family of an implementation that are predicted
FEWEST = 8
SEED = 0
OWN_KIND = "triton"  # library whose attention is far from all others' on large shapes, and no device's default
BUILD, LIBRARY, ANY, GENERATION = "build", "library", "any", "generation"
_NAMES = (*RELATIONS, GENERATION, BUILD, "tuned", LIBRARY, "unseen", "beyond")
NOTE = (
    "Roots of the 80 % points of log(measured over predicted time)^2, less the squares of what a fit misses on unseen",
    "rows of its own and of what the distance from its sizes adds. `twin`, `die`: fits of one implementation on two",
    "devices, of other builds of its library where none is on two; `rebalanced` (H20, whose kernels were timed by one",
    "source each): of all builds of the library; `architecture`, `other`: of the same implementation on the nearest",
    "device of another die that has it; `refresh`: on a device whose die is another one of the same size; `build`,",
    "`tuned`, `library`: on the same device; `generation`: by the page of backcasts. Shapes: of fits to one to three",
    "groups of shapes, or to the smaller sizes of all.",
    "Made by `python -m reports.fits.effects MEASUREMENTS --output hardware/calibrations/effects.yaml`, shapes with",
    "`--shapes`.",
)


class _Forced(Mapping[str, FamilyFit]):
    """The fits of one file for all families that it has as they go on a device, its defaults for others."""

    def __init__(self, fits: DeviceFits, device: str, others: Mapping[str, FamilyFit], store: FitStore) -> None:
        self.fits, self.device, self.others, self.store = fits, device, others, store

    @cached_property
    def _own(self) -> dict[str, FamilyFit]:
        found = {key: self.fits.fit(key, self.device) for key in self.fits.file.families}
        return {
            key: self.store.on_device(fit, self.device, self.fits.device)
            for key, fit in found.items()
            if fit is not None
        }

    def __getitem__(self, key: str) -> FamilyFit:
        own = self._own
        return own[key] if key in own else own.get(key.partition("/")[0]) or self.others[key]

    def held_out(self, key: str) -> float:
        """Return the held-out error of the file's fit of a key, of its family's where it has none."""
        families = self.fits.file.families
        return held_out_error(families[key] if key in families else families[key.partition("/")[0]])

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self.others), **self._own})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def errors(measured: Measured, store: FitStore) -> dict[str, dict[Pair, Array]]:
    """Return what the step alone adds to the squared errors of every implementation's rows by the fits of others.

    By step and kernels, `die/gemm/bf16`; then by the pair of the rows' and the fit's implementation.
    """
    found: dict[str, dict[Pair, Array]] = {}
    plan = measured.plan
    defaults = {device: FitLookup(store, device, {}) for device in measured.planned}
    for file in plan.implementations:
        device = device_of(file)
        for key, samples in measured.samples(file, Calibration(file.name, defaults[device])):
            if len(samples) < FEWEST:
                continue
            some, kernels = some_rows(samples), _kernels(key, samples)
            if not _has(file, kernels, store):
                continue  # untuned: rows of no kernel that engines run
            for other in plan.implementations:
                step = _step(file, other, kernels, (plan, store))
                if step is not None:
                    fits = store.device_fits(*other.name.split("/"))
                    assert fits is not None
                    forced = _Forced(fits, device, defaults[device], store)
                    of_tiles = by_tiles(samples, forced[kernels]) if step == BUILD else {step: some}
                    for name, rows in of_tiles.items():
                        found.setdefault(f"{name}/{kernels}", {})[file.name, other.name] = _added(rows, kernels, forced)
    return {
        name: of_one_build(pairs) if name.startswith((f"{TWIN}/", f"{DIE}/")) else pairs
        for name, pairs in found.items()
    }


def by_tiles(samples: Samples, fit: FamilyFit) -> dict[str, Samples]:
    """Return some rows of layers whose tiles were not tuned, and some of tuned ones where a fit has seen such."""
    tuned = np.concatenate([_is_tuned(part) for part in samples.parts])
    found = {BUILD: samples.take(~tuned), "tuned": samples.take(tuned)}
    if not isinstance(fit.form, TwoTileForm) or fit.form.tuned is None:
        del found["tuned"]
    return {name: some_rows(each) for name, each in found.items() if len(each) >= FEWEST}


def _is_tuned(part: OperatorRows) -> Array:
    """Return which rows ran tiles that were tuned for their layer."""
    products = [each.tuned for each in part.operators if isinstance(each, Gemm)]
    return np.broadcast_to(np.asarray(products[0] if products else 0.0) > 0.0, part.rows.shape)


def _kernels(key: str, samples: Samples) -> str:
    """Return the `family/variant` of a family's rows, the key itself where they have none or several."""
    variants = {variant_of(part) for part in samples.parts}
    is_whole = "/" in key or len(variants) != 1 or not variants.isdisjoint(("", key))
    return key if is_whole else f"{key}/{variants.pop()}"


def of_one_build(pairs: Mapping[Pair, Array]) -> dict[Pair, Array]:
    """Return the pairs of one implementation on two devices, all where there is none: a step is one thing at a time."""
    same = {pair: logs for pair, logs in pairs.items() if len({name.partition("/")[2] for name in pair}) == 1}
    return same or dict(pairs)


def refreshes(measured: Measured, store: FitStore) -> dict[str, dict[Pair, Array]]:
    """Return the same of rows of devices whose die is another one of the size of an implementation's."""
    found: dict[str, dict[Pair, Array]] = {}
    for name in dict.fromkeys(measured.devices.values()):
        for file in measured.plan.implementations:
            fits = store.device_fits(*file.name.split("/"))
            if name is None or fits is None or store.relation(name, device_of(file)) != REFRESH:
                continue
            others = FitLookup(store, name, {})
            for key, samples in measured.samples(file, Calibration(file.name, others), name):
                if len(samples) >= FEWEST and _has(file, key, store):
                    forced = _Forced(fits, name, others, store)
                    added = _added(some_rows(samples), key, forced)
                    found.setdefault(f"{REFRESH}/{key}", {})[f"{name}/{file.name}", file.name] = added
    return found


def _step(
    file: ImplementationFile, other: ImplementationFile, key: str, known: tuple[FitPlanFile, FitStore]
) -> str | None:
    """Return the effect that an implementation's rows and another's fit do not share. None: they differ in several."""
    plan, store = known
    if other.name == file.name or store.device_fits(*other.name.split("/")) is None or not _has(other, key, store):
        return None
    related = store.relation(device_of(file), device_of(other))
    if related == REFRESH:
        return None  # of all rows there are: `refreshes`
    is_written_anew = file.library == OWN_KIND and key.startswith("attention")
    if related in (ARCHITECTURE, OTHER):
        if is_written_anew:
            return None  # compiled anew for each device: no default, and nothing that another's fit tells
        return related if other.name == _nearest(file, key, plan, store) else None
    if other.library == file.library:
        own = LIBRARY if is_written_anew else BUILD  # two engines' own kernels are no builds of one
        return own if related == OWN else related
    return LIBRARY if related == OWN else None


def _nearest(file: ImplementationFile, key: str, plan: FitPlanFile, store: FitStore) -> str | None:
    """Return the file of the same implementation on the nearest device of another die that has it.

    Kernels of another form are no part of it, whatever their library calls them.
    """
    implementation = file.name.partition("/")[2]
    planned = {each.name: each for each in plan.implementations}
    names = (f"{device}/{implementation}" for device in store.others(device_of(file), same_die=False))
    having = (name for name in names if name in planned and _has(planned[name], key, store))
    return next((name for name in having if _form(planned[name], key, plan) == _form(file, key, plan)), None)


def _form(file: ImplementationFile, key: str, plan: FitPlanFile) -> tuple[str, bool] | None:
    """Return the form of a family's kernels, and whether they copy their input for another kernel first."""
    name = file.families.get(key, file.families.get(key.partition("/")[0]))
    recipe = None if name is None else plan.recipes[name]
    return None if recipe is None else (recipe.form, "widening" in recipe.terms)


def leave_out(measured: Measured, architectures: str) -> None:
    """Take the implementations of the devices of architectures, with commas, from the plan of measured rows."""
    out = measured.of_architectures(architectures)
    kept = [file for file in measured.plan.implementations if device_of(file) not in out]
    measured.plan = measured.plan.model_copy(update={"implementations": kept})


def _has(file: ImplementationFile, key: str, store: FitStore) -> bool:
    """Tell whether a file has a fit of kernels that stands in for others: untuned ones do for none."""
    fits = store.device_fits(*file.name.split("/"))
    if fits is None:
        return False
    return not {key, key.partition("/")[0]}.isdisjoint(fits.file.families.keys() - set(fits.file.untuned))


def some_rows(samples: Samples) -> Samples:
    """Return at most `MOST` of some rows, the same at every call."""
    order = np.random.default_rng(SEED).permutation(len(samples))
    mask = np.zeros(len(samples), dtype=bool)
    mask[order[:MOST]] = True
    return samples.take(mask)


def _added(samples: Samples, key: str, fits: _Forced) -> Array:
    """Return log(measured/predicted)^2 - held_out^2 - more(shape)^2: what is left for the step, below zero for some."""
    choice, framework = Choice(Calibration("forced", fits), ""), default_framework()
    predicted = np.concatenate([times_of(part, choice, framework)[0] for part in samples.parts])
    known = np.concatenate([_known(part, key, choice.calibration) for part in samples.parts])
    added: Array = np.log(samples.seconds / predicted) ** 2 - fits.held_out(key) ** 2 - known**2
    return added


def _known(part: OperatorRows, key: str, calibration: Calibration) -> Array:
    """Return what the distance from its own sizes adds to the error of the fit that prices the kernels of some rows."""
    operators = [each for each in part.operators if each.family == key.partition("/")[0]]
    errors = [calibration.fit(each).unseen_half_width(each) for each in operators]
    known: Array = np.max([np.broadcast_to(each, part.rows.shape) for each in (0.0, *errors)], axis=0)
    return known


Effects = dict[str, dict[str, float]]  # by family, then by name


def effects_of_steps(found: Mapping[str, Mapping[Pair, Array]]) -> Effects:
    """Return the effect of each step by family and of all: s^2 = max(80 % point of what it adds, 0)."""
    effects: Effects = {}
    for name, added, _, _ in pooled(found):
        step, *kernels = name.split("/")
        if len(kernels) < 2:
            effects.setdefault(kernels[0] if kernels else ANY, {})[step] = math.sqrt(max(added, 0.0))
    for own in effects.values():  # what differs in more is no nearer
        for near, far in ((TWIN, DIE), (BUILD, LIBRARY)):
            own |= {far: max(own[near], own[far])} if {near, far} <= set(own) else {}
    return effects


def known_effects(names: Sequence[str]) -> Effects:
    """Return effects of these names as the file has them."""
    families = read(Library(()), "calibrations", "effects", EffectsFile, "effects").families
    known = {
        family: {name: float(value) for name in names if (value := getattr(each, name)) is not None}
        for family, each in families.items()
    }
    return {family: each for family, each in known.items() if each}


def render(effects: Effects, rests_on: Sequence[str]) -> str:
    """Return the text of the file; the same rows give the same bytes."""
    comment = "halves of 80 % intervals of log(measured / predicted)"
    lines = ["schema: costmodel/effects@1", "name: effects", f"families:  # {comment}"]
    for family in sorted(effects, key=lambda name: (name != ANY, name)):
        own = effects[family]
        lines.append(f"  {family}: {{{', '.join(f'{name}: {own[name]:.3g}' for name in _NAMES if name in own)}}}")
    return "\n".join([*lines, *Origin(NOTE, "derived", rests_on).lines("families")]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict every implementation's rows by the fits of others; write the calibration file."""
    asked = options("fits.effects", main, "calibration file", without="", generation=0.0, path=[], shapes=False)
    chosen = asked.parse_args(arguments)
    measured, store = Measured.read(chosen.measurements, path=chosen.path), FitStore(Library(chosen.path))
    whole = measured.plan
    leave_out(measured, chosen.without)
    found = errors(measured, store)
    measured.plan = whole
    effects = effects_of_steps(found | refreshes(measured, store))
    shapes = effects_of_shapes(measured) if chosen.shapes else known_effects(("unseen", "beyond"))
    for family, own in shapes.items():
        effects.setdefault(family, {}).update(own)
    if not chosen.without:
        effects[ANY][GENERATION] = chosen.generation or known_effects((GENERATION,))[ANY][GENERATION]
    publish(chosen.output, render(effects, measured.rests_on))


if __name__ == "__main__":
    main()
