"""The training step: its operators, streams and overlaps, and the schedule's recurrence over them."""
