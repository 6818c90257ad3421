"""The fits that may answer for a kernel on a device: where they are looked for, and how far each may miss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

from costmodel.calibration.candidates import (
    COLLECTIVE,
    DEFAULT,
    EXPANDING,
    LATENT,
    NAMED,
    OTHER,
    SEND_RECV,
    Candidate,
    library_of,
)
from costmodel.calibration.device_chain import CALIBRATIONS
from costmodel.calibration.device_relations import DIE, OWN, RELATIONS, TWIN
from costmodel.calibration.effects import EXACT, Covariance, Kernels, held_out_error
from costmodel.calibration.fit_files import PRIOR, ROOFLINE, FitStore, family_fit
from costmodel.cost.attention import DecodeForm
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.expected_roofline import ExpectedForm
from costmodel.errors import InputError, suggest
from costmodel.records import Record, replace

UNKNOWN = "unknown"  # named where a row's kernel is none that any file is of
SHARED = Kernels("", "", "")  # of all devices that have fits
MOST = 3  # chosen: fits of devices of which a mean is taken. Four are no better on devices whose fits are hidden
_NEAR = (OWN, TWIN, DIE)  # a named kernel on the same die comes before another one on the device itself
_LINKS = (COLLECTIVE, SEND_RECV)  # messages run on links, not on the die that devices have in common
EXPERT_MESSAGES = "moe_"  # families of which the links say more than another device


class Answer(Record):
    """Fits that answer for a key, with expected errors, the leading one first, and how their errors go together.

    tuned: how they do at layers with tuned tiles, as elsewhere where it is none.
    """

    candidates: tuple[Candidate, ...]
    covariance: Covariance
    tuned: Covariance | None

    @property
    def of_own(self) -> Answer:
        """Return the same without the error of the first fit, which answers alone inside what it was made from."""

        def exact(covariance: Covariance) -> Covariance:
            (own, *first), *others = covariance
            return (max(own - self.candidates[0].held_out ** 2, EXACT**2), *first), *others

        return replace(self, covariance=exact(self.covariance), tuned=self.tuned and exact(self.tuned))


class FitSearch:
    """The fits of a device, and those that others lend it.

    Every method has the `family/variant` and the implementations that a framework names for it.
    """

    def __init__(self, store: FitStore, device: str) -> None:
        self._store, self._device = store, device
        self._chain = dict(store.chain(device))
        self._novelty = store.novelty(device)

    def near(self, key: str, named: Sequence[str]) -> list[Candidate]:
        """Return the fits of a key, and the files without one, of the devices of the chain and of the die.

        Of each device the named implementations, builds of their libraries and the default. Where none of these has a
        named one, those of the nearest device that has.
        """
        may_borrow = self._store.may_borrow(self._device)
        of_die = self._store.others(self._device, same_die=True) if may_borrow else ()
        devices = list(dict.fromkeys((*self._chain, *of_die)))
        every = (each for device in devices for each in self.on_device(device, key, named))
        by_source: dict[str, Candidate] = {}
        for each in every:
            by_source.setdefault(each.source, each)
        looked_at = list(by_source.values())
        is_named = any(each.fit is not None and each.is_of(name) for each in looked_at for name in named)
        if may_borrow and named and not is_named and not key.startswith(_LINKS):
            far = (device for device in self._far if set(named) & set(self._store.names(device)))
            others = (self.on_device(device, key, named) for device in far)
            of_first = next((each for each in others if any(one.fit and one.role == NAMED for one in each)), [])
            looked_at += [one for one in of_first if one.fit is not None and one.role == NAMED]
        return looked_at

    def lead(self, key: str, named: Sequence[str], known: Sequence[Candidate]) -> Candidate | None:
        """Return the one of some candidates that is of the very kernels. None: it has to be searched for among others.

        It is of the first named implementation that the die has, or of another named one of its library, measured on
        the nearest of its devices; of this device's default where none is named. One that is named with its device, and
        a default that the device's own file states, is meant wherever it was measured. What that device and this one do
        not share adds to its error. Messages run on links, which no other device of the die shares.
        """
        near = (OWN,) if key.startswith((*_LINKS, EXPERT_MESSAGES)) else _NEAR
        fits = [each for each in known if each.fit and (each.fit.form is not None or each.device == self._device)]
        of_die = [each for each in fits if self._store.relation(self._device, each.device) in near]
        asked = next((name for name in named if any(each.is_of(name) for each in of_die)), "")
        names = [name for name in named if library_of(name) == library_of(asked)]
        meant = [each for each in known if each.fit and named and each.source == f"{CALIBRATIONS}/{named[0]}"]
        very = [each for each in of_die if any(map(each.is_of, names))]
        default = [each for each in known if each.fit and not named and each.role == f"{DEFAULT} {self._device}"]
        for lead in (*meant, *very, *default)[:1]:
            devices = (lead.device, self._device)
            own, other = (Kernels(device, lead.implementation, lead.library) for device in devices)
            unshared = self._store.effects.unshared(key.partition("/")[0], own, other)
            chosen = replace(lead, unshared=unshared, is_compared=True)
            if chosen.fit is None or not chosen.elsewhere:
                return chosen
            return replace(chosen, fit=chosen.fit.widened(chosen.elsewhere))
        return None

    def far(self, key: str, named: Sequence[str]) -> list[Candidate]:
        """Return the same of the nearest other devices, until as many fits are known as a mean is taken of."""
        looked_at: list[Candidate] = []
        if key.startswith(_LINKS) and any(map(self._store.names, self._chain)):
            return looked_at
        for device in self._far if self._store.may_borrow(self._device) else ():
            looked_at += self.on_device(device, key, named)
            if sum(each.fit is not None for each in looked_at) >= MOST:
                break
        return looked_at

    def all(self, key: str, named: Sequence[str]) -> list[Candidate]:
        """Return both, for a device that has no fits at all."""
        return [*self.near(key, named), *self.far(key, named)]

    @cached_property
    def is_measured(self) -> bool:
        """Tell whether a device that this one inherits from, or one of its die, has fits."""
        return any(map(self._store.names, (*self._chain, *self._store.others(self._device, same_die=True))))

    @cached_property
    def _far(self) -> list[str]:
        return [each for each in self._store.others(self._device, same_die=False) if each not in self._chain]

    def on_device(self, device: str, key: str, named: Sequence[str]) -> list[Candidate]:
        """Return the fits of a key on one device, and the files without one."""
        looked_at: dict[str, Candidate] = {}
        for name, role in self._files(device, key, named):
            source = name if "/" in name else f"{device}/{name}"
            if source not in looked_at:
                looked_at[source] = self._read(source, key, role, is_meant=role == NAMED and name == source)
        return list(looked_at.values())

    def _files(self, device: str, key: str, named: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the implementations of a device that are looked at, each with its role."""
        names, defaults = self._store.names(device), self._chain.get(device)
        if defaults is None:
            defaults = self._store.chain(device)[0][1]
        yield from ((name, NAMED) for name in named if "/" in name or name in names or device == self._device)
        default = defaults.get(key, defaults.get(key.partition("/")[0]))
        if default is None and device == self._device:  # what it inherits, where it has a fit of its own of that
            inherited = (each.get(key, each.get(key.partition("/")[0])) for each in self._chain.values())
            default = next((each for each in inherited if each in names), None)
        source = None if default is None else self._default(device, default)
        if source is not None:
            yield source, f"{DEFAULT} {device}"
        libraries = set(map(library_of, named))
        builds = [name for name in names if library_of(name) in libraries]
        yield from ((name, "another build of its library") for name in builds)
        yield from ((name, OTHER) for name in names if UNKNOWN in named)

    def _default(self, device: str, name: str) -> str | None:
        """Return a device's default, which one that it inherits from may have. None where another one's is not there.

        Raises InputError where this device's own is not.
        """
        owners = (owner for owner, _ in self._store.chain(device) if self._store.device_fits(owner, name) is not None)
        owner = next(owners, None)
        if owner is None and device == self._device:
            raise InputError.single(
                f"devices/{device} names `{name}`, but there is no {CALIBRATIONS}/{device}/{name}",
                hint=suggest(name, self._store.names(device)), field="calibration.default",
            )  # fmt: skip
        if owner is None or owner == device or "/" in name:
            return None if owner is None else name
        return f"{owner}/{name}"

    def answer(
        self, key: str, named: Sequence[str], known: Sequence[Candidate], own: Candidate | None = None
    ) -> Answer:
        """Return which of some fits answer.

        Those of the very kernels on this device come first, then those of the least expected error. known: the nearest
        device first. own: the one of them whose kernels are asked for.
        """
        effects, family = self._store.effects, key.partition("/")[0]
        asked = Kernels(self._device, own.implementation, own.library) if own else self._asked(named, known)
        several = key.startswith(_LINKS)  # it names several since each takes messages of its own sizes

        def kernels(each: Candidate) -> Kernels:
            if not each.device:
                return SHARED
            if several and any(map(each.is_of, named)):
                return Kernels(each.device, asked.implementation, asked.library)
            return Kernels(each.device, each.implementation, each.library)

        novelty = 0.0 if key.startswith((*_LINKS, EXPERT_MESSAGES)) else self._novelty

        def compared(each: Candidate) -> Candidate:
            device, program = effects.unshared(family, kernels(each), asked)
            added = novelty if each.device else 0.0  # in backcasts, by which all devices' kernels are judged, it is
            return replace(each, unshared=(math.hypot(device, added), program), is_compared=True)

        errors = list(map(compared, known))

        def order(each: Candidate) -> tuple[bool | int | float | None, ...]:
            name = next((at for at, one in enumerate(named) if each.is_of(one)), len(named))
            is_other = own is not None and each.source != own.source
            return (is_other, several and name, each.elsewhere > 0.0 or each.device != self._device, each.error)

        ordered = sorted((each for each in errors if each.device), key=order)[:MOST]
        ordered += [each for each in errors if not each.device]  # it holds at any shape
        held_out = [each.held_out for each in ordered]
        covariance, tuned = (
            effects.covariance(
                family, asked, list(map(kernels, ordered)), held_out, is_tuned=is_tuned, common=novelty**2
            )
            for is_tuned in (False, True)
        )
        return Answer(tuple(ordered), covariance, tuned if effects.has_tuned(family) else None)

    def _asked(self, named: Sequence[str], known: Sequence[Candidate]) -> Kernels:
        """Return whose kernels are asked for: of the first named implementation that the nearest devices have.

        A framework runs later ones elsewhere. Without a name, the kernels of the nearest device's default.
        """
        if not named:
            default = next((each for each in known if each.role.startswith(DEFAULT)), known[0])
            return Kernels(self._device, default.implementation, default.library)
        orders = ((self._rank(each), at, each) for each in known for at, name in enumerate(named) if each.is_of(name))
        best = min(orders, key=lambda order: order[:2], default=None)
        if best is None:
            return Kernels(self._device, named[0], library_of(named[0]))
        return Kernels(self._device, best[2].implementation, best[2].library)

    def _rank(self, candidate: Candidate) -> int:
        """Return how far the device of a candidate is related, those of the same die equally near."""
        related = self._store.relation(self._device, candidate.device)
        return 0 if related in _NEAR or not candidate.device else 1 + RELATIONS.index(related)

    def shared(self, key: str) -> Iterator[Candidate]:
        """Yield what kernels of all devices share, with the error of backcasts."""
        family, shared = key.partition("/")[0], self._store.families(PRIOR)
        prior = shared.get(key, shared.get(key.replace(family, EXPANDING.get(family, family), 1)))
        if prior is not None and prior.form is not None:
            fit, error = self._as_in_whole_runs(family_fit(prior, ROOFLINE)), held_out_error(prior)
            fit = replace(fit, error=error)
            yield Candidate(fit.source, key, "kernels of other devices", fit, held_out=error, is_compared=True)

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

    def _read(self, source: str, key: str, role: str, *, is_meant: bool) -> Candidate:
        """Return a file's fit of the very variant, else of the family as a whole. is_meant: its device is named."""
        device, _, implementation = source.partition("/")
        fits, path = self._store.device_fits(device, implementation), f"{CALIBRATIONS}/{source}"
        if fits is None:
            return Candidate(path, key, role, passed_over="no such file")
        library = fits.file.library or library_of(implementation)
        others = (*_of_other_half(key), *(_over_fewer_keys(key) if role == NAMED else ()))
        for name in (key, key.partition("/")[0], *others):
            fit = fits.fit(name, self._device)
            if fit is None:
                continue
            if name in others:
                fit = replace(fit, basis="transferred")
            if name in fits.file.untuned and not is_meant:
                return Candidate(path, name, role, passed_over="ran untuned, as engines do not run it")
            if role != NAMED and _is_workaround(fit):
                return Candidate(path, name, role, passed_over=f"copies the cache first, as {library} does")
            error = held_out_error(fits.file.families[name])
            fit = replace(self._store.on_device(fit, self._device, device), error=error)
            return Candidate(path, name, role, fit, "", device, implementation, library, error)
        return Candidate(path, key, role, passed_over=f"has no fit of {key}")


def _of_other_half(key: str) -> tuple[str, ...]:
    """Return the kernels of the other 16-bit format, which run on the same units over as many bytes."""
    family, _, variant = key.partition("/")
    return tuple(f"{family}/{two}" for one, two in (("fp16", "bf16"), ("bf16", "fp16")) if variant == one)


def _over_fewer_keys(key: str) -> tuple[str, ...]:
    """Return the kernels that a framework runs over selected keys as over all, where it names a library for both."""
    family, _, variant = key.partition("/")
    return (f"{LATENT[family]}/{variant}",) if family in LATENT else ()


def _is_workaround(fit: FamilyFit) -> bool:
    """Tell whether a fit is of a library that lacks a kernel and copies its input for another one.

    It says nothing of a library that has the kernel.
    """
    return isinstance(fit.form, DecodeForm) and fit.form.widening is not None
