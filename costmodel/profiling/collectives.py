"""Messages of a group that torchrun has started: every rank runs them, the first one writes the table."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from costmodel.errors import InputError
from costmodel.profiling.kernels import Kernel
from costmodel.profiling.operands import Operands
from costmodel.profiling.shapes import BYTES, Shape
from costmodel.profiling.timing import Call, Maker, Stopwatch, Timing, fixed_series

_WARM, _REPEATS = 3, 20  # calls of each message
_PATIENCE = timedelta(minutes=5)  # that a rank waits for another one's word
# torch has given these two new names.
_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Ranks:
    """The processes of a run: one, or those of a torchrun group."""

    def __init__(self, device: str) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.size)))
        self.rank = int(os.environ.get("RANK", "0"))
        self._words: Any = None
        if self.size == 1:
            return
        if device != "cpu":
            there = torch.cuda.device_count()
            if self.local > there:
                message = f"{self.local} ranks on this machine, which has {there} GPU{'s' if there > 1 else ''}"
                raise InputError.single(message, hint=f"start torchrun with --nproc_per_node={there}", field="profile")
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("gloo" if device == "cpu" else "nccl")
        self._words = dist.new_group(backend="gloo", timeout=_PATIENCE)  # ranks talk beside the messages that are timed

    @property
    def first(self) -> bool:
        """Tell whether this process writes."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """Return what the first rank says, on every rank."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0, group=self._words)
        return said[0]

    def first_reason(self, reason: str) -> str:
        """Return why the first rank that could not run something says that it could not. Blank where all could.

        A rank that fails while others wait inside the message gets no word from them: that ends it, and torchrun then
        ends the others.
        """
        if self.size == 1:
            return reason
        every: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(every, reason, group=self._words)
        except RuntimeError as error:
            if not reason:
                raise
            message = f"rank {self.rank} failed where the others wait: {reason}"
            raise InputError.single(message, hint="run the same command again", field="profile") from error
        return next((f"rank {rank}: {said}" for rank, said in enumerate(every) if said), "")

    def slowest(self, timing: Timing) -> Timing:
        """Return the timing of the slowest rank."""
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, timing, group=self._words)
        slowest: Timing = max(every, key=lambda each: each.seconds)
        return slowest

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            dist.destroy_process_group()


def collective(shape: Shape, operands: Operands, ranks: Ranks) -> Kernel:
    """Return a message of the size that nccl-tests states: the full buffer of a rank."""
    count = shape.size("bytes") // BYTES[shape.dtype]
    share = count // ranks.size

    def make() -> Call:
        whole, part = operands.tensor(shape.dtype, count), operands.tensor(shape.dtype, share)
        other = operands.tensor(shape.dtype, count)
        following, before = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size

        def pass_on() -> None:
            sent = [dist.P2POp(dist.isend, whole, following), dist.P2POp(dist.irecv, other, before)]
            for work in dist.batch_isend_irecv(sent):
                work.wait()

        calls: dict[str, Call] = {
            "all_reduce": lambda: dist.all_reduce(whole),
            "all_gather": lambda: _GATHER(whole, part),
            "reduce_scatter": lambda: _SCATTER(part, whole),
            "all_to_all": lambda: dist.all_to_all_single(other, whole),
            "send_recv": pass_on,
        }
        return calls[shape.op]

    return Kernel(make, f"torch.distributed {dist.get_backend()}")


def time_together(make: Maker, watch: Stopwatch, ranks: Ranks) -> Timing:
    """Return the time of the slowest rank. All ranks run as many calls."""
    dist.barrier()
    return ranks.slowest(fixed_series(make, watch, _WARM, _REPEATS))
