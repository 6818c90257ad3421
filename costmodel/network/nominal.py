"""Clusters as measurements found them, for times that failures and narrow fabrics are not yet part of."""

from __future__ import annotations

from dataclasses import replace

from costmodel.hardware import Cluster


def nominal_cluster(cluster: Cluster, topology: str | None = None) -> Cluster:
    """Return the cluster as measurements found it: nothing has failed, no uplink is narrower than what it joins.

    topology: another one for the fabric, null for its own.
    """
    network = cluster.network
    if network is None:
        return cluster
    planes = network.planes if topology is None else 1.0
    whole = replace(network, failed=(), pxn=True, oversubscription=1.0, planes=planes)
    return replace(cluster, network=whole if topology is None else replace(whole, topology=topology))
