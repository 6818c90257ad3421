"""Manifests of Kubernetes and Docker Compose that start serving engines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from costmodel.planning.launch.deployment import BOTH, Deployment, Pool
from costmodel.planning.launch.options import Engine, engine
from costmodel.planning.launch.scripts import PORT, command, comments, config_lines, shell

_CACHE = "/root/.cache/huggingface"
_RANK = 'export HEAD="$LWS_LEADER_ADDRESS" NODE_RANK="$LWS_WORKER_INDEX"'  # of LeaderWorkerSet, kubernetes-sigs/lws
Manifest = dict[str, Any]


def kubernetes(key: str, deployed: Deployment) -> str:
    """Return the manifests: a Deployment a pool, a LeaderWorkerSet where an engine has several nodes, Services."""
    made = engine(key)
    objects = [each for pool in deployed.pools for each in _objects(made, deployed, pool)]
    return "\n".join([*comments(deployed, made), _yaml(*objects), ""])


def compose(key: str, deployed: Deployment) -> str:
    """Return the Compose file of one node: a service for each of its engines, a profile for each of two pools."""
    made = engine(key)
    services = {}
    for pool in deployed.pools:
        for number in range(min(pool.engines_a_node, pool.engines)):
            profile = {"profiles": [pool.role]} if len(deployed.pools) > 1 else {}
            services[f"{pool.role}-{number}"] = _service(made, deployed, pool, number) | profile
    document = {"name": _name(deployed), "services": services, "volumes": {"models": {}}}
    return "\n".join([*comments(deployed, made), _yaml(document), ""])


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and everything in full."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  the library's signature
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(*documents: Manifest) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False).rstrip()


def _objects(made: Engine, deployed: Deployment, pool: Pool) -> Iterator[Manifest]:
    name = f"{_name(deployed)}-{pool.role}"
    labels = {"app.kubernetes.io/name": name}
    template = {"metadata": {"labels": labels}, "spec": _pod(made, deployed, pool)}
    if pool.nodes == 1:
        yield {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": pool.engines, "selector": {"matchLabels": labels}, "template": template},
        }  # fmt: skip
    else:
        leader = {**labels, "role": "leader"}
        yield {
            "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": name},
            "spec": {
                "replicas": pool.engines,
                "leaderWorkerTemplate": {
                    "size": pool.nodes, "restartPolicy": "RecreateGroupOnPodRestart",
                    "leaderTemplate": {"metadata": {"labels": leader}, "spec": template["spec"]},
                    "workerTemplate": template,
                },
            },
        }  # fmt: skip
        labels = leader
    yield {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": PORT}]},
    }  # fmt: skip


def _pod(made: Engine, deployed: Deployment, pool: Pool) -> Manifest:
    gpus = {"amd.com/gpu" if pool.is_amd else "nvidia.com/gpu": min(pool.devices, pool.node_size)}
    container: Manifest = {
        "name": made.key, "image": made.image, "command": ["bash", "-c"], "args": [_started(made, deployed, pool)],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"limits": gpus, "requests": gpus},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "models", "mountPath": _CACHE}],
    }  # fmt: skip
    if pool.nodes == 1:
        probe = {"httpGet": {"path": "/health", "port": PORT}}
        container["readinessProbe"] = {**probe, "periodSeconds": 10}
        container["startupProbe"] = {**probe, "periodSeconds": 10, "failureThreshold": 360}
    memory = {"name": "shm", "emptyDir": {"medium": "Memory"}}
    return {"containers": [container], "volumes": [memory, {"name": "models", "emptyDir": {}}]}


def _started(made: Engine, deployed: Deployment, pool: Pool, port: int = PORT) -> str:
    """Return the lines of a shell that start one engine, or one node's part of it."""
    several = pool.nodes > 1
    lines = [*([_RANK] if several else []), *config_lines(made, deployed, pool)]
    if several and made.key == "vllm":
        lines.append('headless=(); [[ "$NODE_RANK" == 0 ]] || headless=(--headless)')
    words = [*command(made, deployed, pool, port), "--host", "0.0.0.0"]
    lines += shell(words, indent="")
    if several and made.key == "vllm":
        lines[-1] += ' "${headless[@]}"'
    return "\n".join(lines)


def _service(made: Engine, deployed: Deployment, pool: Pool, number: int) -> Manifest:
    port = PORT + number
    of = [str(each) for each in range(number * pool.devices, min((number + 1) * pool.devices, pool.node_size))]
    service: Manifest = {
        "image": made.image, "entrypoint": ["bash", "-c"], "command": [_started(made, deployed, pool, port)],
        "network_mode": "host", "ipc": "host", "volumes": [f"models:{_CACHE}"],
    }  # fmt: skip
    if pool.is_amd:
        return service | {"devices": ["/dev/kfd", "/dev/dri"], "environment": {"HIP_VISIBLE_DEVICES": ",".join(of)}}
    reserved = {"driver": "nvidia", "device_ids": of, "capabilities": ["gpu"]}
    return service | {"deploy": {"resources": {"reservations": {"devices": [reserved]}}}}


def _name(deployed: Deployment) -> str:
    """Return the model's name as Kubernetes takes one: letters, digits and dashes, 40 characters at most."""
    plain = re.sub(r"[^a-z0-9]+", "-", deployed.model.rpartition("/")[2].lower()).strip("-")
    return plain[:40].strip("-") or BOTH
