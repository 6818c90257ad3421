"""The KV cache of a serving engine in blocks: what its profiling run leaves of a device."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.equations import equation
from costmodel.quantities import Bytes, Count, Seconds, ceil, floor, maximum, minimum, sum_of, uniform_int, where
from costmodel.records import Record, replace
from costmodel.workload.architecture import Stage, stage_layout
from costmodel.workload.engine import FREE, STATIC, EngineMemory
from costmodel.workload.linear import SERVED
from costmodel.workload.memory import CachedSequences, Ledger, inference_ledger, stage_cache_bytes, with_expert_pool
from costmodel.workload.passes import Pass, PassWork, pass_work, prompt_context
from costmodel.workload.plans import Serving, draft_passes, drafted_tokens
from costmodel.workload.scenario import Scenario

PROFILED_TOKENS = 2048.0  # of an engine whose scheduler has no budget, and of no engine in particular


class KvPool(Record):
    """The blocks of an engine's KV cache, on the rank that has least room for them.

    blocks: whole ones.
    block_bytes: of one [B].
    tokens: of one.
    ledger: of the device, with all blocks.
    profiled: the engine's largest step, and its operators.
    """

    blocks: Count
    block_bytes: Bytes
    tokens: Count
    ledger: Ledger
    profiled: tuple[Pass, PassWork]
    layout: Sequence[Stage]

    def blocks_of(self, tokens: Count) -> Count:
        """Return the blocks of one sequence: its tokens, its share of windows and its states, in whole blocks."""
        whole = ceil(tokens / self.tokens) * self.tokens
        return ceil(stage_cache_bytes(self.profiled[0], self.layout, whole) / self.block_bytes - 1e-9)

    def mean_blocks_of(self, tokens: Count) -> Count:
        """Return the blocks of one sequence whose mean length is `tokens`: on average its last block is half empty."""
        length = tokens + (self.tokens - 1.0) / 2.0
        return stage_cache_bytes(self.profiled[0], self.layout, length) / self.block_bytes


@equation
def kv_pool(scenario: Scenario, plan: Serving) -> KvPool:
    """Return the KV cache of one engine.

        blocks = max(floor(room / block_bytes), 0)     where none are stated
        block_bytes := KV cache of `memory.block` tokens on the rank with most layers, each `cached_bytes`
        kv_cache = max(blocks, least) * block_bytes
        reserve = max(device.capacity - used, 0)
        weights = base.weights
        activations = base.activations                 of the engine's largest step
        communication = base.communication

    vLLM, Worker.determine_available_memory and GPUModelRunner.profile_run. SGLang, ServerArgs (mem_fraction_static) and
    ModelRunner.profile_max_num_token. TensorRT-LLM, KvCacheConfig.free_gpu_memory_fraction.
    """
    memory, layout = memory_of(scenario, plan), stage_layout(scenario.architecture, uniform_int(scenario.parallel.pp))
    batch = _profiled_pass(scenario, plan)
    profiled = (batch, pass_work(batch))
    base = _profiled_ledger(scenario, plan, profiled, layout)
    room = _room(scenario, plan, base)
    block_bytes = stage_cache_bytes(batch, layout, memory.block) - stage_cache_bytes(batch, layout, 0.0)
    block_bytes = where(block_bytes > 0, block_bytes, stage_cache_bytes(batch, layout, memory.block))
    blocks = maximum(floor(room / block_bytes), 0.0) if plan.blocks is None else plan.blocks
    pool = KvPool(blocks, block_bytes, memory.block, base, profiled, layout)
    least = pool.blocks_of(plan.input_tokens + plan.output_tokens + drafted_tokens(plan.speculative))
    device = scenario.cluster.device.device_memory
    if memory.utilization is None or memory.of == STATIC:  # activations come out of what the engine left free
        left = maximum(device.capacity - base.weights - base.communication - room, 0.0)
        base = replace(base, activations=minimum(base.activations, left))
    kv_cache = maximum(blocks, least) * block_bytes
    used = base.weights + base.activations + base.communication + (room if plan.blocks is None else kv_cache)
    ledger = replace(base, kv_cache=kv_cache, reserve=maximum(device.capacity - used, 0.0))
    return replace(pool, ledger=with_expert_pool(ledger, *profiled, device.capacity))


def memory_of(scenario: Scenario, plan: Serving) -> EngineMemory:
    """Return the engine's memory. Of no engine in particular, all of the device but the framework's reserve."""
    if plan.memory is not None:
        return plan.memory
    return EngineMemory(utilization=1.0, process=scenario.framework.reserve)


@equation
def _room(scenario: Scenario, plan: Serving, base: Ledger) -> Bytes:
    """Return the bytes that are left for the KV cache, negative where there are none.

        room = share * (visible - shared) - taken

    visible: what the driver reports.
    share: of it, that the engine may use. Of that go weights, activations, buffers,
    graphs and what a process and a rank take besides them (`total`), a share of what they leave free (`free`), or all
    but the activations (`static`). Without a share it keeps a reserve instead.
    """
    memory, parallel = memory_of(scenario, plan), scenario.parallel
    reserve = memory.reserve
    visible = scenario.cluster.device.device_memory.visible_capacity
    ranks = parallel.tp * parallel.pp * parallel.cp
    outside = memory.process + where(parallel.devices > 1, memory.rank, 0.0)
    taken, share = base.weights + outside, memory.utilization
    shared: Bytes = 0.0
    if share is None:
        budget = profiled_tokens(plan)
        free = reserve.fixed + reserve.token * maximum(budget, PROFILED_TOKENS) + reserve.rank * ranks
        free = free + reserve.graph_sequence * largest_graph(scenario, plan)
        share, taken = 1.0, taken + free
    elif memory.of != STATIC:
        taken = taken + base.activations + base.communication
        if memory.graphs_in_budget:
            taken = taken + graph_bytes(scenario, plan)
        if memory.of == FREE:
            shared, taken = taken, 0.0
    return share * (visible - shared) - taken


def _profiled_pass(scenario: Scenario, plan: Serving) -> Pass:
    """Return the largest step of an engine, as prompts: `token_budget` tokens, of one micro-batch."""
    tokens = profiled_tokens(plan)
    context = prompt_context(scenario, 1.0, tokens / plan.micro_batches, tokens / plan.micro_batches)
    return Pass((context,), plan.micro_batches, draft_passes(plan.speculative))


def profiled_tokens(plan: Serving) -> Count:
    """Return the tokens of an engine's largest step."""
    return PROFILED_TOKENS if plan.scheduler.token_budget is None else plan.scheduler.token_budget


@equation
def _profiled_ledger(
    scenario: Scenario, plan: Serving, profiled: tuple[Pass, PassWork], layout: Sequence[Stage]
) -> Ledger:
    """Return the ledger of that step without a KV cache. After it, hidden states and logits are alive together.

    activations = max(ledger.activations, hidden + sampling) + memory.workspace
    sampling = sequences * architecture.vocabulary * memory.logit
    """
    ledger = inference_ledger([profiled], layout, CachedSequences(0.0, 1.0))
    architecture, context, memory = scenario.architecture, profiled[0].parts[0], memory_of(scenario, plan)
    sequences = minimum(
        0.0 if plan.scheduler.max_num_seqs is None else plan.scheduler.max_num_seqs, profiled_tokens(plan)
    )
    sampling = sequences * architecture.vocabulary * memory.logit
    hidden = profiled_tokens(plan) * architecture.hidden * context.residual
    activations = maximum(ledger.activations, hidden + sampling) + memory.workspace
    return replace(ledger, activations=activations)


def largest_graph(scenario: Scenario, plan: Serving) -> Count:
    """Return the sequences of the largest CUDA graph, none without graphs."""
    engine = scenario.framework.engine
    if engine is None or not engine.graph_sizes:
        return 0.0
    limit = float(engine.graph_sizes[-1]) if plan.scheduler.graph_limit is None else plan.scheduler.graph_limit
    return limit if plan.scheduler.max_num_seqs is None else minimum(limit, plan.scheduler.max_num_seqs)


def graph_bytes(scenario: Scenario, plan: Serving) -> Bytes:
    """Return the memory of an engine's CUDA graphs: first_graph + graph * graphs [B]."""
    engine = scenario.framework.engine
    if engine is None or plan.scheduler.max_num_seqs is None:
        return 0.0
    graphs, memory = engine.graphs(plan.scheduler.max_num_seqs, profiled_tokens(plan)), memory_of(scenario, plan)
    return where(graphs > 0, memory.first_graph, 0.0) + memory.graph * graphs


@equation
def adapter_load(scenario: Scenario, plan: Serving) -> Seconds:
    """Return how long a request waits on the mean until its adapter is in device memory.

    load = missed * one / link.bandwidth
    one := bytes of an adapter on the rank with most layers
    """
    served = plan.adapters
    if served is None or not served.are_any or served.held >= served.count:
        return 0.0
    batch = _profiled_pass(scenario, plan)
    layout = stage_layout(scenario.architecture, uniform_int(scenario.parallel.pp))
    link = scenario.cluster.node.device.links[scenario.cluster.node.host.link]
    kinds = pass_work(batch).body.layers
    own = [sum_of(each.local for each in kind.parameters if each.name.startswith(SERVED)) for kind in kinds]
    held = max(sum_of(count * size for count, size in zip(stage.layers, own, strict=True)) for stage in layout)
    one, missed = held * batch.parts[0].residual / served.held, served.missed
    return missed * one / link.bandwidth
