"""A scheduler that walks every request in every step, to hold the counting one against."""

import math
from dataclasses import dataclass, field

from costmodel.serving.prices import Tables
from costmodel.serving.state import Policy


@dataclass
class Job:
    """A request of the reference. tokens: computed and to compute before the next one; got: tokens returned."""

    number: int
    arrival: float
    prompt: int
    output: int
    computed: int = 0
    target: int = 0
    got: int = 0
    first: float = math.nan
    finish: float = math.nan
    kept: int = 0  # blocks that it finds again after a preemption
    scheduled: bool = False
    preempted: int = 0
    priority: int = 0

    def urgency(self):
        """Return what the least urgent one has most of."""
        return self.priority, self.arrival, self.number


@dataclass
class Reference:
    """One engine without a prefix cache: vLLM's rules, one request after the other. by_priority: not by arrival."""

    tables: Tables
    policy: Policy
    price: object
    by_priority: bool = False
    running: list = field(default_factory=list)
    waiting: list = field(default_factory=list)

    def blocks(self, tokens):
        return -(-tokens // self.policy.block)

    def held(self):
        return sum(self.blocks(job.computed) for job in (*self.running, *self.leaving))

    def serve(self, jobs):
        """Return the jobs, served."""
        self.leaving = []
        pending, now, busy = sorted(jobs, key=lambda job: job.arrival), 0.0, 0.0
        while pending or self.waiting or self.running or self.leaving:
            self.leaving = [job for job in self.leaving if job.finish > now]
            while pending and pending[0].arrival <= now:
                job = pending.pop(0)
                job.target = job.prompt
                self.waiting.append(job)
            decodes, chunks = self.decide()
            if not decodes and not chunks:
                if busy > now:
                    now = busy
                elif pending:
                    now = pending[0].arrival
                elif not self.leaving:
                    break
                continue
            start = max(now, busy)
            busy = start + self.price(decodes, chunks)
            self.end(decodes, chunks, busy)
            now = start if self.policy.overlapped else busy
        return jobs

    def decide(self):
        budget, chunks, decodes, preempted = self.policy.budget, [], [], False
        for job in list(self.running):
            if job not in self.running or job.computed < job.target or budget <= 0:
                continue
            while self.held() + self.blocks(job.computed + 1) - self.blocks(job.computed) > self.policy.blocks:
                budget += self.preempt(decodes)
                preempted = True
                if job not in self.running:
                    break
            else:
                decodes.append(job)
                job.computed += 1
                budget -= 1
        for job in list(self.running):
            if job in decodes or job.computed >= job.target:
                continue
            while job in self.running:
                rows = min(budget, job.target - job.computed)
                if (
                    self.held() + self.blocks(job.computed + max(rows, 0)) - self.blocks(job.computed)
                    <= self.policy.blocks
                ):
                    break
                budget += self.preempt(decodes)
                preempted = True
            if job not in self.running or rows <= 0:
                continue
            job.computed += rows
            chunks.append((job, rows))
            budget -= rows
        while not preempted and self.waiting and budget > 0:
            job = min(self.waiting, key=Job.urgency) if self.by_priority else self.waiting[0]
            if len(self.running) + len(self.leaving) >= self.policy.max_seqs:
                break
            rows = min(budget, job.target)
            if self.held() + self.blocks(rows) > self.policy.blocks:
                break
            self.waiting.remove(job)
            self.running.append(job)
            job.computed = rows
            chunks.append((job, rows))
            budget -= rows
        return decodes, chunks

    def preempt(self, decodes):
        """Send a request back to the queue; return the tokens of the step that it gives back."""
        job = max(self.running, key=Job.urgency) if self.by_priority else self.running[-1]
        self.running.remove(job)
        job.target, job.computed = job.prompt + job.got, 0
        job.preempted += 1
        self.waiting.insert(0, job)
        if job not in decodes:
            return 0
        decodes.remove(job)
        return 1

    def end(self, decodes, chunks, end):
        for job in (*decodes, *(job for job, _ in chunks if job.computed == job.target)):
            job.got += 1
            if math.isnan(job.first):
                job.first = end
            if job.got == job.output:
                job.finish = end
                self.running.remove(job)
                self.leaving.append(job)
            job.target = job.computed
