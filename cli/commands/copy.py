"""`wherry cp`: files to and from containers, by tar inside the container.

What comes from a container is not trusted: nothing is written outside the destination, and links that lead out of it are
left out.
"""

import io
import posixpath
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.framework import verb
from cli.pods import REFUSED, chosen_container, find_pods
from cli.session import Session
from cli.streaming import StreamRequest, capture


@verb()
@click.argument("source")
@click.argument("destination")
@options.connected
@options.namespaced
@click.option("-c", "--container", default="")
@click.option("--no-preserve", is_flag=True, help="Leave owner and mode as they come.")
@click.option("--retries", default=0, hidden=True)
@click.option("-a", "--archive", is_flag=True, hidden=True)
def cp(source: str, destination: str, container: str, no_preserve: bool, **given: Any) -> None:
    """Copy files: cp POD:PATH HERE, or cp HERE POD:PATH; - is a tar archive on standard input or output."""
    session = Session(given)
    here, there = _remote(source), _remote(destination)
    if here and there:
        raise click.ClickException("one of src or dest must be a local file specification")
    if not here and not there:
        raise click.ClickException("one of src or dest must be a remote file specification")
    if there:
        _up(session, source, *there, container)
    elif here:
        _down(session, *here, destination, container, keep_modes=not no_preserve)


def _remote(text: str) -> tuple[str, str] | None:
    """Return pod (with its namespace before a slash) and path of `pod:path`; None for a path of ours."""
    if text.startswith((".", "/", "-")) or ":" not in text:
        return None
    pod, _, path = text.partition(":")
    if not path:
        raise click.ClickException("filepath can not be empty")
    return pod, path


def _run(session: Session, pod: str, container: str, command: tuple[str, ...], data: bytes | None = None) -> bytes:
    namespace, slash, name = pod.partition("/")
    if slash:
        session.asked_namespace = namespace
    found = find_pods(session, name if slash else pod)[0]
    chosen = chosen_container(found, container, complaint=REFUSED)
    request = StreamRequest(session.namespace, found["metadata"]["name"], chosen, command, stdin=data is not None)
    code, output, complaint = capture(session.connection, request, data or b"")
    if code and not output:
        text = complaint.decode(errors="replace").strip()
        raise click.ClickException(text or f"command terminated with exit code {code}")
    if complaint:
        click.echo(complaint, nl=False, err=True)
    return output


def _up(session: Session, source: str, pod: str, path: str, container: str) -> None:
    if source == "-":
        _run(session, pod, container, ("tar", "-xmf", "-", "-C", path), sys.stdin.buffer.read())
        return
    local = Path(source)
    if not local.exists():
        raise click.ClickException(f"{source} doesn't exist in local filesystem")
    target = path.rstrip("/")
    folder, name = posixpath.dirname(target) or ".", posixpath.basename(target)
    if path.endswith("/") or _is_folder(session, pod, container, target):
        folder, name = target or "/", local.resolve().name
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(local, arcname=name, recursive=True)
    _run(session, pod, container, ("tar", "-xmf", "-", "-C", folder), archive.getvalue())


def _is_folder(session: Session, pod: str, container: str, path: str) -> bool:
    try:
        return _run(session, pod, container, ("sh", "-c", '[ -d "$0" ] && echo yes', path)).strip() == b"yes"
    except click.ClickException:
        return False


def _down(session: Session, pod: str, path: str, destination: str, container: str, *, keep_modes: bool) -> None:
    clean = posixpath.normpath(path)
    folder, name = posixpath.dirname(clean) or ".", posixpath.basename(clean)
    if name in ("", ".", ".."):
        folder, name = clean, "."
    data = _run(session, pod, container, ("tar", "cf", "-", "-C", folder, name))
    if destination == "-":
        sys.stdout.buffer.write(data)
        return
    target = Path(destination)
    if target.is_dir() and name != ".":
        target = target / name
    for text in unpack(data, name, target, keep_modes=keep_modes):
        click.echo(f"warning: {text}", err=True)


def unpack(data: bytes, prefix: str, target: Path, *, keep_modes: bool = True) -> list[str]:
    """Write an archive's members, whose names begin with `prefix`, at `target`; returns what was left out, and why."""
    left_out = []
    root = target.resolve()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            relative = posixpath.relpath(posixpath.normpath(member.name), prefix)
            place = root if relative == "." else root / relative
            if relative.startswith("..") or posixpath.isabs(member.name) or not _is_inside(place, root):
                left_out.append(f"file {member.name!r} is outside target destination, skipping")
            elif member.issym():
                left_out += _link(member, place, root)
            elif member.isdir():
                place.mkdir(parents=True, exist_ok=True)
            elif member.isfile():
                _file(tar, member, place, keep_modes=keep_modes)
            else:
                left_out.append(f"skipping {member.name!r}: it is neither a file, a folder nor a symbolic link")
    return left_out


def _is_inside(place: Path, root: Path) -> bool:
    """Whether a place, with the links on the way to it followed, is under the root."""
    parent = place.parent.resolve() if place != root else root.parent
    return place == root or parent == root or root in parent.parents


def _link(member: tarfile.TarInfo, place: Path, root: Path) -> list[str]:
    aim = (place.parent / member.linkname).resolve()
    if aim != root and root not in aim.parents:
        return [f"skipping symlink: {place.name!r} -> {member.linkname!r} (it leads out of the destination)"]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(member.linkname)
    return []


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path, *, keep_modes: bool) -> None:
    content = tar.extractfile(member)
    if content is None:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()  # written through, a link from the archive could lead anywhere
    with place.open("wb") as file:
        shutil.copyfileobj(content, file)
    if keep_modes:
        place.chmod(member.mode & 0o777)
