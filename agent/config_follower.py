"""Looks after the node's configuration files while the agent runs: what may change at once does.

A configuration that is wrong changes nothing: the one before stays in force, and the Node's events tell why.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from agent import kubelet_config
from agent.config import AgentConfig
from agent.inotify import FolderNews
from machinery.client.events import EventRecorder

log = logging.getLogger(__name__)

_LOOK_SECONDS, _SURE_SECONDS = 2.0, 20.0
_GATHER_SECONDS = 0.1  # several files may change together


class ConfigFollower:
    """Follows the files of one agent."""

    def __init__(self, config: AgentConfig, recorder: EventRecorder, changed: Callable[[list[str]], None]) -> None:
        """Args: `changed` is told the names of the settings that changed."""
        self._config = config
        self._recorder = recorder
        self._tell = changed
        self._news: dict[str, FolderNews] = {}
        self._changed = asyncio.Event()
        self._before = config.configuration
        self._complained = ""

    async def run(self) -> None:
        """Follow for ever."""
        try:
            while True:
                self._watch()
                await self.look()
                is_told = all(one.is_told for one in self._news.values())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SURE_SECONDS if is_told else _LOOK_SECONDS):
                        await self._changed.wait()
                        await asyncio.sleep(_GATHER_SECONDS)
                self._changed.clear()
        finally:
            for one in self._news.values():
                one.close()

    def _watch(self) -> None:
        file, folder = self._config.config_file, self._config.config_dir
        for path in (file.parent if file is not None else None, folder):
            if path is not None and not ((known := self._news.get(str(path))) and known.is_told):
                self._news[str(path)] = FolderNews(path, lambda _, __: self._changed.set())

    async def look(self) -> None:
        """Look once."""
        config = self._config
        try:
            body = await asyncio.to_thread(kubelet_config.read, config.config_file, config.config_dir)
            wanted = kubelet_config.settings(body, config.fixed_settings)
            starters = kubelet_config.at_start(body)
        except kubelet_config.BadConfiguration as error:
            await self._complain(str(error))
            return
        self._complained = ""
        if body == self._before:
            return
        before = kubelet_config.at_start(self._before)
        later = sorted(name for name, ours in kubelet_config.AT_START.items() if starters.get(ours) != before.get(ours))
        self._before = body
        names = config.settings.take(wanted)
        if later:
            log.warning("%s: changed, and taken at the agent's next start", ", ".join(later))
        if names:
            log.info("settings that changed: %s", ", ".join(names))
            self._tell(names)

    async def _complain(self, why: str) -> None:
        if why == self._complained:
            return
        self._complained = why
        log.error("the configuration is not taken: %s", why)
        name = self._config.node_name
        itself = {"kind": "Node", "apiVersion": "v1", "name": name, "uid": name}
        text = f"the configuration before stays in force: {why}"
        await self._recorder.event(itself, "Warning", "InvalidKubeletConfiguration", text)
