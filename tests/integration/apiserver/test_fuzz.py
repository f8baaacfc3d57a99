"""Requests made up from the server's own OpenAPI document: whatever comes, the answer is clear and the server goes on.

Bounded here; WHERRY_FUZZ_REQUESTS=100000 makes a night of it. A failure is shown as the request that caused it.
"""

import asyncio
import json
import os
import string
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from machinery.client.kubeconfig import ClientConfig
from machinery.client.tls import ssl_context
from tests.support.server import running_server

REQUESTS = int(os.environ.get("WHERRY_FUZZ_REQUESTS", "600"))
SECONDS = 10.0
# What streams or lasts by design is asked elsewhere.
LASTING = ("/watch/", "{path}", "/exec", "/attach", "/portforward", "/log", "/proxy")
MEDIA = {
    "post": ["application/json"] * 5 + ["application/yaml", "application/vnd.kubernetes.protobuf", "text/html", ""],
    "put": ["application/json"] * 3 + ["application/yaml"],
    "patch": [
        "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ],
}  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["a", "default", "kubernetes", "..", "%2e%2e", "a" * 300, "A_b", "x%00y", "ü", "a/b", "{}", "-"]),
    st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=12),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20),
    st.sampled_from(["1Gi", "100m", "1e400", "default", "a" * 1000, "2020-01-01T00:00:00Z", "\u0000", "80/tcp", "10.0.0.1"]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


FOLDER = Path(__file__).parent
SAMPLES: dict[str, dict[str, Any]] = {
    one["kind"]: one
    for name in ("samples.yaml", "more_samples.yaml")
    for one in yaml.safe_load_all((FOLDER / name).read_text())
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.one_of(st.text(max_size=10), st.sampled_from(["a", "web:1", "TCP", "Always", "1Gi"])),
    "integer": st.one_of(st.integers(0, 100), st.integers(-(2**40), 2**40)),
    "boolean": st.booleans(),
    "number": st.floats(allow_nan=False, allow_infinity=False),
}


class Document:
    """The server's OpenAPI document, and bodies made from it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.operations = [
            (
                method,
                path,
                item.get("put", operation) if method == "patch" else operation,
            )  # a patch looks like its object
            for path, item in sorted(document["paths"].items())
            for method, operation in sorted(item.items())
            if method in ("get", "post", "put", "patch", "delete") and not any(part in path for part in LASTING)
        ]
        self._definitions = document["definitions"]

    def body(self, draw: Any, schema: dict[str, Any], depth: int = 0) -> Any:
        """Make a value of a schema, now and then one of another."""
        if depth > 6 or draw(st.integers(0, 199)) == 0:
            return draw(ANYTHING)
        if "$ref" in schema:
            return self.body(draw, self._definitions[schema["$ref"].removeprefix("#/definitions/")], depth)
        if schema.get("type") == "array":
            return [self.body(draw, schema["items"], depth + 1) for _ in range(draw(st.integers(0, 2)))]
        if (strategy := VALUES.get(schema.get("type", ""))) is not None:
            return draw(strategy)
        if "properties" in schema:
            required = schema.get("required", [])
            names = [name for name in schema["properties"] if name in required or draw(st.integers(0, 5)) == 0]
            return {name: self.body(draw, schema["properties"][name], depth + 1) for name in names}
        return {draw(st.text(max_size=5)): draw(SCALARS) for _ in range(draw(st.integers(0, 2)))}

    def changed(self, draw: Any, value: Any, schema: dict[str, Any]) -> Any:
        """Return a value with one thing in it changed: replaced, added, taken away or given twice."""
        if "$ref" in schema:
            schema = self._definitions[schema["$ref"].removeprefix("#/definitions/")]
        if isinstance(value, dict) and value and draw(st.integers(0, 3)):
            properties, free = schema.get("properties", {}), schema.get("additionalProperties", {})
            name = draw(st.sampled_from(sorted({*value, *properties})))
            within = properties.get(name, free)
            if name not in value:
                return {**value, name: self.body(draw, within, 3)}
            if draw(st.integers(0, 9)) == 0:
                return {key: one for key, one in value.items() if key != name}
            return {**value, name: self.changed(draw, value[name], within)}
        if isinstance(value, list) and value and draw(st.integers(0, 3)):
            at = draw(st.integers(0, len(value) - 1))
            if draw(st.integers(0, 5)) == 0:
                return [*value, value[at]]
            return [*value[:at], self.changed(draw, value[at], schema.get("items", {})), *value[at + 1 :]]
        return self.body(draw, schema, 4) if schema and draw(st.booleans()) else draw(ANYTHING)


@st.composite
def requests(draw: Any, document: Document) -> tuple[str, str, dict[str, str], bytes, dict[str, str]]:
    method, path, operation = draw(st.sampled_from(document.operations))
    for part in ("{namespace}", "{name}"):
        path = path.replace(
            part, draw(st.sampled_from(["default", "default", "one", "a"]) if draw(st.integers(0, 3)) else NAMES)
        )
    parameters = ["limit", "continue", "fieldSelector", "labelSelector", "resourceVersion", "resourceVersionMatch", "dryRun",
                  "fieldValidation", "fieldManager", "force", "gracePeriodSeconds", "propagationPolicy", "pretty", "timeout"]  # fmt: skip
    query = {
        name: draw(st.one_of(st.text(max_size=10), st.sampled_from(["All", "Strict", "true", "1", "a=b", "metadata.name=a", "0"])))
        for name in draw(st.lists(st.sampled_from(parameters), max_size=3, unique=True))
    }  # fmt: skip
    headers = {"Accept": draw(st.sampled_from(["application/json", "*/*", "application/yaml", "application/json;as=Table;v=v1;g=meta.k8s.io", "text/plain"]))}  # fmt: skip
    if method not in MEDIA:
        return method, path, query, b"", headers
    headers["Content-Type"] = draw(st.sampled_from(MEDIA[method]))
    if draw(st.integers(0, 9)) == 0:
        return method, path, query, draw(st.binary(max_size=200)), headers
    schema = operation.get("x-kubernetes-group-version-kind") or {}
    reference = next((p.get("schema") for p in operation.get("parameters", ()) if p.get("in") == "body"), None)
    if headers["Content-Type"] == "application/json-patch+json":
        value: Any = [
            {"op": draw(st.sampled_from(["add", "remove", "replace", "test", "move", "copy", "x"])), "path": draw(st.sampled_from(["/metadata/labels", "/spec/x", "/a~1b", "", "x", "/-"])), "value": draw(ANYTHING), "from": "/spec"}
        ]  # fmt: skip
    elif (sample := SAMPLES.get(schema.get("kind", ""))) and draw(st.integers(0, 3)):
        value = document.changed(draw, sample, reference or {}) if draw(st.integers(0, 3)) else sample
        if draw(st.integers(0, 3)) == 0:
            value = document.changed(draw, value, reference or {})
        if isinstance(value, dict) and isinstance(value.get("metadata"), dict) and draw(st.booleans()):
            value = {**value, "metadata": {**value["metadata"], "name": draw(st.sampled_from(["a", "b"]))}}
    else:
        value = document.body(draw, reference or {})
        if isinstance(value, dict) and schema and draw(st.integers(0, 5)):
            group, version = schema.get("group", ""), schema.get("version", "v1")
            value["apiVersion"], value["kind"] = f"{group}/{version}" if group else version, schema.get("kind", "")
            metadata = value.get("metadata")
            value["metadata"] = {
                **(metadata if isinstance(metadata, dict) else {}),
                "name": draw(st.sampled_from(["a", "b", "c"])),
            }
            for field in ("resourceVersion", "uid", "namespace", "managedFields", "generateName", "deletionTimestamp"):
                value["metadata"].pop(field, None)
    return method, path, query, json.dumps(value).encode("utf-8", "surrogatepass"), headers


@pytest.fixture(scope="module")
def loop() -> Any:
    """One loop for the whole module: Hypothesis runs its examples one after another in it."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def target(loop: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server, and a session that asks it."""
    folder: Path = tmp_path_factory.mktemp("fuzz")

    async def serve() -> AsyncIterator[tuple[aiohttp.ClientSession, ClientConfig]]:
        async with running_server(folder) as (_, config):
            connector = aiohttp.TCPConnector(ssl=ssl_context(config), force_close=False)
            async with aiohttp.ClientSession(connector=connector) as session:
                yield session, config

    serving = serve()
    yield loop.run_until_complete(anext(serving))
    loop.run_until_complete(serving.aclose())
    loop.run_until_complete(asyncio.sleep(0.1))  # connections end


@pytest.mark.slow
@pytest.mark.timeout(max(120, REQUESTS // 10))
def test_no_request_breaks_the_server(loop: Any, target: Any) -> None:
    session, config = target

    async def ask(
        method: str, path: str, query: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        async with asyncio.timeout(SECONDS):
            asking = session.request(
                method, config.server + path, params=query, data=body, headers=headers, allow_redirects=False
            )
            async with asking as answer:
                return answer.status, await answer.read()

    status, text = loop.run_until_complete(ask("get", "/openapi/v2", {}, b"", {}))
    assert status == 200
    document, seen = Document(json.loads(text)), Counter[int]()

    @settings(
        max_examples=REQUESTS, deadline=None, database=None, derandomize="WHERRY_FUZZ_REQUESTS" not in os.environ,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(requests(document))
    def one(request: tuple[str, str, dict[str, str], bytes, dict[str, str]]) -> None:
        try:
            status, body = loop.run_until_complete(ask(*request))
        except (aiohttp.InvalidURL, ValueError):
            return  # no client can send it
        seen[status] += 1
        assert status < 500 or (status == 504 and b"resource version" in body.lower()), (status, body[:500])
        if status >= 400 and body.startswith(b"{"):
            assert json.loads(body)["kind"] == "Status"

    one()
    print(f"{seen.total()} requests were answered: {sorted(seen.items())}")
    assert seen[201] or REQUESTS < 5000, "nothing that was made up could be stored"
    # All that was stored can be read back.
    for method, path, _ in document.operations:
        if method == "get" and "{" not in path:
            status, body = loop.run_until_complete(ask("get", path, {}, b"", {"Accept": "application/json"}))
            assert status == 200, (path, body[:300])
            json.loads(body)
            status, body = loop.run_until_complete(ask("get", path, {}, b"", {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}))  # fmt: skip
            assert status in (200, 406), (path, body[:300])
