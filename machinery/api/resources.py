"""The built-in resources components ask for by name. What the server knows about each is in apiserver/registry."""

from machinery.api.meta import Resource


def _cluster(group: str, version: str, plural: str, kind: str) -> Resource:
    return Resource(group, version, plural, kind, namespaced=False)


NAMESPACES = _cluster("", "v1", "namespaces", "Namespace")
NODES = _cluster("", "v1", "nodes", "Node")
PODS = Resource("", "v1", "pods", "Pod")
POD_TEMPLATES = Resource("", "v1", "podtemplates", "PodTemplate")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
SERVICES = Resource("", "v1", "services", "Service")
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints")
EVENTS = Resource("", "v1", "events", "Event")
LIMIT_RANGES = Resource("", "v1", "limitranges", "LimitRange")
RESOURCE_QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
REPLICATION_CONTROLLERS = Resource("", "v1", "replicationcontrollers", "ReplicationController")
PERSISTENT_VOLUMES = _cluster("", "v1", "persistentvolumes", "PersistentVolume")
PERSISTENT_VOLUME_CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")

EVENTS_V1 = Resource("events.k8s.io", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")

DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
JOBS = Resource("batch", "v1", "jobs", "Job")
CRON_JOBS = Resource("batch", "v1", "cronjobs", "CronJob")
HORIZONTAL_POD_AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
HORIZONTAL_POD_AUTOSCALERS_V1 = Resource("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
POD_DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")

_RBAC = "rbac.authorization.k8s.io"
ROLES = Resource(_RBAC, "v1", "roles", "Role")
ROLE_BINDINGS = Resource(_RBAC, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES = _cluster(_RBAC, "v1", "clusterroles", "ClusterRole")
CLUSTER_ROLE_BINDINGS = _cluster(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding")

_NETWORKING = "networking.k8s.io"
NETWORK_POLICIES = Resource(_NETWORKING, "v1", "networkpolicies", "NetworkPolicy")
INGRESSES = Resource(_NETWORKING, "v1", "ingresses", "Ingress")
INGRESS_CLASSES = _cluster(_NETWORKING, "v1", "ingressclasses", "IngressClass")
IP_ADDRESSES = _cluster(_NETWORKING, "v1", "ipaddresses", "IPAddress")
SERVICE_CIDRS = _cluster(_NETWORKING, "v1", "servicecidrs", "ServiceCIDR")

_STORAGE = "storage.k8s.io"
STORAGE_CLASSES = _cluster(_STORAGE, "v1", "storageclasses", "StorageClass")
VOLUME_ATTACHMENTS = _cluster(_STORAGE, "v1", "volumeattachments", "VolumeAttachment")
VOLUME_ATTRIBUTES_CLASSES = _cluster(_STORAGE, "v1", "volumeattributesclasses", "VolumeAttributesClass")
CSI_DRIVERS = _cluster(_STORAGE, "v1", "csidrivers", "CSIDriver")
CSI_NODES = _cluster(_STORAGE, "v1", "csinodes", "CSINode")
CSI_STORAGE_CAPACITIES = Resource(_STORAGE, "v1", "csistoragecapacities", "CSIStorageCapacity")

RUNTIME_CLASSES = _cluster("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass")
PRIORITY_CLASSES = _cluster("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass")
CERTIFICATE_SIGNING_REQUESTS = _cluster(
    "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest"
)

TOKEN_REVIEWS = _cluster("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
SUBJECT_ACCESS_REVIEWS = _cluster("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")
CLUSTER_TRUST_BUNDLES = _cluster("certificates.k8s.io", "v1beta1", "clustertrustbundles", "ClusterTrustBundle")

_ADMISSION = "admissionregistration.k8s.io"
MUTATING_WEBHOOKS = _cluster(_ADMISSION, "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration")
VALIDATING_WEBHOOKS = _cluster(_ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration")
VALIDATING_POLICIES = _cluster(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
VALIDATING_POLICY_BINDINGS = _cluster(
    _ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"
)
MUTATING_POLICIES = _cluster(_ADMISSION, "v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy")
MUTATING_POLICY_BINDINGS = _cluster(
    _ADMISSION, "v1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding"
)

_FLOW = "flowcontrol.apiserver.k8s.io"
FLOW_SCHEMAS = _cluster(_FLOW, "v1", "flowschemas", "FlowSchema")
PRIORITY_LEVELS = _cluster(_FLOW, "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration")

_DEVICES = "resource.k8s.io"
DEVICE_CLASSES = _cluster(_DEVICES, "v1", "deviceclasses", "DeviceClass")
RESOURCE_CLAIMS = Resource(_DEVICES, "v1", "resourceclaims", "ResourceClaim")
RESOURCE_CLAIM_TEMPLATES = Resource(_DEVICES, "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
RESOURCE_SLICES = _cluster(_DEVICES, "v1", "resourceslices", "ResourceSlice")

API_SERVICES = _cluster("apiregistration.k8s.io", "v1", "apiservices", "APIService")
