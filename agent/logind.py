"""Has the machine's logind wait with a shutdown until the pods of this node have ended.

An inhibitor lock of the kind `delay` is held by an open descriptor: when the machine is to stop, logind says so on the
system bus and waits until the lock is given up, or its longest delay is over. Where that is less than pods may take, it
is made longer by a file among logind's own, as kubelets do.
Sources: https://systemd.io/INHIBITOR_LOCKS/, org.freedesktop.login1(5)
"""

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jeepney.io.blocking import DBusConnection

log = logging.getLogger(__name__)

BUS, ADDRESS = Path("/run/dbus/system_bus_socket"), "DBUS_SYSTEM_BUS_ADDRESS"
CONFIG = Path("/etc/systemd/logind.conf.d/99-wherry.conf")
_NAME, _PATH, _MANAGER = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
_SIGNAL = "PrepareForShutdown"
_WHY = "Kubernetes pods are ended in good order"
_CALL_SECONDS, _RETRY_SECONDS, _RELOAD_SECONDS = 10.0, 10.0, 2.0


def is_there() -> bool:
    """Whether this machine has a system bus, where logind would be."""
    return ADDRESS in os.environ or BUS.exists()


class Logind:
    """Holds a lock, and tells of shutdowns that are announced or taken back."""

    def __init__(self, told: Callable[[bool], None], seconds: Callable[[], float], config: Path = CONFIG) -> None:
        """Make one.

        Args:
            told: called with True when the machine is about to stop, with False when it is not after all.
            seconds: how long pods may take; no lock is held where that is none.
            config: the file by which logind waits that long.
        """
        self._told = told
        self._seconds = seconds
        self._config = config
        self._lock: int | None = None
        self._heard = asyncio.Event()
        self._is_stale = False

    async def run(self) -> None:
        """Hold a lock for ever, as far as there is a logind."""
        while True:
            connection = None
            self._is_stale = False
            try:
                connection = await asyncio.to_thread(self._connect)
                await self._listen(connection)
            except _failures() as error:
                log.info("no inhibitor lock is held: %s", error)
            finally:
                self.release()
                if connection is not None:
                    connection.close()
            if not self._is_stale:
                await asyncio.sleep(_RETRY_SECONDS)

    def release(self) -> None:
        """Give the lock up: the machine may stop now."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def settings_changed(self) -> None:
        """Pods may take another time than before."""
        self._is_stale = True
        self._heard.set()

    # ---- the bus

    def _connect(self) -> "DBusConnection":
        """Return a connection that will be told of shutdowns, the lock being held. Blocks."""
        from jeepney import MatchRule, message_bus
        from jeepney.io.blocking import open_dbus_connection

        connection = open_dbus_connection("SYSTEM", enable_fds=True)
        try:
            rule = MatchRule(type="signal", interface=_MANAGER, member=_SIGNAL, path=_PATH)
            connection.send_and_get_reply(message_bus.AddMatch(rule), timeout=_CALL_SECONDS)
            if self._seconds() > 0:
                self._lengthen(connection)
                self._take_lock(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _call(self, connection: "DBusConnection", method: str, signature: str = "", body: tuple[Any, ...] = ()) -> Any:
        from jeepney import DBusAddress, new_method_call
        from jeepney.wrappers import unwrap_msg

        address = DBusAddress(_PATH, _NAME, _MANAGER)
        message = new_method_call(address, method, signature or None, body)
        return unwrap_msg(connection.send_and_get_reply(message, timeout=_CALL_SECONDS))

    def _take_lock(self, connection: "DBusConnection") -> None:
        (found,) = self._call(connection, "Inhibit", "ssss", ("shutdown", "wherry-agent", _WHY, "delay"))
        self.release()
        self._lock = found.to_raw_fd()
        log.info("logind waits for pods to end before the machine stops")

    def _longest(self, connection: "DBusConnection") -> float:
        from jeepney import DBusAddress, Properties
        from jeepney.wrappers import unwrap_msg

        message = Properties(DBusAddress(_PATH, _NAME, _MANAGER)).get("InhibitDelayMaxUSec")
        ((_, microseconds),) = unwrap_msg(connection.send_and_get_reply(message, timeout=_CALL_SECONDS))
        return float(microseconds) / 1e6

    def _lengthen(self, connection: "DBusConnection") -> None:
        """Have logind wait as long as pods may take."""
        wanted = self._seconds()
        if self._longest(connection) >= wanted:
            return
        try:
            self._config.parent.mkdir(parents=True, exist_ok=True)
            why = "# Made by the node's agent, for pods may take this long to end."
            self._config.write_text(f"{why}\n[Login]\nInhibitDelayMaxSec={math.ceil(wanted)}\n")
            os.kill(self._pid(connection), signal.SIGHUP)
        except OSError as error:
            log.warning("logind was not told to wait %.0f s: %s", wanted, error)
            return
        deadline = time.monotonic() + _RELOAD_SECONDS
        while (longest := self._longest(connection)) < wanted:
            if time.monotonic() > deadline:
                log.warning("logind waits %.0f s at most, which is less than the %.0f s pods may take", longest, wanted)
                return
            time.sleep(0.05)

    def _pid(self, connection: "DBusConnection") -> int:
        from jeepney import message_bus
        from jeepney.wrappers import unwrap_msg

        message = message_bus.GetConnectionUnixProcessID(_NAME)
        (found,) = unwrap_msg(connection.send_and_get_reply(message, timeout=_CALL_SECONDS))
        return int(found)

    async def _listen(self, connection: "DBusConnection") -> None:
        """Hear signals until the connection is lost, or pods may take another time than before."""
        loop = asyncio.get_running_loop()
        loop.add_reader(connection.sock.fileno(), self._heard.set)
        try:
            while not self._is_stale:
                await self._heard.wait()
                self._heard.clear()
                for about_to in self._read(connection):
                    if not about_to and self._seconds() > 0:  # another may follow, and is to wait as well
                        await asyncio.to_thread(self._take_lock, connection)
                    self._told(about_to)
        finally:
            loop.remove_reader(connection.sock.fileno())

    def _read(self, connection: "DBusConnection") -> list[bool]:
        from jeepney import HeaderFields, MessageType

        found: list[bool] = []
        while True:
            try:
                message = connection.receive(timeout=0)
            except TimeoutError:
                return found
            fields = message.header.fields
            if message.header.message_type == MessageType.signal and fields.get(HeaderFields.member) == _SIGNAL:
                found.append(bool(message.body[0]))


def _failures() -> tuple[type[BaseException], ...]:
    from jeepney import DBusErrorResponse
    from jeepney.auth import AuthenticationError

    return (OSError, DBusErrorResponse, AuthenticationError, EOFError)
