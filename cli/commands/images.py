"""Docker's verbs for images: pull, push, images, rmi, inspect, history, tag, save, load, login, logout."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.containers.naming import DockerError, ago, find_container, since
from cli.containers.node import Images
from cli.framework import verb
from cli.printers import json_text, rows_text

Image = dict[str, Any]


def full_name(text: str) -> str:
    """Return an image's name with its registry and tag, as Docker fills them in."""
    name, digest = text.partition("@")[0], text.partition("@")[2]
    head, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in head or ":" in head or head == "localhost"):
        name = f"docker.io/{name}"
    if digest:
        return f"{name}@{digest}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def short_name(text: str) -> str:
    """Return a name without what Docker leaves out."""
    return text.removeprefix("docker.io/library/").removeprefix("docker.io/")


def _size(count: int) -> str:
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g}{units[0]}"


@verb()
@click.argument("names", nargs=-1, required=True)
@click.option("-q", "--quiet", is_flag=True)
@click.option("-a", "--all-tags", is_flag=True, hidden=True)
@click.option("--platform", default="", hidden=True)
def pull(names: Sequence[str], quiet: bool, **given: Any) -> None:
    """Fetch images from their registries."""
    with Images() as images:
        for text in names:
            name = full_name(text)
            if ":" not in text.rpartition("/")[2] and "@" not in text and not quiet:
                click.echo("Using default tag: latest")
            repository, _, tag = name.rpartition(":")
            if not quiet:
                click.echo(f"{tag}: Pulling from {repository.partition('/')[2]}")
            before = {one["id"] for one in images.call("List")}
            found = images.pull(name)
            one = images.call("Inspect", name=found)
            if not quiet:
                digest = next((d.partition("@")[2] for d in one["digests"]), one["manifest"])
                click.echo(f"Digest: {digest}")
                word = "Image is up to date for" if found in before else "Downloaded newer image for"
                click.echo(f"Status: {word} {short_name(name)}")
            click.echo(name)


@contextlib.contextmanager
def as_layout(image: Image) -> Iterator[str]:
    """Yield an image as a source skopeo reads: an OCI layout whose blobs are the store's."""
    manifest = Path(image["blobs"]) / image["manifest"].replace(":", "/")
    entry = {
        "mediaType": json.loads(manifest.read_bytes()).get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
        "digest": image["manifest"], "size": manifest.stat().st_size,
        "annotations": {"org.opencontainers.image.ref.name": "image"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="wherry-image-") as folder:
        (Path(folder) / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (Path(folder) / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (Path(folder) / "blobs").symlink_to(image["blobs"])
        yield f"oci:{folder}:image"


def skopeo(*arguments: str) -> None:
    """Run skopeo. Raises: DockerError."""
    done = subprocess.run(["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DockerError(done.stderr.strip().rpartition("\n")[2])


def _is_loopback(name: str) -> bool:
    return name.startswith(("localhost", "127."))


@verb()
@click.argument("name")
@click.option("-q", "--quiet", is_flag=True)
@click.option("--tls-verify/--no-tls-verify", default=True)
def push(name: str, quiet: bool, tls_verify: bool) -> None:
    """Send an image to its registry."""
    full = full_name(name)
    with Images() as images:
        image = images.call("Inspect", name=full)
    if not quiet:
        click.echo(f"The push refers to repository [{full.rpartition(':')[0]}]")
    with as_layout(image) as source:
        plain = ["--dest-tls-verify=false"] if _is_loopback(full) or not tls_verify else []
        skopeo("copy", "--quiet", *plain, source, f"docker://{full}")
    if not quiet:
        size = (Path(image["blobs"]) / image["manifest"].replace(":", "/")).stat().st_size
        click.echo(f"{full.rpartition(':')[2]}: digest: {image['manifest']} size: {size}")


@verb()
@click.argument("name", required=False)
@click.option("-q", "--quiet", is_flag=True)
@click.option("-a", "--all", "everything", is_flag=True, hidden=True)
@click.option("--no-trunc", is_flag=True)
@click.option("--digests", is_flag=True)
@click.option("--format", "template", default="")
@click.option("-f", "--filter", "filters", multiple=True)
def images(name: str | None, quiet: bool, no_trunc: bool, digests: bool, template: str, **given: Any) -> None:
    """List this node's images."""
    with Images() as node:
        found = node.call("List")
    rows = []
    for one in sorted(found, key=lambda image: str(image["config"].get("created") or ""), reverse=True):
        for tag in one["tags"] or ["<none>:<none>"]:
            repository, _, version = short_name(tag).rpartition(":")
            if name and name not in (repository, f"{repository}:{version}", tag):
                continue
            if "dangling=true" in given["filters"] and one["tags"]:
                continue
            rows.append((one, repository, version))
    if quiet:
        for image_id in dict.fromkeys(one["id"] for one, _, _ in rows):
            click.echo(image_id if no_trunc else image_id[7:19])
        return
    if template:
        from cli.containers.formatting import formatted

        views = [
            {
                "Repository": repository, "Tag": version, "ID": one["id"] if no_trunc else one["id"][7:19],
                "Size": _size(one["size"]), "CreatedSince": _created(one), "Digest": one["manifest"],
                "CreatedAt": str(one["config"].get("created") or "N/A"),
            }
            for one, repository, version in rows
        ]  # fmt: skip
        if text := formatted(template, views, {"ID": "IMAGE ID", "CreatedSince": "CREATED"}):
            click.echo(text)
        return
    head = ["REPOSITORY", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "CREATED", "SIZE"]
    lines = [
        [
            repository, version, *([one["manifest"]] if digests else []), one["id"] if no_trunc else one["id"][7:19],
            _created(one), _size(one["size"]),
        ]
        for one, repository, version in rows
    ]  # fmt: skip
    click.echo(rows_text(head, lines))


def _created(image: Image) -> str:
    stamp = image["config"].get("created")
    return f"{ago(since(stamp))} ago" if stamp and not stamp.startswith("0001") else "N/A"


@verb()
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True)
@click.option("--no-prune", is_flag=True, hidden=True)
def rmi(names: Sequence[str], force: bool, no_prune: bool) -> None:
    """Remove images from this node."""
    failed = False
    with Images() as node:
        for name in names:
            try:
                known = name if _looks_like_id(name) else full_name(name)
                gone = node.call("Remove", name=known, force=force)
            except DockerError as error:
                click.echo(error.format_message(), err=True)
                failed = True
                continue
            for tag in gone["untagged"]:
                click.echo(f"Untagged: {short_name(tag)}")
            for image_id in gone["deleted"]:
                click.echo(f"Deleted: {image_id}")
    sys.exit(1 if failed else 0)


def _looks_like_id(text: str) -> bool:
    plain = text.removeprefix("sha256:")
    return len(plain) >= 4 and all(char in "0123456789abcdef" for char in plain)


def find_image(node: Images, text: str) -> Image:
    """Return an image by its name or id. Raises: DockerError."""
    try:
        found: Image = node.call("Inspect", name=full_name(text))
    except DockerError:
        if not _looks_like_id(text):
            raise DockerError(f"No such image: {text}") from None
        found = node.call("Inspect", name=text)
    return found


@verb()
@click.argument("source")
@click.argument("target")
def tag(source: str, target: str) -> None:
    """Give an image one more name."""
    with Images() as node:
        image = find_image(node, source)
        node.call("Tag", name=image["id"], **{"as": full_name(target)})


def image_view(image: Image) -> dict[str, Any]:
    """Return an image as docker inspect shows it."""
    config = image["config"]
    return {
        "Id": image["id"], "RepoTags": [short_name(one) for one in image["tags"]], "RepoDigests": image["digests"],
        "Created": config.get("created", ""), "Architecture": config.get("architecture", ""), "Os": config.get("os", ""),
        "Size": image["size"], "Config": config.get("config") or {}, "Author": config.get("author", ""),
        "RootFS": {"Type": "layers", "Layers": (config.get("rootfs") or {}).get("diff_ids") or []},
    }  # fmt: skip


@verb()
@click.argument("names", nargs=-1, required=True)
@options.reachable
@options.in_namespace
@click.option("-f", "--format", "template", default="")
@click.option("--type", "kind", type=click.Choice(["", "image", "container"]), default="")
@click.option("-s", "--size", is_flag=True, hidden=True)
def inspect(names: Sequence[str], template: str, kind: str, **given: Any) -> None:
    """Tell all of containers and images, as JSON."""
    from cli.containers.listing import container_view
    from cli.session import Session

    found, failed = [], False
    for name in names:
        view = None
        if kind != "image":
            with contextlib.suppress(click.ClickException):
                view = container_view(find_container(Session(dict(given)), name))
        if view is None and kind != "container":
            with contextlib.suppress(click.ClickException), Images() as node:
                view = image_view(find_image(node, name))
        if view is None:
            click.echo(f"Error: No such object: {name}", err=True)
            failed = True
        else:
            found.append(view)
    if template:
        from cli import gotemplate

        for view in found:
            click.echo(json.dumps(view) if template == "json" else gotemplate.fill(_as_json(template, view), view))
    else:
        click.echo(json_text(found))
    sys.exit(1 if failed else 0)


def _as_json(template: str, view: dict[str, Any]) -> str:
    """Fill in `{{json .Path}}`, the form people use most."""
    import re

    from cli.jsonpath import path_values

    def value(match: re.Match[str]) -> str:
        found = path_values(view, match[1]) if match[1] != "." else [view]
        return json.dumps(found[0] if found else None)

    return re.sub(r"\{\{\s*json\s+(\.[\w.]*)\s*\}\}", value, template)


@verb()
@click.argument("name")
@click.option("--no-trunc", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
@click.option("-H", "--human", is_flag=True, hidden=True)
def history(name: str, no_trunc: bool, quiet: bool, human: bool) -> None:
    """Show what an image was made of."""
    with Images() as node:
        image = find_image(node, name)
    manifest = json.loads((Path(image["blobs"]) / image["manifest"].replace(":", "/")).read_bytes())
    sizes = [layer["size"] for layer in manifest["layers"]]
    rows = []
    for one in image["config"].get("history") or ():
        size = 0 if one.get("empty_layer") or not sizes else sizes.pop(0)
        text = one.get("created_by", "").replace("\t", " ")
        rows.append(
            [
                "<missing>",
                f"{ago(since(one.get('created')))} ago",
                text if no_trunc or len(text) <= 45 else f"{text[:44]}…",
                _size(size),
                one.get("comment", ""),
            ]
        )
    rows.reverse()
    if rows:
        rows[0][0] = image["id"] if no_trunc else image["id"][7:19]
    if quiet:
        click.echo("\n".join(row[0] for row in rows))
        return
    click.echo(rows_text(["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], rows))


@verb()
@click.argument("names", nargs=-1, required=True)
@click.option("-o", "--output", default="")
def save(names: Sequence[str], output: str) -> None:
    """Write an image to a tar archive."""
    if len(names) > 1:
        raise DockerError("one image can be saved at a time")
    with Images() as node:
        image = find_image(node, names[0])
    with tempfile.TemporaryDirectory(prefix="wherry-save-") as folder, as_layout(image) as source:
        path = Path(folder) / "image.tar"
        skopeo("copy", "--quiet", source, f"docker-archive:{path}:{full_name(names[0])}")
        if output:
            Path(output).write_bytes(path.read_bytes())
        elif sys.stdout.isatty():
            raise DockerError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        else:
            sys.stdout.buffer.write(path.read_bytes())


@verb()
@click.option("-i", "--input", "source", default="")
@click.option("-q", "--quiet", is_flag=True)
def load(source: str, quiet: bool) -> None:
    """Read images from a tar archive."""
    import tarfile

    with tempfile.NamedTemporaryFile(prefix="wherry-load-", suffix=".tar") as file:
        path = Path(source).absolute() if source else Path(file.name)
        if not source:
            file.write(sys.stdin.buffer.read())
            file.flush()
        try:
            with tarfile.open(path) as tar:
                member = tar.extractfile("manifest.json")
                entries = json.load(member) if member else []
        except (OSError, KeyError, tarfile.TarError) as error:
            raise DockerError(f"open {path}: {error}") from error
        with Images() as node:
            for at, entry in enumerate(entries):
                names = [full_name(name) for name in entry.get("RepoTags") or ()]
                image = node.call(
                    "Import", source=f"docker-archive:{path}:@{at}", names=names or ["localhost/loaded:latest"]
                )
                for name in names:
                    click.echo(f"Loaded image: {short_name(name)}")
                if not names:
                    click.echo(f"Loaded image ID: {image['id']}")


@verb()
@click.argument("server", default="docker.io")
@click.option("-u", "--username", prompt="Username")
@click.option("-p", "--password", default="")
@click.option("--password-stdin", is_flag=True)
def login(server: str, username: str, password: str, password_stdin: bool) -> None:
    """Remember who we are at a registry, where podman and skopeo look too."""
    if password_stdin:
        password = sys.stdin.read().rstrip("\n")
    password = password or click.prompt("Password", hide_input=True)
    plain = ["--tls-verify=false"] if _is_loopback(server) else []
    argv = ["skopeo", "login", *plain, "--username", username, "--password-stdin", server]
    done = subprocess.run(argv, input=password, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DockerError(done.stderr.strip().rpartition("\n")[2])
    click.echo("Login Succeeded")


@verb()
@click.argument("server", default="docker.io")
def logout(server: str) -> None:
    """Forget who we are at a registry."""
    done = subprocess.run(["skopeo", "logout", server], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DockerError(done.stderr.strip().rpartition("\n")[2])
    click.echo(f"Removing login credentials for {server}")
