"""A schema of the manifests that plans emit: no other key, and values as the references have them.

Kubernetes API reference 1.31 (apps/v1 Deployment, core/v1 Service, Container, Probe, Volume), LeaderWorkerSet
leaderworkerset.x-k8s.io/v1, and the Compose specification (services, deploy, volumes).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Port = Annotated[int, Field(ge=1, le=65535)]
PortName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=15)]
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Labels = dict[LabelKey, LabelValue]
Path = Annotated[str, Field(pattern=r"^/[^:]*$")]
Image = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$")]
Whole = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: DnsLabel
    labels: Labels = {}


class TemplateMetadata(Strict):
    labels: Annotated[Labels, Field(min_length=1)]


class HttpGet(Strict):
    path: Path
    port: Port


class Probe(Strict):
    httpGet: HttpGet  # noqa: N815  Kubernetes' names here and below
    periodSeconds: Whole = 10  # noqa: N815
    failureThreshold: Whole = 3  # noqa: N815


class ContainerPort(Strict):
    name: PortName
    containerPort: Port  # noqa: N815


class Resources(Strict):
    limits: dict[LabelKey, Whole]
    requests: dict[LabelKey, Whole]

    @model_validator(mode="after")
    def extended_ones_are_not_overcommitted(self) -> Resources:
        assert self.limits == self.requests, "extended resources have equal requests and limits"
        return self


class Mount(Strict):
    name: DnsLabel
    mountPath: Path  # noqa: N815


class Container(Strict):
    name: DnsLabel
    image: Image
    command: Annotated[list[str], Field(min_length=1)]
    args: list[str]
    ports: list[ContainerPort]
    resources: Resources
    volumeMounts: list[Mount]  # noqa: N815
    readinessProbe: Probe | None = None  # noqa: N815
    startupProbe: Probe | None = None  # noqa: N815


class EmptyDir(Strict):
    medium: Literal["", "Memory"] = ""


class Volume(Strict):
    name: DnsLabel
    emptyDir: EmptyDir  # noqa: N815


class PodSpec(Strict):
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume]

    @model_validator(mode="after")
    def mounts_are_of_volumes(self) -> PodSpec:
        mounts = {mount.name for each in self.containers for mount in each.volumeMounts}
        assert mounts == {each.name for each in self.volumes}
        return self


class Template(Strict):
    metadata: TemplateMetadata
    spec: PodSpec


class Selector(Strict):
    matchLabels: Annotated[Labels, Field(min_length=1)]  # noqa: N815


class DeploymentSpec(Strict):
    replicas: Whole
    selector: Selector
    template: Template

    @model_validator(mode="after")
    def pods_are_selected(self) -> DeploymentSpec:
        assert self.selector.matchLabels.items() <= self.template.metadata.labels.items()
        return self


class Deployment(Strict):
    apiVersion: Literal["apps/v1"]  # noqa: N815
    kind: Literal["Deployment"]
    metadata: Metadata
    spec: DeploymentSpec


class Group(Strict):
    size: Whole
    restartPolicy: Literal["RecreateGroupOnPodRestart", "None"]  # noqa: N815
    leaderTemplate: Template  # noqa: N815
    workerTemplate: Template  # noqa: N815


class GroupsSpec(Strict):
    replicas: Whole
    leaderWorkerTemplate: Group  # noqa: N815


class LeaderWorkerSet(Strict):
    apiVersion: Literal["leaderworkerset.x-k8s.io/v1"]  # noqa: N815
    kind: Literal["LeaderWorkerSet"]
    metadata: Metadata
    spec: GroupsSpec


class ServicePort(Strict):
    name: PortName
    port: Port
    targetPort: Port | PortName  # noqa: N815


class ServiceSpec(Strict):
    selector: Annotated[Labels, Field(min_length=1)]
    ports: Annotated[list[ServicePort], Field(min_length=1)]


class Service(Strict):
    apiVersion: Literal["v1"]  # noqa: N815
    kind: Literal["Service"]
    metadata: Metadata
    spec: ServiceSpec


class Object(RootModel[Deployment | LeaderWorkerSet | Service]):
    root: Annotated[Deployment | LeaderWorkerSet | Service, Field(discriminator="kind")]


class Reserved(Strict):
    driver: str
    device_ids: Annotated[list[Annotated[str, Field(pattern=r"^\d+$")]], Field(min_length=1)]
    capabilities: Annotated[list[str], Field(min_length=1)]


class Reservations(Strict):
    devices: list[Reserved]


class ComposeResources(Strict):
    reservations: Reservations


class Deploy(Strict):
    resources: ComposeResources


class ComposeService(Strict):
    image: Image
    entrypoint: list[str]
    command: list[str]
    network_mode: Literal["host", "none", "bridge"]
    ipc: Literal["host", "shareable"]
    volumes: list[Annotated[str, Field(pattern=r"^[a-z0-9_-]+:/\S+$")]]
    profiles: list[Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]+$")]] = []
    deploy: Deploy | None = None
    devices: list[Path] = []
    environment: dict[str, str] = {}


class Volumes(Strict):
    external: bool = False


class Compose(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    services: Annotated[dict[str, ComposeService], Field(min_length=1)]
    volumes: dict[str, Volumes]

    @model_validator(mode="after")
    def volumes_are_declared(self) -> Compose:
        named = {each.partition(":")[0] for one in self.services.values() for each in one.volumes}
        assert named <= set(self.volumes)
        return self
