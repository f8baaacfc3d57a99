"""Probes of every kind and what follows from them.

Source: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

from typing import Any

import grpc
import pytest
from aiohttp import web

from machinery.api.resources import PODS
from tests.e2e.pods.conftest import Pods, condition, container_status, shell, terminated
from tests.support.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]

SERVER = (
    "mkdir /tmp/w; echo ok > /tmp/w/ok; httpd -p 8080 -h /tmp/w; trap 'exit 0' TERM; while true; do sleep 0.05; done"
)
PORTS = [{"name": "web", "containerPort": 8080}]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"exec": {"command": ["true"]}}, {"exec": {"command": ["sh", "-c", "echo broken; exit 1"]}}),
        ({"httpGet": {"path": "/ok", "port": "web"}}, {"httpGet": {"path": "/none", "port": 8080}}),
        ({"tcpSocket": {"port": "web"}}, {"tcpSocket": {"port": 8081}}),
    ],
    ids=["exec", "http", "tcp"],
)  # fmt: skip
async def test_readiness_goes_by_the_probe(pods: Pods, good: Any, bad: Any) -> None:
    ready = await pods.create(shell(SERVER, ports=PORTS, readinessProbe={**good, "periodSeconds": 1}))
    unready = await pods.create(shell(SERVER, ports=PORTS, readinessProbe={**bad, "periodSeconds": 1}))
    await pods.running(ready)
    await pods.told(unready, "Unhealthy: Readiness probe failed: ")
    held = await pods.get(unready)
    assert condition(held, "Ready") == "False"
    assert container_status(held)["restartCount"] == 0
    assert condition(held, "Ready", "message") == "containers with unready status: [main]"


async def test_a_failed_liveness_probe_restarts_the_container(pods: Pods) -> None:
    probe = {
        "exec": {"command": ["cat", "/tmp/alive"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
        "initialDelaySeconds": 1,
    }
    command = "touch /tmp/alive; trap 'exit 0' TERM; sleep 2; rm /tmp/alive; while true; do sleep 0.05; done"
    pod = await pods.create(shell(command, livenessProbe=probe), restartPolicy="Always")
    await pods.until(pod, lambda one: container_status(one).get("restartCount", 0) == 1, "a restart", 20)
    await pods.told(pod, "Killing: Container main failed liveness probe, will be restarted")
    await pods.told(pod, "Unhealthy: Liveness probe failed: ")


async def test_a_startup_probe_holds_the_others_back(pods: Pods) -> None:
    startup = {"exec": {"command": ["cat", "/tmp/started"]}, "periodSeconds": 1, "failureThreshold": 60}
    liveness = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    pod = await pods.create(
        shell("sleep 2; touch /tmp/started; sleep 60", startupProbe=startup, livenessProbe=liveness)
    )
    held = await pods.until(pod, lambda one: "running" in container_status(one).get("state", {}), "it to run")
    assert (container_status(held)["started"], container_status(held)["ready"]) == (False, False)
    done = await pods.ended(pod, 20)  # liveness counts once it has started
    await pods.told(pod, "Startup probe failed")
    assert terminated(done)["exitCode"] in (137, 143)


async def test_a_probe_may_have_a_grace_period_of_its_own(pods: Pods) -> None:
    probe = {
        "exec": {"command": ["false"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
        "terminationGracePeriodSeconds": 2,
    }
    pod = await pods.create(
        shell("trap '' TERM; while true; do sleep 0.05; done", livenessProbe=probe), terminationGracePeriodSeconds=500
    )
    done = await pods.ended(pod, 15)
    assert terminated(done)["exitCode"] == 137


async def test_a_probe_that_takes_too_long_failed(pods: Pods) -> None:
    probe = {"exec": {"command": ["sleep", "10"]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1}
    pod = await pods.create(shell("sleep 60", readinessProbe=probe))
    await pods.told(pod, "Readiness probe")
    await pods.told(pod, "timed out after 1s")


async def test_a_grpc_probe_asks_the_health_service(pods: Pods) -> None:
    """The pod shares the host's network, where this process serves health."""

    async def check(_: bytes, context: Any) -> bytes:
        return b"\x08\x01"

    handler = grpc.unary_unary_rpc_method_handler(check)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})])
    port = server.add_insecure_port(f"0.0.0.0:{free_port()}")
    await server.start()
    try:
        probe = {"grpc": {"port": port}, "periodSeconds": 1}
        pod = await pods.create(shell("sleep 60", readinessProbe=probe), hostNetwork=True)
        await pods.running(pod)
    finally:
        await server.stop(None)


async def test_an_answer_that_leads_elsewhere_is_followed_on_the_same_host_only(pods: Pods) -> None:
    """The probes look at this process, which the agent reaches on loopback."""

    async def leads_to(request: web.Request) -> web.Response:
        places = {"/away": "http://192.0.2.1/", "/here": "/bad"}
        if request.path in places:
            return web.Response(status=302, text="go away", headers={"Location": places[request.path]})
        return web.Response(status=500)

    app = web.Application()
    app.router.add_get("/{path}", leads_to)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        gets = [{"host": "127.0.0.1", "path": path, "port": port} for path in ("/away", "/here")]
        away, here = [
            await pods.create(shell("sleep 60", readinessProbe={"httpGet": get, "periodSeconds": 1})) for get in gets
        ]
        await pods.running(away)
        await pods.told(
            away, "ProbeWarning: Readiness probe warning: Probe terminated redirects, Response body: go away"
        )
        await pods.told(here, "Readiness probe failed: HTTP probe failed with statuscode: 500")
        assert condition(await pods.get(here), "Ready") == "False"
    finally:
        await runner.cleanup()


async def test_readiness_is_told_while_a_pod_ends(pods: Pods) -> None:
    probe = {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    liveness = {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    command = "touch /tmp/ready; trap 'rm /tmp/ready; sleep 6; exit 0' TERM; while true; do sleep 0.05; done"
    pod = await pods.create(
        shell(command, readinessProbe=probe, livenessProbe=liveness), terminationGracePeriodSeconds=30
    )  # fmt: skip
    await pods.running(pod)
    await pods.client.delete(PODS, pod["metadata"]["name"], pods.namespace)
    ending = await pods.until(pod, lambda one: condition(one, "Ready") == "False", "to be unready", 10)
    assert ending["metadata"]["deletionTimestamp"]
    assert "running" in container_status(ending)["state"]
    assert container_status(ending)["restartCount"] == 0
