"""kopf: an operator that does what its documented examples do, and what it brought about.

Children that it owns, results in the status, retries, subhandlers, events, fields, filters, indices, timers, daemons, a
peering that holds off other operators, and admission by webhooks that it registers itself.
Source: https://github.com/nolar/kopf/tree/main/examples
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kopf
import kubernetes
import pytest

from cluster.pki import Pki

GROUP, VERSION, PLURAL = "kopf.dev", "v1", "kopfexamples"
FREE = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
PKI = Pki(Path(sys.argv[1]).parent / "kopf")
daemons: list[str] = []


@kopf.on.login()
def login(**kwargs: Any) -> Any:
    return kopf.login_with_kubeconfig(**kwargs)


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    cert, key = PKI.server("hooks", "hooks", ["127.0.0.1"])
    settings.admission.server = kopf.WebhookServer(
        addr="127.0.0.1", host="127.0.0.1", certfile=str(cert), pkeyfile=str(key), cafile=str(PKI.ca_file)
    )
    settings.admission.managed = "auto.kopf.dev"
    settings.peering.priority, settings.peering.mandatory = 100, True


@kopf.on.validate(PLURAL)
def refuse(spec: Any, warnings: list[str], **_: Any) -> None:
    warnings.append("a boat is looked at")
    if spec.get("oars", 0) > 8:
        raise kopf.AdmissionError("too many oars", code=499)


@kopf.on.mutate(PLURAL)
def paint(patch: Any, spec: Any, **_: Any) -> None:
    if "colour" not in spec:
        patch.spec["colour"] = "green"


@kopf.on.create(PLURAL, retries=3)
def made(body: Any, spec: Any, name: str, retry: int, **_: Any) -> dict[str, Any]:
    if retry == 0:
        raise kopf.TemporaryError("not yet", delay=0.1)
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"of-{name}"},
        "data": {"oars": str(spec["oars"])},
    }
    kopf.adopt(child)
    core = kubernetes.client.CoreV1Api()
    core.create_namespaced_config_map(child["metadata"]["namespace"], child)
    kopf.info(body, reason="Made", message="with its child")

    @kopf.subhandler(id="sub")
    def sub(**_: Any) -> str:
        return "done"

    return {"tries": retry}


@kopf.on.field(PLURAL, field="spec.oars")
def rowed(old: Any, new: Any, patch: Any, **_: Any) -> None:
    if old is not None:
        patch.status["rowed"] = f"{old}->{new}"


@kopf.on.update(PLURAL, labels={"fast": kopf.PRESENT})
def sped(**_: Any) -> str:
    return "yes"


@kopf.index(PLURAL)
def by_colour(spec: Any, name: str, **_: Any) -> dict[str, str]:
    return {spec.get("colour", ""): name}


@kopf.timer(PLURAL, interval=0.2)
def ticked(patch: Any, status: Any, by_colour: Any, **_: Any) -> None:
    if status.get("ticks", 0) < 3:
        patch.status["ticks"] = status.get("ticks", 0) + 1
        patch.status["green"] = sorted(by_colour.get("green", []))


@kopf.daemon(PLURAL)
async def lived(stopped: kopf.DaemonStopped, name: str, **_: Any) -> None:
    daemons.append(f"{name} lives")
    await stopped.wait()
    daemons.append(f"{name} ends")


@kopf.on.delete(PLURAL)
def gone(**_: Any) -> None:
    daemons.append("deleted")


def definition(plural: str, kind: str, scope: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"spec": FREE, "status": FREE}}
    return {
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP, "scope": scope, "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [{"name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": FREE if scope == "Cluster" else schema}}],
        },
    }  # fmt: skip


async def until(true: Callable[[], Any], what: str) -> Any:
    for _ in range(200):
        if found := await asyncio.to_thread(true):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")


async def main(kubeconfig: str) -> None:
    kubernetes.config.load_kube_config(kubeconfig)
    definitions, custom = kubernetes.client.ApiextensionsV1Api(), kubernetes.client.CustomObjectsApi()
    for plural, kind, scope in (
        (PLURAL, "KopfExample", "Namespaced"),
        ("clusterkopfpeerings", "ClusterKopfPeering", "Cluster"),
    ):
        definitions.create_custom_resource_definition(definition(plural, kind, scope))
        await until(
            lambda plural=plural: any(
                one.type == "Established" and one.status == "True"
                for one in definitions.read_custom_resource_definition(f"{plural}.{GROUP}").status.conditions or ()
            ),
            plural,
        )
    peering = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "ClusterKopfPeering", "metadata": {"name": "default"}}
    custom.create_cluster_custom_object(GROUP, VERSION, "clusterkopfpeerings", peering)
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(kopf.operator(clusterwide=True, stop_flag=stop, ready_flag=ready))
    await ready.wait()
    admission = kubernetes.client.AdmissionregistrationV1Api()

    def registered() -> bool:
        found = [
            *admission.list_mutating_webhook_configuration().items,
            *admission.list_validating_webhook_configuration().items,
        ]
        return sum(len(one.webhooks or ()) for one in found) == 2

    await until(registered, "webhooks")
    place = (GROUP, VERSION, "default", PLURAL)
    boat = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "KopfExample", "metadata": {"name": "tub"}, "spec": {"oars": 2}}
    many = {**boat, "metadata": {"name": "galley"}, "spec": {"oars": 9}}
    with pytest.raises(kubernetes.client.ApiException, match="too many oars"):
        await asyncio.to_thread(custom.create_namespaced_custom_object, *place, many)
    await asyncio.to_thread(custom.create_namespaced_custom_object, *place, boat)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = custom.get_namespaced_custom_object(*place, "tub").get("status", {})
        return found

    await until(
        lambda: status().get("made") == {"tries": 1} and status().get("ticks") == 3, "the handler and the timer"
    )
    assert (status()["made/sub"], status()["green"]) == ("done", ["tub"])
    child = kubernetes.client.CoreV1Api().read_namespaced_config_map("of-tub", "default")
    assert (child.data, child.metadata.owner_references[0].kind) == ({"oars": "2"}, "KopfExample")
    await until(
        lambda: any(
            one.reason == "Made" for one in kubernetes.client.CoreV1Api().list_namespaced_event("default").items
        ),
        "events",
    )
    change = {"metadata": {"labels": {"fast": "1"}}, "spec": {"oars": 4}}
    await asyncio.to_thread(custom.patch_namespaced_custom_object, *place, "tub", change)
    await until(lambda: status().get("rowed") == "2->4" and status().get("sped") == "yes", "the change")
    assert custom.get_cluster_custom_object(GROUP, VERSION, "clusterkopfpeerings", "default")["status"]
    await asyncio.to_thread(custom.delete_namespaced_custom_object, *place, "tub")
    await until(lambda: not custom.list_namespaced_custom_object(*place)["items"], "the end")
    assert sorted(daemons) == ["deleted", "tub ends", "tub lives"], daemons
    stop.set()
    await running
    left = [
        *admission.list_mutating_webhook_configuration().items,
        *admission.list_validating_webhook_configuration().items,
    ]
    assert not any(one.webhooks for one in left)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
