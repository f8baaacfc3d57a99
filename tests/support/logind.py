"""The distribution's real systemd-logind on a bus of its own.

In place of the service manager, which would stop the machine, something answers that says every unit is there and none
can be started.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOGIND = Path("/lib/systemd/systemd-logind")
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""
# What it writes and reads on the machine is its own: its state, and its configuration.
_SCRIPT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run/systemd
mkdir -p /etc/systemd/logind.conf.d
mount --bind {folder}/conf /etc/systemd/logind.conf.d
exec {logind}
"""


def is_missing() -> str:
    """Return what such a test lacks here, "" for nothing."""
    tools = [tool for tool in ("dbus-daemon", "busctl", "unshare") if shutil.which(tool) is None]
    return ", ".join([*tools, *([] if LOGIND.exists() else ["systemd-logind"])])


@contextlib.contextmanager
def running_logind(folder: Path) -> Iterator[Path]:
    """Run a bus and a logind until the block ends; yields the folder of its configuration."""
    conf = folder / "conf"
    conf.mkdir()
    (folder / "bus.conf").write_text(_BUS.format(folder=folder))
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/bus"}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        bus = ["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--nopidfile"]
        _run(stack, bus, environment, log)
        _until((folder / "bus").exists, folder)
        script = _SCRIPT.format(folder=folder, logind=LOGIND)
        _run(stack, ["unshare", "--mount", "sh", "-c", script], environment, log)
        _until(lambda: ask(folder, "get-property", "InhibitDelayMaxUSec", check=False).startswith("t "), folder)
        stack.enter_context(_service_manager(folder))
        yield conf


@contextlib.contextmanager
def _service_manager(folder: Path) -> Iterator[None]:
    from jeepney import message_bus
    from jeepney.io.blocking import open_dbus_connection

    connection = open_dbus_connection(f"unix:path={folder}/bus")
    connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.systemd1"), timeout=5)
    thread = threading.Thread(target=_answer, args=(connection,))
    thread.start()
    yield
    with contextlib.suppress(OSError):  # the bus may be gone
        connection.sock.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    connection.close()


def _answer(connection: Any) -> None:
    from jeepney import HeaderFields, MessageType, new_error, new_method_return

    with contextlib.suppress(OSError):
        while True:
            message = connection.receive()
            if message.header.message_type != MessageType.method_call:
                continue
            asked = message.header.fields.get(HeaderFields.member)
            if asked == "Get":  # a unit's LoadState
                connection.send(new_method_return(message, "v", (("s", "loaded"),)))
            elif asked == "Subscribe":
                connection.send(new_method_return(message))
            else:
                connection.send(new_error(message, "org.freedesktop.systemd1.NoSuchUnit", "s", ("it is not there",)))


def ask(folder: Path, verb: str, what: str, *arguments: str, check: bool = True) -> str:
    """Call a method (verb call) or read a property (get-property) of logind's manager."""
    where = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"]
    done = subprocess.run(
        ["busctl", f"--address=unix:path={folder}/bus", "--timeout=5", verb, *where, what, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def _run(stack: contextlib.ExitStack, argv: list[str], environment: dict[str, str], log: object) -> None:
    process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)  # type: ignore[call-overload]
    stack.callback(process.wait, 10)
    stack.callback(process.terminate)


def _until(met: object, folder: Path) -> None:
    deadline = time.monotonic() + 10
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.02)
