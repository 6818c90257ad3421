"""Clusters as measurements had them: times before failures and narrow fabrics slow them down."""

from __future__ import annotations

from costmodel.hardware import Cluster
from costmodel.network.grids import GRIDS
from costmodel.records import replace


def nominal_cluster(cluster: Cluster, topology: str | None = None) -> Cluster:
    """Return the cluster as measurements had it: nothing has failed, no uplink is narrower than what it joins.

    Grids and optical circuits count as one switch.

    topology: replaces the fabric's own, null keeps it.
    """
    network = cluster.network
    if network is None:
        return cluster
    planes = network.planes if topology is None else 1.0
    nominal = replace(network, failed=(), pxn=True, oversubscription=1.0, planes=planes)
    if network.topology in (*GRIDS, "ocs"):
        nominal = replace(nominal, topology="unspecified", planes=1.0)
    return replace(cluster, network=nominal if topology is None else replace(nominal, topology=topology))
