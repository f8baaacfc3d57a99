"""Waits for containers to end, and lists what runs in one."""

from collections.abc import Sequence

import click

from cli.pods import chosen_container, find_pods
from cli.selection import Selected
from cli.session import Session
from cli.streaming import StreamRequest, capture
from cli.watching import watch_one

_FOREVER_SECONDS = 365 * 24 * 3600.0


def wait_for_ends(session: Session, names: Sequence[str]) -> int:
    """Print each container's exit code when it ends, as docker wait does; returns our own exit code."""
    if not names:
        raise click.ClickException("--for is required, or the names of containers to wait for")
    known = session.discovery.find("pods")
    for name in names:
        one = Selected(known, session.namespace, name)
        one.read(session)
        for pod in watch_one(session, one, _FOREVER_SECONDS):
            statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or ()
            ends = [status["state"]["terminated"] for status in statuses if "terminated" in (status.get("state") or {})]
            if pod is None or (
                ends and len(ends) == len(statuses) and pod["status"]["phase"] in ("Succeeded", "Failed")
            ):
                click.echo(str(max((end.get("exitCode", 0) for end in ends), default=0)))
                break
    return 0


def processes(session: Session, name: str, options: Sequence[str]) -> int:
    """Print a container's processes as its own ps(1) shows them; returns the exit code."""
    pod = find_pods(session, name)[0]
    container = chosen_container(pod, quiet=True)
    # busybox's ps may know no times.
    for columns in [options] if options else [("-o", "pid,user,time,args"), ("-o", "pid,user,args")]:
        request = StreamRequest(session.namespace, pod["metadata"]["name"], container, ("ps", *columns))
        code, output, complaint = capture(session.connection, request)
        if code == 0:
            break
    click.echo(output.decode(errors="replace"), nl=False)
    click.echo(complaint.decode(errors="replace"), nl=False, err=True)
    return code
