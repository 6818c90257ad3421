"""One condition on a layout, said once for a point (an error that shows the fix) and for a grid (a mask)."""

from __future__ import annotations

from costmodel.quantities import Mask, Quantity, divides
from costmodel.records import Record


class Rule(Record):
    """One condition on a scenario. field: path below the scenario; holds: where it is met; hint: the fix."""

    field: str
    holds: Mask
    message: str
    hint: str


def divides_rule(field: str, divisor: Quantity, value: Quantity, what: str) -> Rule:
    """Return the rule that `divisor` divides `value`."""
    return Rule(
        field,
        divides(divisor, value),
        f"{shown(divisor)} does not divide {what} ({shown(value)})",
        f"choose a divisor of {shown(value)}",
    )


def shown(value: Quantity) -> str:
    """Return a count as a person writes it."""
    return f"{value:g}" if isinstance(value, float | int) else "one of its values"
