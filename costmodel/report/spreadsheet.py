"""Cells of CSV that people open in a spreadsheet."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which spreadsheets begin one


def harmless(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe before it."""
    if not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
