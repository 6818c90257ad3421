"""A progress bar on standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DELAY = 1.0  # seconds before a bar appears
EVERY = 10.0  # seconds between lines where there is no terminal


@contextmanager
def progress(what: str, total: float = 1.0, *, lines: bool = False) -> Iterator[Callable[[float], None]]:
    """Yield a function that takes how much of `total` is done. A terminal shows that, the rate and the time left.

    lines: elsewhere a line says it, every ten seconds where there is more.
    """
    is_terminal = sys.stderr.isatty()
    if not is_terminal and not lines:
        yield lambda _: None
        return
    done = [0.0]
    finished = threading.Event()
    thread = threading.Thread(target=_show if is_terminal else _say, args=(what, total, done, finished), daemon=True)
    thread.start()
    try:
        yield lambda so_far: done.__setitem__(0, so_far)
    finally:
        finished.set()
        thread.join()


def _say(what: str, total: float, done: list[float], finished: threading.Event) -> None:
    """Print a line now and then until the work is finished, and one that it is."""
    said = ""
    while not finished.wait(EVERY):
        if said != (said := f"{what}: {done[0] / total:.0%}\n"):
            sys.stderr.write(said)
    if said and done[0] >= total:
        sys.stderr.write(f"{what}: 100%\n")


def _show(what: str, total: float, done: list[float], finished: threading.Event) -> None:
    """Show the bar after the delay, until the work is finished."""
    if finished.wait(DELAY):
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.text import Text

    class Rate(bars.ProgressColumn):
        """Points per second."""

        def render(self, task: bars.Task) -> Text:
            return Text(f"{task.speed:,.0f} points/s" if task.speed else "")

    rate_columns = (Rate(), bars.TimeRemainingColumn()) if total > 1.0 else ()
    columns = (bars.TextColumn(what), bars.BarColumn(), bars.TimeElapsedColumn(), *rate_columns)
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        while not finished.wait(0.1):
            bar.update(task, completed=done[0])
