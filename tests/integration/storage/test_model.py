"""Both stores against a dict, in sequences that Hypothesis thinks up."""

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from apiserver.storage.interface import KeyExists, KeyNotFound, RevisionConflict
from tests.integration.storage.conftest import opened

KEYS = st.sampled_from([f"/registry/pods/{name}" for name in "abcd"])
VALUES = st.binary(min_size=1, max_size=20)


def machine(kind: str) -> type[RuleBasedStateMachine]:
    """Return the state machine of one kind of store."""

    class Model(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.folder = tempfile.TemporaryDirectory()
            self.stack = contextlib.AsyncExitStack()
            self.store: Any = self.do(self.stack.enter_async_context(opened(kind, Path(self.folder.name))))
            self.live: dict[str, tuple[bytes, int]] = {}
            self.written: list[tuple[int, str, bool]] = []
            self.start = self.do(self.store.current_revision())

        def do(self, work: Any) -> Any:
            return self.runner.run(work)

        def teardown(self) -> None:
            async def replay() -> list[tuple[int, str, bool]]:
                found: list[tuple[int, str, bool]] = []
                async with self.store.watch("/registry/", start_revision=self.start + 1) as stream, asyncio.timeout(10):
                    while len(found) < len(self.written):
                        batch = await anext(stream)
                        found += [(change.mod_revision, change.key, change.deleted) for change in batch.changes]
                return found

            try:
                if self.written:
                    assert self.do(replay()) == self.written
            finally:
                self.do(self.stack.aclose())
                self.runner.close()
                self.folder.cleanup()

        def _note(self, revision: int, key: str, *, deleted: bool = False) -> None:
            assert revision > max([self.start, *(one[0] for one in self.written)])
            self.written.append((revision, key, deleted))

        @rule(key=KEYS, value=VALUES)
        def create(self, key: str, value: bytes) -> None:
            if key in self.live:
                with pytest.raises(KeyExists):
                    self.do(self.store.create(key, value))
            else:
                revision = self.do(self.store.create(key, value))
                self._note(revision, key)
                self.live[key] = (value, revision)

        @rule(key=KEYS, value=VALUES, stale=st.booleans())
        def update(self, key: str, value: bytes, stale: bool) -> None:
            expected = self.live.get(key, (b"", 1))[1] - (1 if stale and key in self.live else 0)
            if key not in self.live:
                with pytest.raises(KeyNotFound):
                    self.do(self.store.update(key, value, expected_revision=expected))
            elif stale:
                with pytest.raises(RevisionConflict):
                    self.do(self.store.update(key, value, expected_revision=expected))
            else:
                revision = self.do(self.store.update(key, value, expected_revision=expected))
                self._note(revision, key)
                self.live[key] = (value, revision)

        @rule(key=KEYS, stale=st.booleans())
        def delete(self, key: str, stale: bool) -> None:
            if key not in self.live:
                with pytest.raises(KeyNotFound):
                    self.do(self.store.delete(key, expected_revision=1))
            elif stale:
                with pytest.raises(RevisionConflict):
                    self.do(self.store.delete(key, expected_revision=self.live[key][1] - 1))
            else:
                revision = self.do(self.store.delete(key, expected_revision=self.live.pop(key)[1]))
                self._note(revision, key, deleted=True)

        @invariant()
        def the_list_is_what_was_written(self) -> None:
            listing = self.do(self.store.list("/registry/"))
            assert {item.key: (item.value, item.mod_revision) for item in listing.items} == self.live

    return Model


def _limited(kind: str, examples: int) -> Any:
    case = machine(kind).TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return pytest.mark.slow(pytest.mark.timeout(120)(case))


TestSQLite = _limited("sqlite", 25)
TestEtcd = _limited("etcd", 6)
