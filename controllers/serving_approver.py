"""Requests of nodes for the certificate their agents serve with are approved when they name the node and nothing else.

Upstream leaves this to a human, since addresses in such a request can't be checked. Ours have none: the API server
knows agents by the CA that signed for them. A node that bears a name of the API server's own is left to a human.
Source: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#certificate-rotation
"""

from controllers import conditions
from controllers.certificate_rules import KUBELET_SERVING, Refused, check, common_name, load_request
from controllers.certificate_views import SigningRequest
from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from machinery.api.meta import ObjectKey, now
from machinery.api.resources import CERTIFICATE_SIGNING_REQUESTS
from machinery.client.rest import Client

_PREFIX = "system:node:"
_MESSAGE = "Auto approving kubelet serving certificate that names its node alone."


class ServingCertificateApprover(Controller[ObjectKey]):
    """Approves what needs no human."""

    name = "serving-certificate-approver"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._requests = informers.informer(CERTIFICATE_SIGNING_REQUESTS, SigningRequest)
        self._requests.add_handler(self._changed)

    def _changed(self, old: SigningRequest | None, new: SigningRequest | None) -> None:
        if new is not None and new.spec.signerName == KUBELET_SERVING:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Approve one request, if it may be."""
        request = self._requests.get(key)
        if request is None or request.status.certificate:
            return DONE
        if request.condition("Approved") or request.condition("Denied") or not names_its_node_alone(request):
            return DONE
        condition = {**conditions.made("Approved", "True", "AutoApproved", _MESSAGE), "lastUpdateTime": now()}
        found = [*request.status.conditions, condition]
        patch = {"metadata": {"resourceVersion": request.metadata.resourceVersion}, "status": {"conditions": found}}
        await self._client.patch(CERTIFICATE_SIGNING_REQUESTS, key.name, patch, subresource="approval")
        return DONE


def names_its_node_alone(request: SigningRequest) -> bool:
    """Whether a node asks for itself, and its name is the only one in the request and no one else's."""
    from cryptography import x509

    try:
        csr = load_request(request)
        check(request, csr)
    except Refused:
        return False
    who = request.spec.username
    node = who.removeprefix(_PREFIX)
    if not who.startswith(_PREFIX) or common_name(csr) != who or "system:nodes" not in request.spec.groups:
        return False
    if node == "localhost" or node.split(".")[0] == "kubernetes":
        return False
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(names) == [x509.DNSName(node)]
