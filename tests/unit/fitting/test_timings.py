"""Which of a row's times a fit is of: in a graph where the framework's engine replays graphs, else one by one."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from small_world import write
from synthetic import LAUNCH, stream_table

from costmodel.errors import InputError, MeasurementError
from costmodel.fitting.calibrate import calibrate
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import read_tables, timed_for

SOONER = 2e-6  # seconds by which a kernel in a graph ends sooner
SHORT = 30e-6
ROWS = 200
FAMILY = "elementwise/activation"


def with_graphs(world, late=(), name="graphs.csv"):
    """Write known times, those of short kernels in a graph as well. late: rows that waited for the host a second."""
    with stream_table(world, "plain.csv", rows=ROWS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [",".join([*rows[0], "graph_us", "queued"])]
    for place, row in enumerate(rows):
        time = float(row["time_us"])
        graph = f"{time - 1e6 * SOONER:.6g}" if time < 1e6 * SHORT else ""
        row["framework"] = "lib 1.0"
        row["time_us"] = "1e6" if place in late else row["time_us"]
        lines.append(",".join([*row.values(), graph, str(int(place not in late))]))
    return write(world, name, "\n".join(lines) + "\n")


def fitted(world, table, framework=None):
    run = calibrate([table], "chip", world / "mine.yaml", [world], framework)
    return run, run.outcome.evidence.fitted[FAMILY].estimate.values["launch"]


def test_a_fit_is_of_times_in_a_graph_where_the_engine_replays_graphs(world):
    table = with_graphs(world)
    for framework, launch in (("pytorch", LAUNCH), ("vllm", LAUNCH - SOONER)):
        run, found = fitted(world, table, framework)
        assert found == pytest.approx(launch, rel=0.07), framework
        assert run.outcome.evidence.fitted[FAMILY].rows == ROWS
    assert "--framework vllm" in (world / "mine.yaml").read_text()
    assert "cuda_graph_l2flush" in (world / "mine.yaml").read_text()


def test_rows_without_a_time_in_a_graph_are_as_they_were(world):
    table = read_tables(stream_table(world, "plain.csv"))
    for graphs in (False, True):
        chosen = timed_for(table, graphs=graphs)
        np.testing.assert_array_equal(chosen.seconds, table.seconds)
        assert chosen.text("timing").tolist() == table.text("timing").tolist()


def test_a_kernel_that_waited_for_the_host_has_its_time_in_a_graph_or_none(world, catalogue):
    table = read_tables(with_graphs(world, late=range(40)))
    chosen = timed_for(table, graphs=False)
    known = np.isfinite(table.graph_seconds[:40])
    assert 0 < known.sum() < 40
    np.testing.assert_array_equal(chosen.seconds[:40][known], table.graph_seconds[:40][known])
    np.testing.assert_array_equal(chosen.seconds[40:], table.seconds[40:])
    _, left_out = map_rows(chosen, catalogue)
    (late,) = [one for one in left_out if "waited for the host" in one.reason]
    assert late.rows.tolist() == np.flatnonzero(~known).tolist()


def test_a_message_counts_whenever_it_was_queued(world, catalogue):
    columns = "row_id,device,op,sub_op,dtype_in,bytes,world_size,gpus_per_node,time_us,queued"
    text = f"{columns}\n1,CHIP,all_reduce,,bf16,1048576,2,2,12.5,0\n"
    rows = read_tables(write(world, "t.csv", text))
    _, left_out = map_rows(rows, catalogue)
    assert not [one for one in left_out if "waited" in one.reason]


@pytest.mark.parametrize(
    ("cells", "told"),
    [("-2,1", "'-2' is no time"), ("soon,1", "'soon' is not a number"), ("1,maybe", "'maybe' is neither 0 nor 1")],
)
def test_a_time_in_a_graph_and_a_mark_are_checked(world, cells, told):
    head = "device,op,sub_op,dtype_in,m,n,time_us,graph_us,queued"
    path = write(world, "t.csv", f"{head}\nCHIP,elementwise,gelu,bf16,4,4,3,{cells}\n")
    with pytest.raises(MeasurementError, match=told):
        read_tables(path)


def test_a_framework_that_no_file_describes_is_an_error(world):
    with pytest.raises(InputError, match="vlm"):
        fitted(world, with_graphs(world), "vlm")
