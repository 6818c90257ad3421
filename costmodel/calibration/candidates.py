"""Fits that may answer for a kernel, before one of them does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from costmodel.cost.calibration import FamilyFit
from costmodel.records import Record, replace

NAMED, DEFAULT, OTHER = "named by the framework", "default of", "another library"  # roles
_ROOFLINE = "roofline"  # basis of what no device's own rows determine


class Candidate(Record):
    """A fit that may answer for a kernel, or where one was looked for in vain.

    source: the file.
    key: `family/variant` or family whose kernels it is of.
    role: why it is looked at.
    fit: what it states. None where it is passed over.
    passed_over: why it is.
    device, implementation, library: of the file. Blank where it is none of a device.
    held_out: its error on unseen rows of its own, half of an 80 % interval [log].
    error: expected for the kernels that are asked for, likewise, none where it was not compared.
    weight: its share in the answer at a shape, none where no shape is asked for.
    """

    source: str
    key: str
    role: str
    fit: FamilyFit | None = None
    passed_over: str = ""
    device: str = ""
    implementation: str = ""
    library: str = ""
    held_out: float = 0.0
    error: float | None = None
    weight: float | None = None

    def is_of(self, name: str) -> bool:
        """Tell whether it is of an implementation, which may name its device: `rtx-4090/vllm`."""
        return name in (self.implementation, self.source.partition("/")[2])

    @property
    def away(self) -> float:
        """Return what the steps from its own kernels to those that are asked for add to its error [log]."""
        return 0.0 if self.error is None else math.sqrt(max(self.error**2 - self.held_out**2, 0.0))

    def __str__(self) -> str:
        expected = "" if self.error is None else f", expected error {100 * math.expm1(self.error):.0f} %"
        expected += f", weight {100 * self.weight:.0f} %" if self.weight is not None and self.weight < 1.0 else ""
        return f"{self.source} ({self.role}): {self.passed_over or self.key}{expected}"


class Resolution(Record):
    """The fit that answers for a key, None where there is none, and the candidates up to it."""

    fit: FamilyFit | None
    considered: tuple[Candidate, ...]


def passed_over(candidate: Candidate) -> Candidate:
    """Return a candidate that does not answer."""
    return replace(candidate, fit=None, passed_over=candidate.key)


def first(candidates: Iterator[Candidate] | tuple[()]) -> Resolution:
    """Return the first of some candidates that has a fit: the order of the candidates is the choice."""
    considered: list[Candidate] = []
    for candidate in candidates:
        considered.append(candidate)
        if candidate.fit is not None:
            return Resolution(candidate.fit, tuple(considered))
    return Resolution(None, tuple(considered))


def transferred(candidate: Candidate, key: str, *, has_form: bool) -> Candidate:
    """Return a candidate for other kernels than its own. Shares of the peaks are not transferred where `has_form`."""
    role = f"nearest kernels, of {key}"
    assert candidate.fit is not None
    if has_form and candidate.fit.form is None:
        return Candidate(candidate.source, key, role, passed_over="states shares of the peaks, of its own kernels only")
    return replace(candidate, key=key, role=role, fit=changed(candidate.fit, _elsewhere), device="")


def _elsewhere(fit: FamilyFit) -> FamilyFit:
    return fit if fit.basis == _ROOFLINE else replace(fit, basis="transferred")


def as_backward(backward: FamilyFit, forward: FamilyFit) -> FamilyFit:
    """Return the fit of a backward kernel that borrows a forward one's form."""
    return replace(
        forward, backward_rate=backward.backward_rate, spread=backward.spread,
        extra_keys_per_query=backward.extra_keys_per_query,
    )  # fmt: skip


def changed(fit: FamilyFit, change: Callable[[FamilyFit], FamilyFit]) -> FamilyFit:
    """Return a fit that is changed, and the others that join it in the same way."""
    others = fit.others and replace(fit.others, fits=tuple(map(change, fit.others.fits)))
    return replace(change(fit), others=others)


def library_of(implementation: str) -> str:
    """Return the first word of the name of an implementation: `deepgemm` of `deepgemm-sglang`, mostly its library."""
    return implementation.rpartition("/")[2].partition("-")[0]
