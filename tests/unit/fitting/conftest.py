"""A chip, its sibling and a framework, and tables written as text."""

from small_tables import catalogue, table, world

__all__ = ["catalogue", "table", "world"]
