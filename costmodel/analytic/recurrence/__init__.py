"""The max-plus recurrence: when a set of streams is done that each work in a fixed order and wait for each other.

    start(e)  = max(finish(previous of the stream), finish(a): a in e.after, finish(r) + transfer: r in e.receives)
    finish(e) = start(e) + duration(slot of e)
    makespan  = max over e of finish(e)

Pipeline schedules (`compile_schedule`) and overlapping micro-batches (`compile_events`) are such programs. A program
is structure only, compiled once. Three ways evaluate it, with the same result: wave by wave at a few points, by its
longest paths where there are few of them, and from a tape at all others.
"""
