"""Events as the API server keeps them."""

import pytest

from machinery.api.resources import CONFIG_MAPS, EVENTS, NODES
from machinery.client import events
from machinery.client.events import EventRecorder
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.support.waiting import until

pytestmark = pytest.mark.slow


async def make_map(client: Client, name: str = "settings") -> dict[str, object]:
    return await client.create(CONFIG_MAPS, {"metadata": {"name": name, "namespace": "default"}})


async def test_an_event_tells_of_what_by_whom_and_when(client: Client) -> None:
    obj = await make_map(client)
    await EventRecorder(client, "tester", host="n1").event(obj, "Warning", "Broken", "It broke.")
    [event] = (await client.list(EVENTS, "default"))["items"]
    assert event["metadata"]["name"].startswith("settings.")
    assert event["involvedObject"] == {
        "apiVersion": "v1", "kind": "ConfigMap", "namespace": "default", "name": "settings",
        "uid": obj["metadata"]["uid"], "resourceVersion": obj["metadata"]["resourceVersion"],
    }  # fmt: skip
    assert (event["type"], event["reason"], event["message"], event["count"]) == ("Warning", "Broken", "It broke.", 1)
    assert (event["source"], event["reportingComponent"]) == ({"component": "tester", "host": "n1"}, "tester")
    assert event["firstTimestamp"] == event["lastTimestamp"]


async def test_a_repeat_is_counted_though_the_object_changed(client: Client) -> None:
    obj, recorder = await make_map(client), EventRecorder(client, "tester")
    await recorder.event(obj, "Normal", "Seen", "Once.")
    changed = await client.patch(CONFIG_MAPS, "settings", {"data": {"a": "b"}}, "default")
    await recorder.event(changed, "Normal", "Seen", "Once.")
    await recorder.event(changed, "Normal", "Seen", "Otherwise.")
    found = (await client.list(EVENTS, "default"))["items"]
    assert sorted((event["message"], event["count"]) for event in found) == [("Once.", 2), ("Otherwise.", 1)]


async def test_a_counted_event_that_was_removed_begins_anew(client: Client) -> None:
    obj, recorder = await make_map(client), EventRecorder(client, "tester")
    for _ in range(2):
        await recorder.event(obj, "Normal", "Seen", "Once.")
    await client.delete_collection(EVENTS, "default")
    await recorder.event(obj, "Normal", "Seen", "Once.")
    assert [event["count"] for event in (await client.list(EVENTS, "default"))["items"]] == [1]


async def test_events_of_objects_outside_namespaces_live_in_default(client: Client) -> None:
    node = await client.create(NODES, {"metadata": {"name": "n1"}})
    await EventRecorder(client, "tester").event(node, "Normal", "Starting", "Here I am.")
    [event] = (await client.list(EVENTS, "default"))["items"]
    assert event["involvedObject"]["name"] == "n1"


async def test_chatter_about_one_object_is_cut_and_others_are_still_heard(client: Client) -> None:
    obj, recorder = await make_map(client), EventRecorder(client, "tester")
    for at in range(events.BURST + 5):
        await recorder.event(obj, "Normal", "Chatter", f"Word {at}.")
    await recorder.event(await make_map(client, "other"), "Normal", "Seen", "Heard.")
    found = (await client.list(EVENTS, "default"))["items"]
    assert len(found) == events.BURST + 1
    assert any(event["message"] == "Heard." for event in found)


async def test_a_long_message_is_cut(client: Client) -> None:
    await EventRecorder(client, "tester").event(await make_map(client), "Normal", "Long", "x" * 5000)
    [event] = (await client.list(EVENTS, "default"))["items"]
    assert event["message"] == "x" * 1021 + "..."


async def test_failing_to_report_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    about = {"kind": "Pod", "namespace": "default", "name": "p"}
    async with Client(ClientConfig("http://127.0.0.1:9")) as client:
        await EventRecorder(client, "tester").event(about, "Normal", "Lost", "Nobody hears this.")
    assert "event Lost about p was not written" in caplog.text


async def test_events_may_be_left_to_be_written_later(client: Client) -> None:
    recorder = EventRecorder(client, "test")
    for number in range(10):
        recorder.later({"kind": "Pod", "name": f"p{number}", "namespace": "default"}, "Normal", "Made", "it is there")
    await until(client, EVENTS, lambda found: len([e for e in found if e["reason"] == "Made"]) == 10)
