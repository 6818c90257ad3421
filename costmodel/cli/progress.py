"""A progress bar on standard error, for work that lasts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 1.0  # seconds of work before a bar appears


@contextmanager
def progress(what: str, total: float = 1.0) -> Iterator[Callable[[float], None]]:
    """Give a function to call with how much of `total` is done; a terminal shows it, its rate and the time left."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    done = [0.0]
    over = threading.Event()
    shown = threading.Thread(target=_show, args=(what, total, done, over), daemon=True)
    shown.start()
    try:
        yield lambda so_far: done.__setitem__(0, so_far)
    finally:
        over.set()
        shown.join()


def _show(what: str, total: float, done: list[float], over: threading.Event) -> None:
    """Show the bar from the moment that patience ends until the work is over."""
    if over.wait(PATIENCE):
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Points a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} points/s" if task.speed else "")

    counted = (Rate(), TimeRemainingColumn()) if total > 1.0 else ()
    columns = (TextColumn(what), BarColumn(), TimeElapsedColumn(), *counted)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        while not over.wait(0.1):
            bar.update(task, completed=done[0])
