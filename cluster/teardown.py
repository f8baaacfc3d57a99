"""Leaves a machine as it was: sandboxes stopped, network rules and mounts gone."""

import subprocess
from pathlib import Path

_STOP_SECONDS = 30


def stop_sandboxes(socket: Path, log: Path) -> None:
    """Stop every sandbox a runtime holds, all at once. Raises: ClickException when the runtime does not answer."""
    import click
    import grpc

    from agent.cri import api_pb2 as cri
    from agent.cri.api_pb2_grpc import RuntimeServiceStub

    with grpc.insecure_channel(f"unix:{socket}") as channel:
        runtime = RuntimeServiceStub(channel)
        try:
            asked = cri.ListPodSandboxRequest()
            found = runtime.ListPodSandbox(asked, timeout=_STOP_SECONDS, wait_for_ready=True).items
        except grpc.RpcError as error:
            told = f"The runtime at {socket} does not answer, so pods were not stopped: {error.details()}"
            raise click.ClickException(f"{told}\nSee {log}") from error
        calls = [
            runtime.StopPodSandbox.future(cri.StopPodSandboxRequest(pod_sandbox_id=one.id), timeout=_STOP_SECONDS)
            for one in found
        ]
        for call in calls:
            call.exception()  # what would not stop is told by the next start


def leave_cgroups() -> None:
    """Remove the cgroups of pods that have ended; those of another cluster's pods are in use and stay."""
    from agent.cgroups import remove

    remove("wherry")


def leave_network(bridge: str, service_cidr: str, load_balancer: str = "") -> None:
    """Remove our nftables tables and the pods' bridge; absent ones are no error."""
    from agent.network.cleanup import cleanup

    cleanup(bridge, service_cidr, load_balancer)
    subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)


def unmount_below(folder: Path) -> None:
    """Unmount everything mounted below a folder, the innermost first."""
    root = str(folder.resolve()) + "/"
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((one for one in points if one.startswith(root)), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
