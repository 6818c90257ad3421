"""A progress bar on standard error, for work that lasts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 1.0  # seconds of work before a bar appears


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """Give a function to call with the share of the work that is done; a terminal shows it after a second."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    done = [0.0]
    over = threading.Event()
    shown = threading.Thread(target=_show, args=(what, done, over), daemon=True)
    shown.start()
    try:
        yield lambda share: done.__setitem__(0, share)
    finally:
        over.set()
        shown.join()


def _show(what: str, done: list[float], over: threading.Event) -> None:
    """Show the bar from the moment that patience ends until the work is over."""
    if over.wait(PATIENCE):
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        while not over.wait(0.1):
            bar.update(task, completed=done[0])
