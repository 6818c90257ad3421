"""Pipeline schedules: in which order each rank works on which micro-batch of which stage. Structure only, no times.

Both engines and the memory ledger read the same order. A schedule is data: one tuple of actions per pipeline rank.
What an action needs from other ranks follows from the model's chain of stages (a forward needs the forward of the stage
before it, a backward the backward of the stage after it), so `Schedule.dependencies` serves every schedule, and a new
one is a function that returns per-rank orders and an entry in `SCHEDULES`.
"""
