"""What an agent is told at start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.settings import Settings
from machinery.client.kubeconfig import ClientConfig

LEASE_NAMESPACE = "kube-node-lease"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One node: who it is, where its things lie, how it reaches the API server and its runtime.

    Attributes:
        runtime_socket: where CRI is served.
        cert_file, key_file: what the agent's own server shows; the same certificate is its identity as a client.
        ca_file: signs the API server's certificate and its clients'.
        proxy: whether this agent routes services on this node.
        credential_providers: a CredentialProviderConfig, and the folder of the programs it names.
        rotate_certificates: whether the agent asks for new certificates before its own run out.
        settings: what may change while the agent runs.
        config_file, config_dir: where a KubeletConfiguration and what is laid over it are; followed while it runs.
        configuration: what they held at the start.
        fixed_settings: settings given otherwise, by flags, which win over the files.
        cpu_manager_policy: static gives whole CPUs to those who ask for them; none does not.
    """

    client: ClientConfig
    node_name: str
    node_ip: str
    data_dir: Path
    runtime_socket: Path
    cert_file: Path
    key_file: Path
    ca_file: Path
    address: str = "0.0.0.0"  # noqa: S104 - the API server may be on another machine; clients must show a certificate
    port: int = 10250
    pod_cidr: str = "10.244.0.0/24"
    node_network: str = "auto"  # how other nodes' pods are reached: auto, direct, vxlan, wireguard, or none of ours
    load_balancer: str = ""  # load balancers' addresses that nodes announce by ARP: a range, "" for none
    cluster_cidr: str = ""  # all nodes' pods; this node's alone when left out
    service_cidr: str = "10.96.0.0/16"
    bridge: str = "wherry0"
    static_pod_dir: Path | None = None
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()
    proxy: bool = True
    cpu_manager_policy: str = "none"
    rotate_certificates: bool = False
    credential_providers: tuple[Path, Path] | None = None
    settings: Settings = field(default_factory=Settings)
    config_file: Path | None = None
    config_dir: Path | None = None
    configuration: Mapping[str, Any] = field(default_factory=dict)
    fixed_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pods_dir(self) -> Path:
        """Volumes and files of each pod, by uid."""
        return self.data_dir / "pods"

    @property
    def device_plugin_dir(self) -> Path:
        """Where device plugins register, and put their sockets."""
        return self.data_dir / "device-plugins"

    @property
    def pod_resources_dir(self) -> Path:
        """Where the PodResources API is served."""
        return self.data_dir / "pod-resources"

    @property
    def plugins_registry(self) -> Path:
        """Where other plugins of the node put the sockets by which they register."""
        return self.data_dir / "plugins_registry"

    @property
    def plugins_dir(self) -> Path:
        """Where plugins have their own sockets, and storage drivers' volumes are staged."""
        return self.data_dir / "plugins"

    @property
    def seccomp_dir(self) -> Path:
        """Where the seccomp profiles are that pods name by Localhost."""
        return self.data_dir / "seccomp"

    @property
    def logs_dir(self) -> Path:
        """Container logs, one folder a pod."""
        return self.data_dir / "pod-logs"
