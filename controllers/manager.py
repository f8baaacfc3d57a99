"""The controller manager: all control loops in one process, on one set of informers, led by one of several replicas."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from controllers.attach_detach import AttachDetachController
from controllers.bootstrap_token import BootstrapTokenController
from controllers.certificate_approver import CertificateApprover
from controllers.certificate_signer import Authority, CertificateCleaner, CertificateSigner
from controllers.clusterrole_aggregation import ClusterRoleAggregationController
from controllers.cronjob import CronJobController
from controllers.daemonset import DaemonSetController
from controllers.deployment import DeploymentController
from controllers.device_taint_eviction import DeviceTaintEvictionController
from controllers.disruption import DisruptionController
from controllers.endpoints import EndpointsController
from controllers.endpointslice import EndpointSliceController
from controllers.endpointslice_mirroring import EndpointSliceMirroringController
from controllers.ephemeral_volume import EphemeralVolumeController
from controllers.garbage_collector import GarbageCollector
from controllers.horizontal_pod_autoscaler import HorizontalPodAutoscalerController
from controllers.informers import InformerFactory
from controllers.job import JobController
from controllers.load_balancer import LoadBalancerController
from controllers.local_path import PROVISIONER as LOCAL_PATH_PROVISIONER
from controllers.local_path import Settings as LocalPath
from controllers.local_path_provisioner import LocalPathProvisioner
from controllers.metrics import MetricsServer, Observed
from controllers.namespace import NamespaceController
from controllers.node_ipam import NodeIPAMController
from controllers.node_lifecycle import NodeLifecycleController
from controllers.node_zones import EvictionRates
from controllers.pod_gc import PodGCController
from controllers.policy_status import PolicyStatusController
from controllers.reconciler import Controller
from controllers.replicaset import ReplicaSetController, ReplicationControllerController
from controllers.resource_claim import ResourceClaimController
from controllers.resourcequota import ResourceQuotaController
from controllers.root_ca import RootCAController
from controllers.service_addresses import ServiceAddressController, ServiceRangeController
from controllers.serviceaccount import ServiceAccountController
from controllers.serviceaccount_token import ServiceAccountTokenController
from controllers.serving_approver import ServingCertificateApprover
from controllers.stale_disruption import STALE_SECONDS, StaleDisruptionController
from controllers.statefulset import StatefulSetController
from controllers.taint_eviction import TaintEvictionController
from controllers.ttl_after_finished import TTLAfterFinishedController
from controllers.volume_binder import VolumeBinder
from controllers.volume_expand import VolumeExpandController
from controllers.volume_protection import ClaimProtectionController, VolumeProtectionController
from machinery.client.events import EventRecorder
from machinery.client.kubeconfig import ClientConfig
from machinery.client.leaderelection import LeaderElector
from machinery.client.rest import Client

log = logging.getLogger(__name__)

LEASE_NAME = "kube-controller-manager"


@dataclass(frozen=True, slots=True)
class Options:
    """What can be set; the defaults are kube-controller-manager's."""

    identity: str = ""
    """The name in the leader's lease; one that is stable over restarts takes its own lease back without a wait."""
    node_monitor_grace_seconds: float = 40.0
    """How long a node may be silent before it is called Unknown."""
    eviction_rates: EvictionRates = field(default_factory=EvictionRates)
    """How fast pods are driven from nodes that are away."""
    terminated_pod_threshold: int = 12_500
    """How many ended pods are kept; 0 keeps all."""
    stale_disruption_seconds: float = STALE_SECONDS
    """How long a pod that was to be disrupted and was not is called so."""
    vanished_node_seconds: float = 40.0
    """How long the pods of a Node that was deleted wait for it to register anew."""
    local_path: LocalPath | None = None
    """Where the storage class `local-path` keeps its folders on each node; None: there is no such class."""
    authority: Authority | None = None
    """The CA that signs requested certificates; None: nobody here does."""
    cluster_cidrs: tuple[str, ...] = ()
    """From where nodes that name no range for their pods get one; none: they get none."""
    autoscaler_sync_seconds: float = 15.0
    """How often autoscalers look at their metrics."""
    load_balancer: str = ""
    """Where Services of type LoadBalancer are reached: "nodes" at the nodes' own addresses, a range: each at an address
    of its own out of it; "": somebody else sees to them."""
    service_cidrs: tuple[str, ...] = ()
    """From where the API server takes the addresses of Services."""
    metrics_address: str = ""
    """Serve /metrics and /healthz at this "host:port"; nowhere when it is empty."""
    lease_seconds: tuple[float, float, float] = (15.0, 10.0, 2.0)
    """The leader's lease: how long it holds, how long the leader tries to renew it, how often anybody tries."""


async def run(config: ClientConfig, *, leader_elect: bool = True, options: Options | None = None) -> None:
    """Run all controllers until cancelled; with `leader_elect`, only while we hold the lease."""
    options, observed = options or Options(), Observed(LEASE_NAME)
    async with Client(config, user_agent="wherry-controller-manager") as client, asyncio.TaskGroup() as group:
        if options.metrics_address:
            serving = group.create_task(MetricsServer(observed).run(options.metrics_address), name="metrics")
        if leader_elect:
            duration, deadline, period = options.lease_seconds
            elector = LeaderElector(
                client, LEASE_NAME, identity=options.identity, lease_duration_seconds=duration,
                renew_deadline_seconds=deadline, retry_period_seconds=period,
            )  # fmt: skip
            await elector.run(lambda: _run_controllers(client, config, options, observed))
        else:
            await _run_controllers(client, config, options, observed)
        if options.metrics_address:
            serving.cancel()


async def _run_controllers(client: Client, config: ClientConfig, options: Options, observed: Observed) -> None:
    informers = InformerFactory(client)
    controllers = make_controllers(client, config, informers, options)
    observed.controllers, observed.leads = controllers, True
    try:
        async with asyncio.TaskGroup() as group:
            informers.start(group)
            await informers.synced()
            log.info("caches are synced; starting %s", ", ".join(controller.name for controller in controllers))
            for controller in controllers:
                group.create_task(controller.run(), name=controller.name)
    finally:
        observed.controllers, observed.leads = (), False


def make_controllers(
    client: Client, config: ClientConfig, informers: InformerFactory, options: Options
) -> list[Controller[Any]]:
    """Return all controllers, their handlers registered, not yet running."""

    def recorder(component: str) -> EventRecorder:
        return EventRecorder(client, component)

    found: list[Controller[Any]] = [
        ClusterRoleAggregationController(client, informers),
        CronJobController(client, informers, recorder("cronjob-controller")),
        DaemonSetController(client, informers, recorder("daemonset-controller")),
        DeploymentController(client, informers, recorder("deployment-controller")),
        DisruptionController(client, informers, recorder("controllermanager")),
        EndpointsController(client, informers),
        EndpointSliceController(client, informers, recorder("endpoint-slice-controller")),
        GarbageCollector(client, informers, recorder("garbage-collector-controller")),
        HorizontalPodAutoscalerController(
            client, informers, recorder("horizontal-pod-autoscaler"), sync_seconds=options.autoscaler_sync_seconds
        ),
        JobController(client, informers, recorder("job-controller")),
        NamespaceController(client, informers),
        NodeLifecycleController(
            client,
            informers,
            recorder("node-controller"),
            grace_seconds=options.node_monitor_grace_seconds,
            rates=options.eviction_rates,
        ),
        PodGCController(
            client,
            informers,
            terminated_threshold=options.terminated_pod_threshold,
            quarantine_seconds=options.vanished_node_seconds,
        ),
        ReplicaSetController(client, informers, recorder("replicaset-controller")),
        ReplicationControllerController(client, informers, recorder("replication-controller")),
        ResourceQuotaController(client, informers),
        RootCAController(client, config, informers),
        ServiceAccountController(client, informers),
        StaleDisruptionController(client, informers, stale_seconds=options.stale_disruption_seconds),
        StatefulSetController(client, informers, recorder("statefulset-controller")),
        TaintEvictionController(client, informers, recorder("taint-eviction-controller")),
        TTLAfterFinishedController(client, informers),
        *_of_volumes(client, informers, options),
        *_of_access(client, config, informers, options),
        *_of_networks(client, informers, options),
    ]
    return found


def _of_access(
    client: Client, config: ClientConfig, informers: InformerFactory, options: Options
) -> list[Controller[Any]]:
    found: list[Controller[Any]] = [
        BootstrapTokenController(client, informers),
        CertificateApprover(client, informers),
        ServingCertificateApprover(client, informers),
        CertificateCleaner(client, informers),
        PolicyStatusController(client, informers),
        ServiceAccountTokenController(client, config, informers),
    ]
    if options.authority is not None:
        found.append(CertificateSigner(client, informers, authority=options.authority))
    return found


def _of_networks(client: Client, informers: InformerFactory, options: Options) -> list[Controller[Any]]:
    found: list[Controller[Any]] = [
        EndpointSliceMirroringController(
            client, informers, EventRecorder(client, "endpoint-slice-mirroring-controller")
        ),
        ResourceClaimController(client, informers, EventRecorder(client, "resource_claim")),
        DeviceTaintEvictionController(client, informers, EventRecorder(client, "device-taint-eviction")),
        ServiceAddressController(client, informers),
        ServiceRangeController(client, informers, cidrs=options.service_cidrs),
    ]
    if options.load_balancer:
        recorder = EventRecorder(client, "service-controller")
        found.append(LoadBalancerController(client, informers, recorder, where=options.load_balancer))
    if options.cluster_cidrs:
        recorder = EventRecorder(client, "cidrAllocator")
        found.append(NodeIPAMController(client, informers, recorder, cluster_cidrs=options.cluster_cidrs))
    return found


def _of_volumes(client: Client, informers: InformerFactory, options: Options) -> list[Controller[Any]]:
    recorder = EventRecorder(client, "persistentvolume-controller")
    found: list[Controller[Any]] = [
        AttachDetachController(client, informers, EventRecorder(client, "attachdetach-controller")),
        ClaimProtectionController(client, informers),
        EphemeralVolumeController(client, informers, EventRecorder(client, "ephemeral_volume")),
        VolumeBinder(
            client,
            informers,
            recorder,
            own_provisioners=frozenset((LOCAL_PATH_PROVISIONER,)),
            recycler_image=(options.local_path or LocalPath("")).image,
        ),
        VolumeExpandController(client, informers, EventRecorder(client, "volume_expand")),
        VolumeProtectionController(client, informers),
    ]
    if options.local_path is not None:
        found.append(
            LocalPathProvisioner(
                client, informers, EventRecorder(client, LOCAL_PATH_PROVISIONER), settings=options.local_path
            )
        )
    return found
