"""Requests for certificates: who asks is written by the server; who may approve and sign depends on the signer.

Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

import base64

from apiserver.admission.attributes import Attributes
from apiserver.auth.rbac import Authorizer
from apiserver.auth.user import MASTERS, User
from apiserver.registry.kind import Object
from apiserver.request import RequestInfo
from machinery import errors


def note_requester(request: Object, user: User | None) -> None:
    """Write the user who asks into a new request."""
    spec = request["spec"]
    for field in ("username", "uid", "groups", "extra"):
        spec.pop(field, None)
    if user is None:
        return
    spec["username"] = user.name
    spec["groups"] = list(user.groups)
    if user.uid:
        spec["uid"] = user.uid
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in dict(user.extra).items()}


_MASTERS_SIGNER = "kubernetes.io/kube-apiserver-client"


def check_subject(request: Attributes) -> None:
    """Refuse to let a certificate make somebody a master. Raises: Forbidden."""
    spec = request.present["spec"]
    if spec.get("signerName") != _MASTERS_SIGNER:
        return
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        asked = x509.load_pem_x509_csr(base64.b64decode(spec.get("request") or ""))
    except ValueError:
        return  # validation tells what is wrong with it
    groups = [one.value for one in asked.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if MASTERS in groups:
        raise _refused(request, f"use of {_MASTERS_SIGNER} signer with {MASTERS} group is not allowed")


def check_approval(authorizer: Authorizer, request: Attributes) -> None:
    """Refuse approval by users who may not approve for the signer. Raises: Forbidden."""
    signer = ((request.old or {}).get("spec") or {}).get("signerName", "")
    if not _may(authorizer, request.user, "approve", signer):
        raise _refused(request, f'user not permitted to approve requests with signerName "{signer}"')


def check_signing(authorizer: Authorizer, request: Attributes) -> None:
    """Refuse certificates and failures written by users who may not sign for the signer. Raises: Forbidden."""
    old, new = (((one or {}).get("status") or {}) for one in (request.old, request.obj))
    failed = [[one for one in status.get("conditions") or () if one.get("type") == "Failed"] for status in (old, new)]
    if old.get("certificate") == new.get("certificate") and failed[0] == failed[1]:
        return
    signer = ((request.old or {}).get("spec") or {}).get("signerName", "")
    if not _may(authorizer, request.user, "sign", signer):
        raise _refused(request, f'user not permitted to sign requests with signerName "{signer}"')


def _may(authorizer: Authorizer, user: User | None, verb: str, signer: str) -> bool:
    """Whether a user may act for a signer, by its name or as one of its domain ("example.com/*")."""
    names = (signer, signer.partition("/")[0] + "/*")
    return user is None or any(
        authorizer.allows(
            user,
            RequestInfo(
                verb, "", is_resource=True, group="certificates.k8s.io", version="*", resource="signers", name=one
            ),
        )
        for one in names
    )


def _refused(request: Attributes, why: str) -> errors.Forbidden:
    resource = request.kind.resource
    return errors.Forbidden(
        f'{resource.group_resource} "{request.name}" is forbidden: {why}', group=resource.group,
        kind=resource.plural, name=request.name,
    )  # fmt: skip
