"""The small world of files that tests of reports read."""

from small_world import world

__all__ = ["world"]
