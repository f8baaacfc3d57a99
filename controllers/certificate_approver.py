"""Requests of nodes for their client certificates are approved where RBAC lets who asks have them.

Source: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#approval
"""

from collections.abc import Sequence
from typing import Any

from controllers import conditions
from controllers.certificate_rules import KUBELET_CLIENT, Refused, check_node_client, common_name, load_request
from controllers.certificate_views import SigningRequest
from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from machinery.api.meta import ObjectKey, Resource, now
from machinery.api.resources import CERTIFICATE_SIGNING_REQUESTS
from machinery.client.rest import Client
from machinery.errors import NotFound

_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
_SELF = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
_ANY = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")


class CertificateApprover(Controller[ObjectKey]):
    """Approves what needs no human."""

    name = "certificate-approver"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._requests = informers.informer(CERTIFICATE_SIGNING_REQUESTS, SigningRequest)
        self._requests.add_handler(self._changed)

    def _changed(self, old: SigningRequest | None, new: SigningRequest | None) -> None:
        if new is not None and new.spec.signerName == KUBELET_CLIENT:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Approve one request, if it may be."""
        request = self._requests.get(key)
        if request is None or request.status.certificate or request.condition("Approved"):
            return DONE
        if request.condition("Denied"):
            return DONE
        for subresource, message in self._recognized(request):
            if await self._may(request, subresource):
                await self._approve(request, message)
                return DONE
        return DONE

    @staticmethod
    def _recognized(request: SigningRequest) -> Sequence[tuple[str, str]]:
        try:
            csr = load_request(request)
            check_node_client(request, csr)
        except Refused:
            return ()
        return (_SELF, _ANY) if common_name(csr) == request.spec.username else (_ANY,)

    async def _may(self, request: SigningRequest, subresource: str) -> bool:
        spec = request.spec
        attributes = {
            "group": CERTIFICATE_SIGNING_REQUESTS.group, "resource": CERTIFICATE_SIGNING_REQUESTS.plural,
            "verb": "create", "subresource": subresource, "version": "*",
        }  # fmt: skip
        who = {"user": spec.username, "uid": spec.uid, "groups": list(spec.groups)}
        review: dict[str, Any] = {
            "spec": {**who, "resourceAttributes": attributes},
            "metadata": {},
            "apiVersion": _REVIEWS.api_version,
            "kind": _REVIEWS.kind,
        }
        answer = await self._client.create(_REVIEWS, review)
        return bool((answer.get("status") or {}).get("allowed"))

    async def _approve(self, request: SigningRequest, message: str) -> None:
        condition = {**conditions.made("Approved", "True", "AutoApproved", message), "lastUpdateTime": now()}
        found = [*request.status.conditions, condition]
        metadata = request.metadata
        patch = {"metadata": {"resourceVersion": metadata.resourceVersion}, "status": {"conditions": found}}
        try:
            await self._client.patch(CERTIFICATE_SIGNING_REQUESTS, metadata.name, patch, subresource="approval")
        except NotFound:
            return
