"""`wherry api-resources`, `api-versions`, `version` and `cluster-info`."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.connection import connect
from cli.framework import Verb, verb, verb_group
from cli.printers import json_text, rows_text, yaml_text
from cli.session import Session
from machinery.errors import APIError


@verb("api-resources")
@options.connected
@options.output
@click.option("--api-group", default=None)
@click.option("--namespaced", "namespaced", type=bool, default=None)
@click.option("--verbs", default="")
@click.option("--categories", default="")
@click.option("--no-headers", is_flag=True)
@click.option("--cached", is_flag=True)
@click.option("--sort-by", default="")
def api_resources(api_group: str | None, namespaced: bool | None, **given: Any) -> None:
    """List the kinds the server knows."""
    session = Session(given)
    verbs, categories = set(filter(None, given["verbs"].split(","))), set(filter(None, given["categories"].split(",")))
    found = [
        one for one in session.discovery.preferred()
        if (api_group is None or one.resource.group == api_group)
        and (namespaced is None or one.resource.namespaced == namespaced)
        and verbs <= one.verbs and categories <= one.categories and one.verbs
    ]  # fmt: skip
    by_kind = given["sort_by"] == "kind"
    found.sort(key=lambda one: (one.resource.kind,) if by_kind else (one.resource.group, one.resource.plural))
    if given["output"] == "name":
        for one in found:
            click.echo(one.resource.group_resource)
        return
    rows = []
    for one in found:
        resource = one.resource
        row = [
            resource.plural,
            ",".join(one.short_names),
            resource.api_version,
            str(resource.namespaced).lower(),
            resource.kind,
        ]
        if given["output"] == "wide":
            row += [",".join(sorted(one.verbs)), ",".join(sorted(one.categories))]
        rows.append(row)
    headers = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]
    headers += ["VERBS", "CATEGORIES"] if given["output"] == "wide" else []
    click.echo(rows_text(headers, rows, show_headers=not given["no_headers"]))


@verb("api-versions")
@options.connected
def api_versions(**given: Any) -> None:
    """List the API versions the server knows."""
    session = Session(given)
    groups = session.connection.json("GET", "/apis")["groups"]
    core = session.connection.json("GET", "/api")["versions"]
    names = [one["groupVersion"] for group in groups for one in group["versions"]] + core
    for name in sorted(names):
        click.echo(name)


@verb()
@options.connected
@click.option("--client", is_flag=True, help="Of this command alone.")
@click.option("-o", "--output", type=click.Choice(["", "json", "yaml"]), default="")
def version(client: bool, output: str, **given: Any) -> None:
    """Show the versions of client and server."""
    own = f"v{metadata.version('wherry')}"
    found: dict[str, Any] = {
        "clientVersion": {"gitVersion": own, "platform": f"{platform.system().lower()}/{_machine()}"},
    }
    trouble: Exception | None = None
    if not client:
        try:
            found["serverVersion"] = connect(options.split(given)).json("GET", "/version")
        except (APIError, click.ClickException) as error:
            trouble = error
    if output:
        click.echo(json_text(found) if output == "json" else yaml_text(found), nl=output == "json")
    else:
        click.echo(f"Client Version: {own}")
        if "serverVersion" in found:
            click.echo(f"Server Version: {found['serverVersion']['gitVersion']}")
    if trouble is not None:
        raise trouble


def _machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@verb_group("cluster-info", invoke_without_command=True)
@options.connected
@click.pass_context
def cluster_info(ctx: click.Context, **given: Any) -> None:
    """Show where the cluster is."""
    if ctx.invoked_subcommand is not None:
        return
    session = Session(given)
    server = session.connection.config.server
    click.echo(f"Kubernetes control plane is running at {server}")
    params = {"labelSelector": "kubernetes.io/cluster-service=true"}
    for one in session.connection.json("GET", "/api/v1/namespaces/kube-system/services", params=params)["items"]:
        meta = one["metadata"]
        name = (meta.get("labels") or {}).get("kubernetes.io/name") or meta["name"]
        port = next((f":{port['name']}" for port in one["spec"].get("ports") or () if port.get("name")), "")
        click.echo(f"{name} is running at {server}/api/v1/namespaces/kube-system/services/{meta['name']}{port}/proxy")
    click.echo("\nTo further debug and diagnose cluster problems, use 'wherry cluster-info dump'.")


_DUMPED = (
    ("", "events"), ("", "replicationcontrollers"), ("", "services"), ("apps", "daemonsets"), ("apps", "deployments"),
    ("apps", "replicasets"), ("", "pods"),
)  # fmt: skip
_FILES = {"replicationcontrollers": "replication-controllers"}


@cluster_info.command(cls=Verb)
@options.connected
@options.namespaced
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("--namespaces", default="")
@click.option("--output-directory", default="-")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), default="json")
def dump(namespaces: str, output_directory: str, output: str, **given: Any) -> None:
    """Print what is needed to find out what is wrong: nodes, events, workloads, pods and their logs."""
    session = Session(given)
    wanted = namespaces.split(",") if namespaces else ["kube-system", session.namespace]
    if given["all_namespaces"]:
        wanted = [one["metadata"]["name"] for one in session.connection.json("GET", "/api/v1/namespaces")["items"]]
    write = _Dump(output_directory, output)
    write.objects("nodes", session.connection.json("GET", "/api/v1/nodes"))
    for namespace in dict.fromkeys(wanted):
        for group, plural in _DUMPED:
            root = f"/apis/{group}/v1" if group else "/api/v1"
            found = session.connection.json("GET", f"{root}/namespaces/{namespace}/{plural}")
            write.objects(f"{namespace}/{_FILES.get(plural, plural)}", found)
            if plural == "pods":
                _dump_logs(session, write, found["items"])


def _dump_logs(session: Session, write: "_Dump", pods: list[dict[str, Any]]) -> None:
    for pod in pods:
        meta = pod["metadata"]
        for container in pod["spec"]["containers"]:
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log"
            try:
                text = session.connection.request(
                    "GET", path, params={"container": container["name"]}, accept="*/*"
                ).decode(errors="replace")
            except APIError as error:
                text = f"Request log error: {error}\n"
            write.log(f"{meta['namespace']}/{meta['name']}/logs", container["name"], text)


class _Dump:
    """Writes to files of a folder, or everything to standard output."""

    def __init__(self, folder: str, form: str) -> None:
        self._folder = None if folder == "-" else Path(folder)
        self._form = form

    def objects(self, name: str, found: dict[str, Any]) -> None:
        for one in found["items"]:
            one["metadata"].pop("managedFields", None)
        text = json_text(found) + "\n" if self._form == "json" else yaml_text(found)
        self._write(f"{name}.{self._form}", text)

    def log(self, name: str, container: str, text: str) -> None:
        if self._folder is None:
            head = f"==== START logs for container {container} of pod {name.removesuffix('/logs')} ====\n"
            text = f"{head}{text}==== END logs for container {container} of pod {name.removesuffix('/logs')} ====\n"
        self._write(f"{name}.txt", text)

    def _write(self, name: str, text: str) -> None:
        if self._folder is None:
            click.echo(text, nl=False)
            return
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)
