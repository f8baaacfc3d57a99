"""Questions to the server about itself: who am I, may I, whose token is this. Nothing of them is stored.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from apiserver.auth.authentication import Authenticator
from apiserver.auth.rbac import Authorizer
from apiserver.auth.user import User
from apiserver.endpoints.reading import respond, wanted
from apiserver.endpoints.writing import read_typed
from apiserver.request import Call, RequestInfo
from machinery import errors

_AUTHORIZATION, _AUTHENTICATION = "authorization.k8s.io", "authentication.k8s.io"
_EVERYTHING: tuple[dict[str, Any], ...] = (
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
)


class Reviews:
    """Answers the review kinds."""

    def __init__(self, authorizer: Authorizer, authenticator: Authenticator) -> None:
        self._authorizer = authorizer
        self._authenticator = authenticator
        self._handlers: Mapping[tuple[str, str], Callable[[Call], Awaitable[dict[str, Any]]]] = {
            (_AUTHORIZATION, "selfsubjectaccessreviews"): self._self_access,
            (_AUTHORIZATION, "subjectaccessreviews"): self._subject_access,
            (_AUTHORIZATION, "localsubjectaccessreviews"): self._subject_access,
            (_AUTHORIZATION, "selfsubjectrulesreviews"): self._self_rules,
            (_AUTHENTICATION, "selfsubjectreviews"): self._self,
            (_AUTHENTICATION, "tokenreviews"): self._token,
        }

    def serves(self, info: RequestInfo) -> bool:
        """Whether the request is for a review."""
        return info.version == "v1" and not info.subresource and (info.group, info.resource) in self._handlers

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer a review."""
        if call.info.verb != "create":
            raise errors.MethodNotAllowed("the server does not allow this method on the requested resource")
        if wanted(call).as_kind:
            raise errors.NotAcceptable("only the following media types are accepted: application/json")
        body = await self._handlers[call.info.group, call.info.resource](call)
        return respond(orjson.dumps(body), status=201)

    async def _self_access(self, call: Call) -> dict[str, Any]:
        review = await _read(call, "SelfSubjectAccessReview", _AUTHORIZATION)
        return self._answered(review, call.user)

    async def _subject_access(self, call: Call) -> dict[str, Any]:
        local = call.info.resource == "localsubjectaccessreviews"
        kind = "LocalSubjectAccessReview" if local else "SubjectAccessReview"
        review = await _read(call, kind, _AUTHORIZATION)
        spec = review.get("spec") or {}
        return self._answered(review, User(spec.get("user", ""), tuple(spec.get("groups") or ())))

    def _answered(self, review: dict[str, Any], user: User) -> dict[str, Any]:
        spec = review.get("spec") or {}
        resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (resource is None) == (other is None):  # one of the two, and not both
            raise errors.Invalid(
                f'{review["kind"]}.{_AUTHORIZATION} "" is invalid: spec.resourceAttributes: Invalid value: "null": '
                "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            )
        if resource is not None:
            info = RequestInfo(
                resource.get("verb", ""), "", is_resource=True, group=resource.get("group", ""),
                namespace=resource.get("namespace", ""), resource=resource.get("resource", ""),
                name=resource.get("name", ""), subresource=resource.get("subresource", ""),
            )  # fmt: skip
        else:
            info = RequestInfo((other or {}).get("verb", ""), (other or {}).get("path", ""))
        reason = self._authorizer.reason(user, info)
        review["status"] = {"allowed": reason is not None} | ({"reason": reason} if reason else {})
        return review

    async def _self_rules(self, call: Call) -> dict[str, Any]:
        review = await _read(call, "SelfSubjectRulesReview", _AUTHORIZATION)
        namespace = (review.get("spec") or {}).get("namespace", "")
        rules = [
            rule
            for grant in self._authorizer.grants(call.user)
            if grant.namespace in ("", namespace)
            for rule in grant.rules
        ]
        if self._authorizer.is_master(call.user):
            rules = [*_EVERYTHING, *(rule for rule in rules if rule not in _EVERYTHING)]
        review["status"] = {
            "resourceRules": [rule for rule in rules if rule.get("resources")],
            "nonResourceRules": [
                {"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]}
                for rule in rules
                if rule.get("nonResourceURLs")
            ],
            "incomplete": False,
        }
        return review

    async def _self(self, call: Call) -> dict[str, Any]:
        review = await _read(call, "SelfSubjectReview", _AUTHENTICATION)
        return {**review, "status": {"userInfo": _user_info(call.user)}}

    async def _token(self, call: Call) -> dict[str, Any]:
        review = await _read(call, "TokenReview", _AUTHENTICATION)
        spec = review.get("spec") or {}
        try:
            user, audiences = await self._authenticator.review(spec.get("token", ""), spec.get("audiences") or ())
        except errors.Unauthorized:
            status = {"authenticated": False, "user": {}, "error": "[invalid bearer token, token lookup failed]"}
            return {**review, "status": status}
        return {**review, "status": {"authenticated": True, "user": _user_info(user), "audiences": audiences}}


async def _read(call: Call, kind: str, group: str) -> dict[str, Any]:
    return await read_typed(call, kind, f"{group}/v1", f"io.k8s.api.{group.partition('.')[0]}.v1.{kind}")


def _user_info(user: User) -> dict[str, Any]:
    found: dict[str, Any] = {
        "username": user.name,
        "uid": user.uid,
        "groups": list(user.groups),
        "extra": dict(user.extra),
    }
    return {name: value for name, value in found.items() if value}
