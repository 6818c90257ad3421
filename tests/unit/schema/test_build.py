"""Records are built from files by name: no key of a file may get lost on the way."""

from __future__ import annotations

import pytest

from costmodel import hardware
from costmodel.records import fields
from costmodel.schema import device, framework, mixers, model, patterns, workload
from costmodel.schema.strict import Strict
from costmodel.schema.workload import SimulationFile, SlowdownFile
from costmodel.workload import architecture, plans, scenario, simulation
from costmodel.workload.patterns import Axis

GROUP_SCALING = {f"{stored}_{part}" for stored in ("weight", "kv") for part in ("group", "scale", "zero")}
PROVENANCE = {"sources", "aliases", "announced", "forecast", "die", "calibration", "plausible"}
PAIRS: list[tuple[type[Strict], type, set[str]]] = [
    (device.DeviceFile, hardware.Device, set()),
    (device.MathUnitFile, hardware.MathUnit, {"peak"}),  # becomes a rate per processor and cycle
    (device.LinkFile, hardware.Link, set()),
    (device.PowerFile, hardware.Power, {"limit"}),  # in place of `tdp`
    (device.PriceFile, hardware.Price, set()),
    (device.NodeFile, hardware.Node, set()),
    (device.NicFile, hardware.Nic, set()),
    (device.HostFile, hardware.Host, {"cpu"}),  # for people
    (device.ClusterFile, hardware.Cluster, set()),
    (device.NetworkFile, hardware.Network, {"latency"}),
    (model.ModelFile, architecture.Architecture, {"quantization"}),
    (model.MtpFile, architecture.Mtp, set()),
    (model.LayerFile, architecture.Layer, set()),
    (model.DenseFile, architecture.DenseFfn, {"type"}),
    (model.MoeFile, architecture.MoeFfn, {"type"}),
    (mixers.AttentionFile, architecture.Attention, {"type"}),
    (mixers.KernelTraitsFile, architecture.KernelTraits, set()),
    (mixers.HeadRouteFile, architecture.HeadRoute, set()),
    (mixers.MlaFile, architecture.Mla, {"type"}),
    (mixers.RecurrenceFile, architecture.Recurrence, {"type"}),
    (mixers.MemoriesFile, architecture.Memories, set()),
    (mixers.NeuralMemoryFile, architecture.NeuralMemory, {"type"}),
    (mixers.ConvolutionFile, architecture.Convolution, {"type"}),
    (mixers.SpectralFile, architecture.Spectral, {"type"}),
    (mixers.GateFile, architecture.Gate, {"type"}),
    (mixers.MilPoolFile, architecture.MilPool, {"type"}),
    (patterns.AxisFile, Axis, set()),
    (
        framework.FrameworkFile,
        scenario.Framework,
        {
            "description",
            "release",
            "training",
            "low_latency_experts",
            "mxfp8_experts",
            "eager_prompts",
            "expert_spread",
        },
    ),
    (framework.TileFile, scenario.Tile, set()),
    (framework.PrecisionFile, scenario.Precision, {"name", *GROUP_SCALING}),
    (workload.ParallelFile, scenario.Parallelism, set()),
    (workload.CommunicationFile, scenario.Communication, set()),
    (workload.RoutingFile, scenario.Routing, set()),
    (workload.OffloadFile, scenario.Offload, set()),
    (
        workload.OptimizerFile,
        plans.Sharding,
        {"name", "newton_schulz", "zero", "shard_group", "gradient_communication"},
    ),
    (workload.PlacementFile, plans.Placement, set()),
    (SimulationFile, simulation.Simulation, set()),
    (SlowdownFile, simulation.Slowdown, set()),
    (workload.SpeculativeFile, plans.Speculative, {"model"}),
    (workload.DenoisingFile, plans.Denoising, set()),
    (workload.ImagesFile, plans.Images, set()),
]
PHASES: list[tuple[type[workload.ScenarioFile], type, set[str]]] = [
    (workload.TrainingFile, plans.Training, {"optimizer", "anchor"}),  # an anchor is of the scenario
    (workload.PrefillFile, plans.Prefill, {"anchor"}),
    (workload.DecodeFile, plans.Decode, {"anchor"}),
    (workload.GenerateFile, plans.Generate, {"anchor"}),
    (workload.ServingFile, plans.Serving, {"prefill", "decode", "chunk_tokens", "anchor"}),  # pools: another record
    (workload.ExpertBoundFile, plans.ExpertBound, set()),
]


@pytest.mark.parametrize(("file", "record", "others"), PAIRS, ids=lambda value: getattr(value, "__name__", None))
def test_every_key_is_a_field_of_its_record_or_used_otherwise(
    file: type[Strict], record: type, others: set[str]
) -> None:
    keys = set(file.model_fields) - PROVENANCE
    assert others <= keys
    assert keys - others <= set(fields(record))


@pytest.mark.parametrize(("file", "record", "others"), PHASES, ids=lambda value: getattr(value, "__name__", None))
def test_every_key_of_a_phase_is_a_field_of_its_plan(
    file: type[workload.ScenarioFile], record: type, others: set[str]
) -> None:
    keys = set(file.model_fields) - set(workload.ScenarioFile.model_fields) - {"phase"}
    assert keys - others <= set(fields(record))
