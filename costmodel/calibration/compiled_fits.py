"""The fits of a device from the compiled catalogue. Those that it lacks are looked up in the files, and kept."""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.hardware import Device
from costmodel.records import MutableRecord
from costmodel.schema import catalogue
from costmodel.schema.catalogue import Question
from costmodel.schema.inputs import Answers, recorded
from costmodel.schema.references import Library
from costmodel.workload.scenario import Framework

if TYPE_CHECKING:
    from costmodel.calibration.fit_files import FitStore
    from costmodel.calibration.fit_lookup import FitLookup

Implementations: TypeAlias = "tuple[tuple[str, tuple[str, ...]], ...]"

_NAME = "roofline"  # what every device starts from


class KeptFits(MutableRecord, eq=False):
    """What is known of the fits of a device.

    base: families that every device has. Empty where no file was read yet.
    fits: by family and `family/variant`, null where there is none.
    notes: what stands in for the fit of each.
    """

    base: tuple[str, ...]
    fits: dict[str, FamilyFit | None]
    notes: dict[str, tuple[str, ...]]


class CompiledFits(Mapping[str, FamilyFit]):
    """The fits of a device by `family/variant` and by family.

    path: of the device's file, where the search path has none.
    """

    def __init__(
        self, device: str, path: str | None, implementations: Implementations, roots: tuple[Path, ...]
    ) -> None:
        self._device, self._implementations, self._roots = device, implementations, roots
        self._own_file = None if path is None else (device, path)
        self._question = Question("fits", (device, path, implementations), roots)
        fits = catalogue.recall(self._question)
        self._kept: KeptFits = KeptFits((), {}, {}) if fits is None else fits.answer
        self._rests_on: Answers = {} if fits is None else fits.rests_on

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process makes it: what is known comes along, and one is enough for all that come."""
        path = None if self._own_file is None else self._own_file[1]
        return _arrived, (self._device, path, self._implementations, self._roots, self._kept)

    @cached_property
    def files(self) -> FitLookup:
        """Return the same fits as files state them, with the choice between them."""
        from costmodel.calibration.device_chain import same_device
        from costmodel.calibration.fit_lookup import FitLookup  # YAML and pydantic load where files are read

        store, noted = _store(self._roots, self._own_file)
        with recorded(noted):
            return FitLookup(store, same_device(self._device, store.library), dict(self._implementations))

    def __getitem__(self, key: str) -> FamilyFit:
        fits = self._kept.fits
        if key not in fits:
            with self._reading() as files:
                fits[key] = files.get(key)
        fit = fits[key]
        if fit is None:
            raise KeyError(key)
        return fit

    def __iter__(self) -> Iterator[str]:
        if not self._kept.base:
            with self._reading():
                pass
        known = (key for key, fit in self._kept.fits.items() if fit is not None)
        return iter(dict.fromkeys((*self._kept.base, *known)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def notes_of(self, key: str) -> tuple[str, ...]:
        """Return what stands in for the fit of a `family/variant`, and for that of its family where it has none."""
        if key not in self._kept.notes:
            with self._reading() as files:
                self._kept.notes[key] = files.notes_of(key)
        return self._kept.notes[key]

    @contextmanager
    def _reading(self) -> Iterator[FitLookup]:
        """Give the files. What is read of them is kept when the program ends."""
        _, noted = _store(self._roots, self._own_file)
        with recorded(noted):
            self._kept.base = self._kept.base or self.files.base
            yield self.files
        _changed[self._question] = self

    def learn(self, kept: KeptFits) -> None:
        """Take over what another process knows."""
        own = self._kept
        own.base, own.fits, own.notes = own.base or kept.base, kept.fits | own.fits, kept.notes | own.notes

    def keep(self) -> None:
        """Keep what is known; not of a device whose own rows move what others lend it, which are in tables."""
        if not self.files.has_rows:
            _, noted = _store(self._roots, self._own_file)
            catalogue.keep(self._question, self._rests_on | noted, self._kept)


def load_calibration(device: Device, framework: Framework, search_path: Sequence[str | Path] = ()) -> Calibration:
    """Return the fits of a device under a framework as `fit_lookup.load_calibration` does, from the catalogue."""
    if catalogue.folder() is None:
        from costmodel.calibration import fit_lookup

        return fit_lookup.load_calibration(device, framework, search_path)
    roots = tuple(map(Path.resolve, Library(search_path).roots))
    return _loaded(device.name, device.path, tuple(sorted(framework.implementations.items())), roots)


def keep_all() -> None:
    """Keep what was looked up since the last time."""
    while _changed:
        _changed.popitem()[1].keep()


atexit.register(keep_all)
_changed: dict[Question, CompiledFits] = {}


@lru_cache(maxsize=256)
def _loaded(device: str, path: str | None, implementations: Implementations, roots: tuple[Path, ...]) -> Calibration:
    fits = CompiledFits(device, path, implementations, roots)
    return Calibration(_NAME, fits, notes_of=fits.notes_of)


def _arrived(
    device: str, path: str | None, implementations: Implementations, roots: tuple[Path, ...], kept: KeptFits
) -> Mapping[str, FamilyFit]:
    """Return the fits of a device in this process, with what another one knows of them."""
    fits = _loaded(device, path, implementations, roots).families
    assert isinstance(fits, CompiledFits)
    fits.learn(kept)
    return fits


@lru_cache(maxsize=8)
def _store(roots: tuple[Path, ...], own_file: tuple[str, str] | None) -> tuple[FitStore, Answers]:
    """Return the files of a search path, which all devices and frameworks share, and what was read of them.

    own_file: name and file of a device that is not on it.
    """
    from costmodel.calibration.fit_lookup import store_of

    return store_of(roots, own_file), {}
