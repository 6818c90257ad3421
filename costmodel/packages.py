"""What is installed: the package's own metadata besides that of what it requires. Imports none of these packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from costmodel.records import ValueRecord

PACKAGE = "costmodel"
# Extra -> what it gives. Which extras there are, and what they require, is the metadata's word.
GIVES = {
    "profile": "`profile`: times the kernels of this machine",
    "sweep": "tables as Parquet, sweeps over a Dask cluster",
    "fast": "compiled serving and flows: large simulations in seconds",
    "app": "`app`: a page on this machine",
    "tables": "results as pandas, polars and xarray tables",
    "docs": "the documentation as a site",
    "dev": "tests, linters, types: to change costmodel",
}
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?$")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_LOWEST = re.compile(r">=\s*(\d+(?:\.\d+)*)")
_RELEASE = re.compile(r"\d+(?:\.\d+)*")


class Required(ValueRecord):
    """A package that another one requires.

    requires: the versions that will do.
    version: the installed one, or null.
    extras: its own that are asked for.
    """

    name: str
    requires: str
    version: str | None
    extras: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as pip reads it."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{self.name}{extras}{self.requires}"

    @property
    def is_met(self) -> bool:
        """Tell whether it is installed in a version that will do, as far as a lowest version says."""
        lowest, installed = _LOWEST.search(self.requires), _RELEASE.match(self.version or "")
        if self.version is None or lowest is None or installed is None:
            return self.version is not None
        return _numbers(installed[0]) >= _numbers(lowest[1])


class Extra(ValueRecord):
    """An extra of the package, with what it requires."""

    name: str
    packages: tuple[Required, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the requirements that are not met, as pip reads them."""
        return tuple(str(each) for each in self.packages if not each.is_met)

    @property
    def gives(self) -> str:
        """Return what it gives. Blank of one that nothing is known of."""
        return GIVES.get(self.name, "")

    @property
    def command(self) -> str:
        """Return the command that adds it."""
        return f"pip install '{PACKAGE}[{self.name}]'"


def stated_version() -> str | None:
    """Return the version in the package's metadata, null where it is not installed as a package."""
    return version_of(PACKAGE)


def dependencies() -> tuple[Required, ...]:
    """Return what the package always requires, nothing where it is not installed as a package."""
    return tuple(required for required, extras in _requirements() if not extras)


def extras() -> tuple[Extra, ...]:
    """Return the extras that the package's metadata lists, those for its users first, with what each requires."""
    try:
        names = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return ()
    order = list(GIVES)
    names = sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))
    stated = list(_requirements())
    return tuple(Extra(name, tuple(r for r, of in stated if name in of)) for name in names)


def _requirements() -> Iterator[tuple[Required, frozenset[str]]]:
    """Yield what the package requires with the extras that it is for, none for what it always requires.

    What asks for extras of another package, as `dask[distributed]` does, is followed by what those require.
    """
    for required, extras in _stated_by(PACKAGE):
        if required.name != PACKAGE:
            yield required, extras
            for inner, of in _stated_by(required.name) if required.extras else ():
                if of & set(required.extras):
                    yield inner, extras


def _stated_by(package: str) -> Iterator[tuple[Required, frozenset[str]]]:
    """Yield what the metadata of a package require, with the extras that it is for, nothing where it is absent."""
    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        if (match := _REQUIREMENT.match(line)) is not None:
            name, own, versions, marker = match.groups()
            asked = tuple(part.strip() for part in (own or "")[1:-1].split(",") if part.strip())
            yield Required(name, versions.strip(), version_of(name), asked), frozenset(_EXTRA.findall(marker or ""))


def version_of(name: str) -> str | None:
    """Return the installed version of a package, null where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(release: str) -> tuple[int, ...]:
    """Return the numbers of a release without the zeros at its end: 2.0 is 2."""
    numbers = [int(part) for part in release.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
