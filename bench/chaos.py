"""Whether anything is lost or stuck when every process of a cluster is killed, again and again, under use.

The users of bench/soak.py go on as they do there, with patience for a server that is away; beside them somebody keeps
a ledger of writes the API server has acknowledged. Every few seconds one process gets SIGKILL. In the end each
acknowledged write must be there, and nothing may be left over. WHERRY_SOAK_MINUTES as there.
"""

import http.client
import json
import os
import random
import signal
import threading
import time

import click

from bench import soak
from bench.clusters import running
from cli.connection import Connection
from cluster.layout import Layout
from cluster.processes import running_pid
from machinery import errors
from machinery.client.kubeconfig import ClientConfig

VICTIMS = ("etcd", *soak.COMPONENTS)
_EVERY_SECONDS = 5.0
_SETTLE_SECONDS = 30.0
_MAPS = "/api/v1/namespaces/default/configmaps"
# How kubectl tells that nobody is there, or that who was there went away.
_AWAY = (
    "refused", "reset by peer", "EOF", "etcd", "unavailable", "broken pipe", "TLS handshake", "closed", "timed out",
    "timeout", "container runtime", "no such file", "proxy error", "dial", "Internal error", "being shut down",
    "forbidden", "not yet ready", "not found",
)  # fmt: skip


def main() -> dict[str, object]:
    """Return rounds, failures, kills per process, and what of the ledger is missing."""
    if os.geteuid() != 0:
        return {"skipped": "needs root"}
    until = time.monotonic() + float(os.environ.get("WHERRY_SOAK_MINUTES", "2")) * 60
    with running() as (layout, config, _):
        users, ledger, killer = (
            _PatientSoak(str(layout.kubeconfig), until),
            Ledger(config, until),
            Killer(layout, until),
        )
        beside = [threading.Thread(target=one.run) for one in (ledger, killer)]
        for thread in beside:
            thread.start()
        users.run()
        for thread in beside:
            thread.join()
        time.sleep(_SETTLE_SECONDS)
        return {
            "rounds": sum(map(len, users.seconds.values())), "failures": users.failures, "kills": killer.kills,
            "acknowledged": len(ledger.acknowledged), "lost": ledger.lost(), "left_behind": soak.left(layout, users),
        }  # fmt: skip


class Killer:
    """Kills one process after another, until a time of time.monotonic()."""

    def __init__(self, layout: Layout, until: float) -> None:
        self._layout, self._until = layout, until
        self.kills: dict[str, int] = dict.fromkeys(VICTIMS, 0)

    def run(self) -> None:
        """Return when the time is over."""
        chance = random.Random(1)
        while time.monotonic() < self._until:
            time.sleep(chance.uniform(0.5, 1.5) * _EVERY_SECONDS)
            name = chance.choice(VICTIMS)
            if (pid := running_pid(self._layout, name)) is not None:
                os.kill(pid, signal.SIGKILL)
                self.kills[name] += 1


class Ledger:
    """Writes ConfigMaps, and knows what of each was acknowledged."""

    def __init__(self, config: ClientConfig, until: float) -> None:
        self._config, self._until = config, until
        self.acknowledged: dict[str, int] = {}

    def run(self) -> None:
        """Create, then count up, each map several times."""
        number = 0
        while time.monotonic() < self._until:
            name = f"ledger-{number % 200}"
            count = self.acknowledged.get(name, -1) + 1
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"count": str(count)}}
            try:
                path = f"{_MAPS}/{name}?fieldManager=ledger&force=true"
                Connection(self._config).request("PATCH", path, body=body, content_type="application/apply-patch+yaml")
            except (errors.APIError, OSError, click.ClickException, http.client.HTTPException):
                time.sleep(0.1)
                continue  # not acknowledged: it may be there or not
            self.acknowledged[name] = count
            number += 1

    def lost(self) -> list[str]:
        """Return the maps that hold less than was acknowledged."""
        listed = json.loads(Connection(self._config).request("GET", _MAPS))["items"]
        found = {one["metadata"]["name"]: int(one["data"]["count"]) for one in listed if "count" in one.get("data", {})}
        return [name for name, count in self.acknowledged.items() if found.get(name, -1) < count]


class _PatientSoak(soak.Soak):
    """Users who ask again when the server was away.

    What they meet as with any other server: `kubectl delete pod` overlooks that a pod of the same name is a new one
    where its watch broke meanwhile, so it gets a limit; a start hook whose agent died while it ran is not run again.
    """

    def kubectl(self, *arguments: str) -> str:
        if "delete" in arguments and "pod" in arguments:
            arguments = (*arguments, "--timeout=20s")
        deadline = time.monotonic() + soak.PATIENCE_SECONDS
        while True:
            try:
                return super().kubectl(*arguments)
            except soak.Failed as error:
                text = str(error)
                if "create" in arguments and "AlreadyExists" in text:
                    return ""  # the try before was done, though not told
                if "delete" in arguments and ("NotFound" in text or "timed out waiting" in text):
                    return ""
                if time.monotonic() > deadline or not any(one in text for one in _AWAY):
                    raise
                time.sleep(0.5)
