"""Docker's --format and its events, made of pods."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.containers.events import time_of
from cli.containers.formatting import formatted
from cli.containers.happenings import between, gone, of_pod
from cli.containers.naming import DockerError

ROW = {"ID": "abc", "Names": "web", "RunningFor": "2 hours ago"}


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{.ID}}: {{.Names}}", "abc: web"), ("{{.ID}}\\t{{.Names}}", "abc\tweb"),
        ("table {{.ID}}\\t{{.RunningFor}}", "CONTAINER ID   CREATED\nabc            2 hours ago"),
        ("{{json .Names}}", '"web"'), ("json", '{"ID": "abc", "Names": "web", "RunningFor": "2 hours ago"}'),
    ],
)  # fmt: skip
def test_rows_are_shown_as_a_template_says(template: str, shown: str) -> None:
    assert formatted(template, [ROW]) == shown
    assert formatted(template, []).count("\n") == 0


def pod(state: dict[str, Any], *, ready: bool = False) -> dict[str, Any]:
    status = {"name": "main", "state": state, "ready": ready, "restartCount": 0}
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:05Z"}]
    return {
        "metadata": {
            "name": "web", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"label.wherry.dev/a": "b"},
        },
        "spec": {"containers": [{"name": "main", "image": "busybox", "readinessProbe": {}}], "restartPolicy": "Never"},
        "status": {"phase": "Running", "containerStatuses": [status], "conditions": conditions},
    }  # fmt: skip


def test_what_happens_to_a_container_is_told_once_and_in_order() -> None:
    waiting, running = pod({"waiting": {}}), pod({"running": {"startedAt": "2026-01-01T00:00:01Z"}})
    ended = {"startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:09Z", "exitCode": 3}
    over = pod({"terminated": ended})
    assert [one.action for one in between(None, waiting)] == ["create"]
    assert [one.action for one in between(waiting, running)] == ["start"]
    healthy = pod(running["status"]["containerStatuses"][0]["state"], ready=True)
    assert [one.action for one in between(running, healthy)] == ["health_status: healthy"]
    assert [one.attributes.get("exitCode") for one in between(healthy, over)] == ["3"]
    assert [one.action for one in of_pod(over)] == ["create", "start", "die"]
    last = gone(over, datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC))
    assert last.line().startswith("2026-01-01T00:00:10.000000000Z container destroy ")
    assert last.line().endswith("(a=b, image=busybox, name=web)")


def test_a_time_is_a_date_a_number_or_so_long_ago() -> None:
    assert time_of("2026-01-01T00:00:00Z") == time_of("1767225600") == datetime(2026, 1, 1, tzinfo=UTC)
    assert abs((time_of("10m") or datetime.min.replace(tzinfo=UTC)) - datetime.now(UTC) + timedelta(minutes=10)) < timedelta(
        seconds=5
    )  # fmt: skip
    with pytest.raises(DockerError, match="failed to parse value"):
        time_of("yesterday")
