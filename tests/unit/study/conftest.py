"""The small world of files that the schema tests read."""

from small_world import world

__all__ = ["world"]
