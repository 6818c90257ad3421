"""The fits that may answer for a kernel on a device: where they are looked for, and how far each may miss."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property

from costmodel.calibration.candidates import Candidate
from costmodel.calibration.expected_error import DIE, OWN, REBALANCED, RELATIONS, expected, held_out_error
from costmodel.calibration.fit_files import CALIBRATIONS, PRIOR, ROOFLINE, DeviceFits, FitStore, family_fit
from costmodel.calibration.substitutes import COLLECTIVE, EXPANDING, SEND_RECV
from costmodel.cost.attention import DecodeForm
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.expected_roofline import ExpectedForm
from costmodel.cost.two_tile_gemm import TwoTileForm
from costmodel.errors import InputError, suggest
from costmodel.records import replace
from costmodel.schema.calibration import FamilyFitFile

NAMED = "named by the framework"
UNKNOWN = "unknown"  # named where a row's kernel is none that any file is of
TIE = 1.1  # chosen: expected errors are themselves known to a tenth, of a few pairs of devices or builds


class FitSearch:
    """The fits of a device, and those that others lend it.

    Every method has the `family/variant` and the implementations that a framework names for it.
    """

    def __init__(self, store: FitStore, device: str) -> None:
        self._store, self._device = store, device
        self._chain = store.chain(device)

    def compared(self, key: str, named: Sequence[str]) -> Iterator[Candidate]:
        """Yield the fits that are compared for a key, and the places without one. The nearest first."""
        chain = [device for device, _ in self._chain]
        siblings = ((device, name) for name in named for device in self._store.same_die(self._device, name))
        others = ((device, name) for device, name in siblings if device not in chain)
        seen: set[str] = set()
        for device, implementation in itertools.chain(itertools.product(chain, named), others):
            source = implementation if "/" in implementation else f"{device}/{implementation}"
            if source not in seen:
                seen.add(source)
                fits = self._store.device_fits(device, implementation)
                if fits is None:
                    yield Candidate(f"{CALIBRATIONS}/{source}", key, NAMED, passed_over="no such file")
                else:
                    yield self._candidate(fits, key, NAMED, is_meant=implementation == source)
        builds = (
            name for name in self._store.names(self._device) if name.partition("-")[0] in set(map(library_of, named))
        )
        for name in builds:
            fits = self._store.device_fits(self._device, name)
            if fits is not None and f"{self._device}/{name}" not in seen:
                seen.add(f"{self._device}/{name}")
                candidate = self._candidate(fits, key, "another build of its library")
                if candidate.fit is not None:
                    yield candidate
        for i, (device, defaults) in enumerate(self._chain):
            default = defaults.get(key, defaults.get(key.partition("/")[0]))
            for fits in () if default is None else self._defaults(i, default):
                if fits.file.name not in seen:
                    yield self._candidate(fits, key, f"default of {device}")

    def of_the_die(self, key: str, named: Sequence[str]) -> Iterator[Candidate]:
        """Yield the fits of other devices of the same die: other builds of the named libraries, and their defaults."""
        libraries, family = set(map(library_of, named)), key.partition("/")[0]
        for device in self._store.same_die(self._device):
            defaults = self._store.chain(device)[0][1]
            names = [
                name for name in self._store.names(device) if libraries == {UNKNOWN} or library_of(name) in libraries
            ]
            for name in dict.fromkeys((*names, defaults.get(key, defaults.get(family, "")))):
                fits = self._store.device_fits(device, name) if name else None
                candidate = None if fits is None else self._candidate(fits, key, f"of the same die, {device}")
                if candidate is not None and candidate.fit is not None:
                    yield candidate

    def donors(self, key: str, named: Sequence[str]) -> Iterator[Candidate]:
        """Yield fits of the nearest other device: of the named kernels, else of its default.

        Where neither this device nor those that it inherits from were measured at all. Devices of its die come first.
        The prior joins a fit of another die.
        """
        if not self._is_unmeasured:
            return
        family, same_die = key.partition("/")[0], self._store.same_die(self._device)
        named = () if tuple(named) == (UNKNOWN,) else named
        for device in (*same_die, *self._store.of_other_dies(self._device)):
            defaults = self._store.chain(device)[0][1]
            names = named or (defaults.get(key, defaults.get(family, "")),)
            role = NAMED if named else f"default of {device}"
            files = (self._store.device_fits(device, name) for name in names if name and "/" not in name)
            candidates = (self._candidate(fits, key, role) for fits in files if fits is not None)
            named_fits = [each for each in candidates if each.fit is not None]
            if named_fits:
                yield from named_fits
                return

    @cached_property
    def _is_unmeasured(self) -> bool:
        """Tell whether no device of the chain has any fit, and others may lend theirs."""
        has_fits = any(self._store.names(device) for device, _ in self._chain)
        return not has_fits and self._store.may_borrow(self._device)

    def shared(self, key: str) -> Iterator[Candidate]:
        """Yield what kernels of all devices share, with the error of backcasts."""
        prior = self._prior(key)
        if prior is not None and prior.form is not None:
            fit = self._as_in_whole_runs(family_fit(prior, ROOFLINE))
            yield Candidate(fit.source, key, "kernels of other devices", fit, error=held_out_error(prior))

    def _prior(self, key: str) -> FamilyFitFile | None:
        """Return what kernels of all devices share of a key. A GEMM that expands weights as its plain family does."""
        family, shared = key.partition("/")[0], self._store.prior()
        return shared.get(key, shared.get(key.replace(family, EXPANDING.get(family, family), 1)))

    def _as_in_whole_runs(self, fit: FamilyFit) -> FamilyFit:
        """Return the expected time of kernels on the device, as measured whole runs there change it."""
        source, runs = f"{CALIBRATIONS}/{PRIOR}", self._store.whole_runs(self._device)
        if not isinstance(fit.form, ExpectedForm):
            return replace(fit, source=source)
        form = fit.form.on_die(self._rate)
        if runs is None:
            return replace(fit, form=form, source=source)
        changed = replace(
            form,
            launch=form.launch + float(runs.launch),
            compute_efficiency=min(form.compute_efficiency * float(runs.compute), 1.0),
            hbm_efficiency=min(form.hbm_efficiency * float(runs.hbm), 1.0),
        )
        return replace(fit, form=changed, source=source)

    @cached_property
    def _rate(self) -> float:
        """Return the share of its die's FLOP in a cycle that a processor of the device has."""
        return self._store.rate_on_die(self._device)

    def least(self, key: str, named: Sequence[str], compared: Sequence[Candidate]) -> Candidate:
        """Return the candidate of least expected error, its interval as wide as that of the steps to it.

        Errors within `TIE` of the least are equal. Then a fit of this device comes first, and then their order.
        """
        measured = self._nearest(self.measured(key, named, compared), named)
        least = min(each.error or 0.0 for each in measured)
        equal = [each for each in measured if (each.error or 0.0) <= TIE * least]
        best = next((each for each in equal if each.device == self._device), equal[0])
        assert best.fit is not None
        steps = self.steps(key, named, best)
        return replace(best, fit=best.fit.widened(steps)) if steps else best

    def _nearest(self, candidates: Sequence[Candidate], named: Sequence[str]) -> list[Candidate]:
        """Return candidates without the named kernels on farther devices than the nearest that has them.

        Of several names the first that devices so near have: a framework runs later ones elsewhere.
        """

        def rank(candidate: Candidate) -> int:
            return (OWN, *RELATIONS).index(self._store.relation(self._device, candidate.device))

        nearest = min((rank(each) for each in candidates if each.role == NAMED), default=0)
        near = [each for each in candidates if each.role == NAMED and rank(each) == nearest]
        first = next((name for name in named if any(each.is_of(name) for each in near)), "")
        others = (each for each in candidates if each.role != NAMED)
        return [*(each for each in near if not first or each.is_of(first)), *others]

    def measured(self, key: str, named: Sequence[str], compared: Sequence[Candidate]) -> list[Candidate]:
        """Return candidates with their expected errors, and the part that kernels of one relation share.

        Messages run on links, not on the die that devices have in common: what theirs share was not measured.
        """
        candidates, is_message = [], key.startswith((COLLECTIVE, SEND_RECV))
        for each in compared:
            relation, step = ("", 0.0) if is_message else self._between_devices(key, each)
            alike = self._alike(key, named, each)
            fit = None if each.fit is None else replace(each.fit, step=step, relation=relation, alike=alike)
            candidates.append(replace(each, fit=fit, error=expected(self.held_out(each), self.steps(key, named, each))))
        return candidates

    def held_out(self, candidate: Candidate) -> float:
        """Return the held-out error of a candidate's own rows."""
        fits = self._store.device_fits(candidate.device, candidate.implementation)
        assert fits is not None
        return held_out_error(fits.file.families[candidate.key])

    def steps(self, key: str, named: Sequence[str], candidate: Candidate) -> float:
        """Return the error of the steps from a candidate's own rows to the kernels that are asked for."""
        _, transfer = self._between_devices(key, candidate)
        return expected(transfer, self._of_a_program(key, named, candidate))

    def transfer_error(self, key: str, named: Sequence[str], candidate: Candidate) -> float:
        """Return the part of it that others may mend: all but the step within a die, which runs a kernel equally."""
        related, transfer = self._between_devices(key, candidate)
        return expected(0.0 if related == DIE else transfer, self._of_a_program(key, named, candidate))

    def _of_a_program(self, key: str, named: Sequence[str], candidate: Candidate) -> float:
        """Return the error of a candidate for kernels of another build or library, zero of what the framework names."""
        if not named or candidate.role == NAMED:
            return 0.0
        fits = self._store.device_fits(candidate.device, candidate.implementation)
        assert fits is not None
        errors, library = self._store.step_errors(), fits.file.library or candidate.implementation
        wanted = set(map(self._library_of, named))
        if library in wanted:
            return self._of_a_build(key, named)
        return min(errors.stand_in(one, library, key) for one in wanted)

    def _alike(self, key: str, named: Sequence[str], candidate: Candidate) -> float:
        """Return by how much the squared error is less at layers with tuned tiles, of another build with such rows.

        Engines that share a kernel share the tiles that were tuned for it, and not those that they fall back on.
        """
        fits = self._store.device_fits(candidate.device, candidate.implementation)
        error = self._store.step_errors().tuned(key)
        if fits is None or candidate.fit is None or error is None or not named or candidate.role == NAMED:
            return 0.0
        library = fits.file.library or candidate.implementation
        form = candidate.fit.form
        if library not in map(self._library_of, named) or not isinstance(form, TwoTileForm) or form.tuned is None:
            return 0.0
        return max(self._of_a_build(key, named) ** 2 - error**2, 0.0)

    def _library_of(self, implementation: str) -> str:
        """Return the library of an implementation by its file of the nearest device, else by its name."""
        nearest = (*(device for device, _ in self._chain), *self._store.same_die(self._device))
        files = (self._store.device_fits(device, implementation) for device in dict.fromkeys(nearest))
        known = (fits.file.library for fits in files if fits is not None)
        return next((library for library in known if library), library_of(implementation))

    def _between_devices(self, key: str, candidate: Candidate) -> tuple[str, float]:
        """Return how a candidate's device is related to this one, and the error of the step between them."""
        related = self._store.relation(self._device, candidate.device)
        return related, self._store.step_errors().transfer(related, key)

    def _of_a_build(self, key: str, named: Sequence[str]) -> float:
        """Return the error of a fit for another build of its library on the same device.

        It is at most that of the build itself on a device of another balance: own rows come before those of a sibling.
        """
        errors, own = self._store.step_errors(), self._device
        siblings = (device for name in named for device in self._store.same_die(own, name))
        is_rebalanced = any(self._store.relation(own, device) == REBALANCED for device in siblings)
        version = errors.version(key)
        return min(version, errors.transfer(REBALANCED, key)) if is_rebalanced else version

    def version(self, key: str) -> float:
        """Return the error of a fit for other kernels of its library on the same device."""
        return self._store.step_errors().version(key)

    def _defaults(self, link: int, named: str) -> Iterator[DeviceFits]:
        """Yield the files of a device's default: its own, then those of the devices it inherits from."""
        devices = [device for device, _ in self._chain[link:]]
        is_known = False
        for device in devices:
            fits = self._store.device_fits(device, named)
            if fits is not None:
                is_known = True
                yield fits
        if not is_known:
            device = devices[0]
            raise InputError.single(
                f"devices/{device} names `{named}`, but there is no {CALIBRATIONS}/{device}/{named}",
                hint=suggest(named, self._store.names(device)), field="calibration.default",
            )  # fmt: skip

    def _candidate(self, fits: DeviceFits, key: str, role: str, *, is_meant: bool = False) -> Candidate:
        """Return a file's fit of the very variant, else of the family as a whole. is_meant: named with its device."""
        family, source = key.partition("/")[0], f"{CALIBRATIONS}/{fits.file.name}"
        parts = fits.file.name.partition("/")
        for name in (key, family):
            fit = fits.fit(name, self._device)
            if fit is not None and name in fits.file.untuned and not is_meant:
                return Candidate(source, name, role, passed_over="ran untuned, as engines do not run it")
            if fit is not None and role != NAMED and _is_workaround(fit):
                return Candidate(source, name, role, passed_over=f"copies the cache first, as {fits.file.library} does")
            if fit is not None:
                fit = self._store.on_device(fit, self._device, fits.device)
                return Candidate(source, name, role, fit, device=fits.device, implementation=parts[2] or fits.file.name)
        return Candidate(source, key, role, passed_over=f"has no fit of {key}")


def _is_workaround(fit: FamilyFit) -> bool:
    """Tell whether a fit is of a library that lacks a kernel and copies its input for another one.

    It says nothing of a library that has the kernel.
    """
    return isinstance(fit.form, DecodeForm) and fit.form.widening is not None


def library_of(implementation: str) -> str:
    """Return the first word of the name of an implementation: `deepgemm` of `deepgemm-sglang`, mostly its library."""
    return implementation.rpartition("/")[2].partition("-")[0]
