"""`wherry build`: buildah makes the image, we show it in BuildKit's form, and this node's pods can use it at once."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cli.dockerfile import mistake, place_of
from cli.framework import verb

_STEP = re.compile(r"(?:\[(\d+)/(\d+)\] )?STEP (\d+)/(\d+): (.*)")
_CACHED = re.compile(r"--> Using cache ([0-9a-f]+)")
_DONE = re.compile(r"--> ([0-9a-f]{6,})$|COMMIT( .*)?$")


_PASSED_ON = {
    "--add-host": True, "--annotation": True, "--build-context": True, "--ssh": True, "--ulimit": True,
    "--network": False, "--shm-size": False, "--iidfile": False, "--cgroup-parent": False, "--output": True,
}  # fmt: skip
"""Options that buildah has as Docker does, and whether they may be given several times."""


def _passed_on(command: Any) -> Any:
    for name, multiple in _PASSED_ON.items():
        short = ("-o",) if name == "--output" else ()
        command = click.option(*short, name, multiple=multiple, default=None if multiple else "")(command)
    return command


@verb()
@click.argument("context", default=".")
@click.option("-t", "--tag", "tags", multiple=True)
@click.option("-f", "--file", "dockerfile", default="")
@click.option("--target", default="")
@click.option("--build-arg", "arguments", multiple=True)
@click.option("--label", "labels", multiple=True)
@click.option("--no-cache", is_flag=True)
@click.option("--pull", is_flag=True)
@click.option("--secret", "secrets", multiple=True)
@click.option("--push", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
@click.option("--progress", type=click.Choice(["auto", "plain", "tty"]), default="auto")
@_passed_on
@click.option("--platform", default="", hidden=True)
@click.option("--load", is_flag=True, hidden=True)
def build(context: str, tags: Sequence[str], quiet: bool, push: bool, **given: Any) -> None:
    """Build an image from a Dockerfile."""
    names = build_image(context, tags, quiet=quiet, **given)
    if push:
        from cli.commands.images import push as push_image

        for name in names:
            push_image.main([name], standalone_mode=False)


def build_image(context: str, tags: Sequence[str], *, quiet: bool = False, **given: Any) -> list[str]:
    """Build an image, show how it goes, and put it into the node's store; returns its names. Raises: ClickException."""
    from cli.commands.images import full_name
    from cli.containers.node import Images

    if shutil.which("buildah") is None:
        raise click.ClickException("buildah is not installed: scripts/install brings it")
    folder = _checked_context(context, given.get("dockerfile") or "")
    source = _dockerfile(folder, given.get("dockerfile") or "")
    if source is not None and (found := mistake(source.read_text())) is not None:
        raise click.ClickException(f"{source}:{found[0]}:{found[1]}: dockerfile parse error: {found[2]}")
    names = [full_name(tag) for tag in tags]
    started = time.monotonic()
    with Images() as node:
        _offer_bases(node, folder, given.get("dockerfile") or "")
        image_id = _run(_command(folder, names, given), source, quiet=quiet)
        known = {one["id"] for one in node.call("List")}
        stored = names or [f"localhost/build:{image_id[:12]}"]
        if f"sha256:{image_id}" in known:
            for name in stored:
                node.call("Tag", name=f"sha256:{image_id}", **{"as": name})
        else:
            node.call("Import", source=f"containers-storage:{image_id}", names=stored)
    if quiet:
        click.echo(f"sha256:{image_id}")
    else:
        click.echo("exporting to image", err=True)
        click.echo(f" => writing image sha256:{image_id}", err=True)
        for name in names:
            click.echo(f" => naming to {name}", err=True)
        click.echo(f"Finished in {time.monotonic() - started:.1f}s", err=True)
    return names


def _checked_context(context: str, dockerfile: str) -> str:
    if not _is_here(context):
        return context
    if not Path(context).is_dir():
        raise click.ClickException(f'unable to prepare context: path "{context}" not found')
    place = _dockerfile(context, dockerfile)
    if place is None or not place.exists():
        raise click.ClickException(
            f"failed to read dockerfile: open {dockerfile or 'Dockerfile'}: no such file or directory"
        )
    return context


def _is_here(context: str) -> bool:
    return not (context == "-" or "://" in context or context.startswith("git@"))


def _dockerfile(context: str, dockerfile: str) -> Path | None:
    """Return the Dockerfile of a context that is a folder; None where there is none, or it is elsewhere."""
    if not _is_here(context):
        return None
    if dockerfile:
        return Path(dockerfile)
    found = (Path(context, name) for name in ("Dockerfile", "Containerfile"))
    return next((one for one in found if one.exists()), None)


def _command(context: str, names: Sequence[str], given: dict[str, Any]) -> list[str]:
    argv = ["buildah", "build", "--layers", "--isolation", "chroot", "--format", "oci"]
    argv.append("--pull-always" if given.get("pull") else "--pull=false")
    for option, values in (
        ("--tag", names),
        ("--build-arg", given.get("arguments") or ()),
        ("--label", given.get("labels") or ()),
        ("--secret", given.get("secrets") or ()),
    ):
        argv += [part for value in values for part in (option, value)]
    for name, multiple in _PASSED_ON.items():
        value = given.get(name[2:].replace("-", "_"))
        argv += [part for one in ((value or ()) if multiple else filter(None, [value])) for part in (name, one)]
    if given.get("no_cache"):
        argv.append("--no-cache")
    if given.get("target"):
        argv += ["--target", given["target"]]
    if given.get("dockerfile"):
        argv += ["--file", given["dockerfile"]]
    return [*argv, context]


def _offer_bases(node: Any, context: str, dockerfile: str) -> None:
    """Give buildah the images of this node that the Dockerfile stands on, for its store is another."""
    from cli.commands.images import as_layout, full_name, skopeo

    path = _dockerfile(context, dockerfile)
    if path is None:
        return
    found = {name: one for one in node.call("List") for name in one["tags"]}
    for match in re.finditer(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)", path.read_text(), re.IGNORECASE | re.MULTILINE):
        if "$" in match[1] or match[1] == "scratch":
            continue
        name = full_name(match[1])
        image = found.get(name)
        if image is None or _buildah_has(name):
            continue
        with as_layout(image) as source:
            skopeo("copy", "--quiet", source, f"containers-storage:{name}")


def _buildah_has(name: str) -> bool:
    done = subprocess.run(
        ["buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", name],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _run(argv: Sequence[str], source: Path | None, *, quiet: bool) -> str:
    """Run buildah and show its steps; returns the image's id. Raises: ClickException, which names the line."""
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        output = process.stdout
        lines = iter(()) if output is None else (line.rstrip("\n") for line in output)
        shown = _Progress(quiet=quiet)
        for line in lines:
            shown.take(line)
    if process.returncode:
        place = place_of(source.read_text(), shown.step) if source is not None and shown.step else None
        where = f"{source}:{place[0]}:{place[1]}: " if place else ""
        raise click.ClickException(f"{where}failed to solve: {shown.trouble()}")
    return shown.image_id


class _Progress:
    """Turns buildah's lines into BuildKit's: `[2/5] RUN …`, CACHED, the time each took."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._number = 0
        self._step = self.step = ""
        self._started = time.monotonic()
        self._kept: list[str] = []
        self.image_id = ""

    def _say(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, err=True)
            sys.stderr.flush()

    def take(self, line: str) -> None:
        """Take one line of buildah's."""
        if match := _STEP.match(line):
            self._end()
            self._number += 1
            stage = f"stage {match[1]}/{match[2]} " if match[1] else ""
            self._step = f"#{self._number} [{stage}{match[3]}/{match[4]}] {match[5]}"
            self.step = match[5]
            self._started = time.monotonic()
            self._kept = []
            self._say(self._step)
        elif _CACHED.match(line):
            self._say(f"#{self._number} CACHED")
            self._step = ""
            self._note_id(line)
        elif re.fullmatch(r"[0-9a-f]{64}", line):
            self.image_id = line
        elif not (
            _DONE.match(line)
            or line.startswith(
                ("Successfully tagged", "Getting image source", "Copying ", "Writing manifest", "Storing signatures")
            )
        ):
            self._kept.append(line)
            self._say(f"#{self._number} {line}")

    def _note_id(self, line: str) -> None:
        found = _CACHED.match(line)
        if found and len(found[1]) == 64:
            self.image_id = found[1]

    def _end(self) -> None:
        if self._step:
            self._say(f"#{self._number} DONE {time.monotonic() - self._started:.1f}s")
            self._step = ""

    def trouble(self) -> str:
        """Return what went wrong: buildah's last words."""
        lines = [line for line in self._kept if line.strip()]
        return lines[-1].removeprefix("Error: ").removeprefix("error ") if lines else "the builder failed"
