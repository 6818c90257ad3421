"""The clock: the earliest action first, of equals the one that was set first, and none that was stopped."""

from __future__ import annotations

from costmodel.event.engine import Clock


def test_actions_run_in_the_order_of_their_times() -> None:
    clock, seen = Clock(), []

    def note(name: str) -> None:
        seen.append((name, clock.now))
        if name == "first":
            clock.set(0.0, note, "at once")
            clock.set(3.0, note, "later")

    for delay, name in ((2.0, "second"), (1.0, "first"), (2.0, "third"), (1.5, "never")):
        timer = clock.set(delay, note, name)
    clock.stop(timer)
    while clock.step():
        pass
    assert seen == [("first", 1.0), ("at once", 1.0), ("second", 2.0), ("third", 2.0), ("later", 4.0)]
    assert not clock.step()
