"""What is decided for a pod, step by step.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from typing import Any

import pytest

from agent.pod_state import ContainerSeen, Memory, Seen, backoff_seconds, begin_anew_at
from agent.pod_status import make_status
from agent.pod_worker import EndSidecars, KillContainer, MakeSandbox, StartContainer, StopSandbox, decide

NOW = 10_000.0


def pod(
    *names: str, init: tuple[str, ...] = (), sidecars: tuple[str, ...] = (), policy: str = "Always"
) -> dict[str, Any]:
    inits = [{"name": name, "image": "i"} for name in init]
    inits += [{"name": name, "image": "i", "restartPolicy": "Always"} for name in sidecars]
    spec = {
        "containers": [{"name": name, "image": "i"} for name in names],
        "initContainers": inits,
        "restartPolicy": policy,
    }
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}


def one(name: str, state: str, **given: Any) -> ContainerSeen:
    values: dict[str, Any] = {
        "attempt": 0,
        "started_at": NOW - 100,
        "finished_at": NOW - 50 if state == "exited" else 0.0,
    }
    return ContainerSeen(f"id-{name}", name, state, **{**values, **given})


def seen(*containers: ContainerSeen, ready: bool = True) -> Seen:
    return Seen("sandbox", sandbox_ready=ready, containers={c.name: [c] for c in containers})


def step(pod_: dict[str, Any], seen_: Seen, memory: Memory | None = None) -> list[Any]:
    return list(decide(pod_, seen_, memory or Memory(), NOW, {}).actions)


def test_a_new_pod_begins_with_its_sandbox() -> None:
    assert step(pod("a"), Seen()) == [MakeSandbox(0)]


def test_a_sandbox_that_ended_is_made_anew() -> None:
    assert step(pod("a"), seen(ready=False)) == [StopSandbox("sandbox"), MakeSandbox(1)]


def test_containers_start_together_once_there_is_a_sandbox() -> None:
    assert step(pod("a", "b"), seen()) == [StartContainer("a", 0), StartContainer("b", 0)]


def test_init_containers_run_one_by_one_before_the_others() -> None:
    waiting = pod("a", init=("x", "y"))
    assert step(waiting, seen()) == [StartContainer("x", 0)]
    assert step(waiting, seen(one("x", "running"))) == []
    assert step(waiting, seen(one("x", "exited"))) == [StartContainer("y", 0)]
    assert step(waiting, seen(one("x", "exited"), one("y", "exited"))) == [StartContainer("a", 0)]


def test_a_failed_init_container_is_tried_again_unless_never() -> None:
    failed = one("x", "exited", exit_code=1)
    assert step(pod("a", init=("x",)), seen(failed)) == [StartContainer("x", 1)]
    assert step(pod("a", init=("x",), policy="Never"), seen(failed)) == [StopSandbox("sandbox")]


def test_a_sidecar_lets_the_others_start_once_it_runs() -> None:
    waiting = pod("a", sidecars=("s",))
    assert step(waiting, seen()) == [StartContainer("s", 0)]
    assert step(waiting, seen(one("s", "running"))) == [StartContainer("a", 0)]


def test_a_sidecar_that_is_not_through_its_startup_probe_or_hook_keeps_the_others_back() -> None:
    waiting = pod("a", sidecars=("s",))
    running = seen(one("s", "running"))
    assert step(waiting, running, Memory(hooking={"id-s"})) == []
    waiting["spec"]["initContainers"][0]["startupProbe"] = {}
    assert step(waiting, running) == []
    assert step(waiting, running, Memory(started={"id-s": True})) == [StartContainer("a", 0)]


def test_a_sidecar_comes_again_beside_the_others_and_ends_after_them() -> None:
    both = pod("a", sidecars=("s", "t"), policy="Never")
    ended, running = one("s", "exited", exit_code=0), one("t", "running")
    assert step(both, seen(ended, running, one("a", "running"))) == [StartContainer("s", 1)]
    done = one("a", "exited", exit_code=0)
    assert step(both, seen(one("s", "running"), running, done)) == [EndSidecars(["s", "t"])]
    assert step(both, seen(ended, one("t", "exited"), done)) == [StopSandbox("sandbox")]
    assert status(both, seen(one("s", "running"), running, done))["phase"] == "Running"
    assert status(both, seen(ended, one("t", "exited", exit_code=137), done))["phase"] == "Succeeded"


def test_init_containers_run_anew_in_a_new_sandbox() -> None:
    old = one("x", "exited", sandbox_id="gone")
    assert step(pod("a", init=("x",)), seen(old)) == [StartContainer("x", 1)]


def test_an_ephemeral_container_runs_once_whatever_the_others_do() -> None:
    debugged = pod("a", init=("x",))
    debugged["spec"]["ephemeralContainers"] = [{"name": "e", "image": "i"}]
    assert step(debugged, seen(one("x", "running"))) == [StartContainer("e", 0)]
    assert step(debugged, seen(one("x", "running"), one("e", "exited", exit_code=1))) == []
    told = status(debugged, seen(one("x", "running"), one("e", "running")))["ephemeralContainerStatuses"]
    assert (told[0]["name"], "running" in told[0]["state"], told[0]["ready"]) == ("e", True, False)


def test_containers_behind_a_post_start_hook_wait_for_it() -> None:
    hooked = pod("a", "b")
    hooked["spec"]["containers"][0]["lifecycle"] = {"postStart": {"sleep": {"seconds": 1}}}
    assert step(hooked, seen()) == [StartContainer("a", 0)]
    assert step(hooked, seen(one("a", "running")), Memory(hooking={"id-a"})) == []
    assert step(hooked, seen(one("a", "running"))) == [StartContainer("b", 0)]


@pytest.mark.parametrize(
    ("own", "code", "again"),
    [
        ({"restartPolicy": "Never"}, 1, False), ({"restartPolicy": "OnFailure"}, 1, True),
        ({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}, 42, True),
        ({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [42]}}]}, 42, False),
    ],
)  # fmt: skip
def test_a_container_may_have_a_restart_policy_of_its_own(own: dict[str, Any], code: int, again: bool) -> None:
    ruled = pod("a", policy="Always")
    ruled["spec"]["containers"][0] |= own
    actions = step(ruled, seen(one("a", "exited", exit_code=code)))
    assert actions == ([StartContainer("a", 1)] if again else [StopSandbox("sandbox")])


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [("Always", 0, True), ("Always", 1, True), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Never", 1, False)],
)
def test_the_restart_policy_decides_what_comes_again(policy: str, code: int, restarts: bool) -> None:
    actions = step(pod("a", policy=policy), seen(one("a", "exited", exit_code=code)))
    assert actions == ([StartContainer("a", 1)] if restarts else [StopSandbox("sandbox")])


@pytest.mark.parametrize(
    ("attempt", "ran", "pause"), [(0, 1, 0), (1, 1, 10), (2, 1, 20), (3, 1, 40), (9, 1, 300), (5, 700, 0)]
)
def test_back_off_doubles_up_to_five_minutes_and_a_long_run_ends_it(attempt: int, ran: float, pause: float) -> None:
    ended = one("a", "exited", attempt=attempt, started_at=100.0, finished_at=100.0 + ran)
    assert backoff_seconds(ended, Memory()) == pause


def test_the_longest_pause_may_be_set_shorter() -> None:
    ended = one("a", "exited", attempt=9, started_at=100.0, finished_at=101.0)
    assert backoff_seconds(ended, Memory()) == 300.0
    assert backoff_seconds(ended, Memory(max_backoff=60.0)) == 60.0


def test_a_container_in_back_off_is_started_when_that_is_over() -> None:
    ended = one("a", "exited", attempt=1, exit_code=1, started_at=NOW - 4, finished_at=NOW - 3)
    decision = decide(pod("a"), seen(ended), Memory(), NOW, {})
    assert (decision.actions, decision.look_again_at) == ([], NOW + 7)


def test_an_unhealthy_container_is_killed_with_its_reason() -> None:
    memory = Memory(unhealthy={"id-a": ("why", "livenessProbe")})
    running = seen(one("a", "running"))
    assert step(pod("a"), running, memory) == [KillContainer("id-a", "a", "why, will be restarted", "livenessProbe")]
    assert step(pod("a", policy="Never"), running, memory) == [KillContainer("id-a", "a", "why", "livenessProbe")]


def test_a_container_whose_image_changed_is_replaced() -> None:
    running = one("a", "running", spec_hash="old")
    (kill,) = decide(pod("a"), seen(running), Memory(), NOW, {"a": "new"}).actions
    assert isinstance(kill, KillContainer)


def status(pod_: dict[str, Any], seen_: Seen, memory: Memory | None = None) -> dict[str, Any]:
    return make_status(pod_, seen_, memory or Memory(), NOW, "192.0.2.1", "wherry://")


@pytest.mark.parametrize(
    ("states", "policy", "phase"),
    [
        ([], "Always", "Pending"), ([("running", 0)], "Always", "Running"), ([("exited", 1)], "Always", "Running"),
        ([("exited", 0)], "Never", "Succeeded"), ([("exited", 2)], "Never", "Failed"), ([("exited", 0)], "OnFailure", "Succeeded"),
    ],
)  # fmt: skip
def test_the_phase_follows_the_containers(states: list[tuple[str, int]], policy: str, phase: str) -> None:
    containers = [one("a", state, exit_code=code) for state, code in states]
    assert status(pod("a", policy=policy), seen(*containers))["phase"] == phase


def test_back_off_is_told_in_the_words_users_know() -> None:
    ended = one("a", "exited", attempt=2, exit_code=1, started_at=NOW - 4, finished_at=NOW - 3)
    state = status(pod("a"), seen(ended))["containerStatuses"][0]
    text = "back-off 20s restarting failed container=a pod=p_n(u)"
    assert state["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
    assert state["lastState"]["terminated"]["exitCode"] == 1
    assert state["restartCount"] == 2


def test_a_container_with_a_probe_is_ready_when_that_says_so() -> None:
    probed = pod("a")
    probed["spec"]["containers"][0]["readinessProbe"] = {}
    running = seen(one("a", "running"))
    assert status(probed, running)["containerStatuses"][0]["ready"] is False
    conditions = {c["type"]: c["status"] for c in status(probed, running, Memory(ready={"id-a": True}))["conditions"]}
    assert (conditions["Ready"], conditions["ContainersReady"], conditions["Initialized"]) == ("True", "True", "True")


def test_an_agent_that_starts_anew_takes_a_ready_container_for_ready_until_its_probe_says_otherwise() -> None:
    probed = pod("a")
    probed["spec"]["containers"][0]["readinessProbe"] = {}
    told = {"name": "a", "containerID": "wherry://id-a", "ready": True, "started": True}
    probed["status"] = {"containerStatuses": [told]}
    running = seen(one("a", "running"))
    assert status(probed, running)["containerStatuses"][0]["ready"] is True
    assert status(probed, running, Memory(ready={"id-a": False}))["containerStatuses"][0]["ready"] is False
    told["containerID"] = "wherry://another"
    assert status(probed, running)["containerStatuses"][0]["ready"] is False


def test_a_condition_keeps_its_time_while_its_value_stays() -> None:
    running = pod("a")
    old = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    running["status"] = {"conditions": [old]}
    conditions = {c["type"]: c for c in status(running, seen(one("a", "running")))["conditions"]}
    assert conditions["Ready"]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    assert conditions["PodReadyToStartContainers"]["lastTransitionTime"] != "2020-01-01T00:00:00Z"


def test_a_pod_that_was_ended_tells_of_an_end_for_each_container() -> None:
    ended = one("a", "exited", exit_code=0)
    final = make_status(pod("a", "b"), seen(ended), Memory(), NOW, "192.0.2.1", "wherry://", is_final=True)
    states = [container["state"]["terminated"] for container in final["containerStatuses"]]
    assert [(state["exitCode"], state["reason"]) for state in states] == [
        (0, "Completed"),
        (137, "ContainerStatusUnknown"),
    ]
    assert final["phase"] == "Failed"
    assert make_status(pod("a"), seen(ended), Memory(), NOW, "", "", is_final=True)["phase"] == "Succeeded"


def test_what_an_init_container_held_back_is_told_to_wait_to_the_end() -> None:
    failed = seen(one("x", "exited", exit_code=1))
    final = make_status(pod("a", init=("x",), policy="Never"), failed, Memory(), NOW, "", "", is_final=True)
    assert final["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}
    assert final["phase"] == "Failed"


def test_what_ended_in_a_pod_that_is_being_deleted_does_not_back_off() -> None:
    leaving = pod("a")
    leaving["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
    ended = one("a", "exited", attempt=2, exit_code=1, started_at=NOW - 4, finished_at=NOW - 3)
    assert status(leaving, seen(ended))["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 1


def test_one_container_s_rule_has_all_begin_anew_in_order() -> None:
    all_again = pod("a", "b", init=("x",), sidecars=("s",), policy="Never")
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}
    all_again["spec"]["containers"][0]["restartPolicyRules"] = [rule]
    early = NOW - 200
    held = [
        one("x", "exited", created_at=early, exit_code=0),
        one("s", "running", created_at=early),
        one("a", "exited", created_at=early, exit_code=42),
        one("b", "running", created_at=early),
    ]

    def now_seen(*newer: ContainerSeen) -> Seen:
        found = {c.name: [c] for c in held}
        for new in newer:
            found[new.name].insert(0, new)
        since = begin_anew_at(all_again, found)
        return Seen("sandbox", sandbox_ready=True, containers=found, since=since)

    first = step(all_again, now_seen())
    assert [(type(action), action.name) for action in first] == [(KillContainer, "s"), (KillContainer, "b")]
    assert status(all_again, now_seen())["phase"] == "Running"
    held[1], held[3] = (one(name, "exited", created_at=early, exit_code=137) for name in ("s", "b"))
    assert step(all_again, now_seen()) == [StartContainer("x", 1)]
    new_init = one("x", "exited", created_at=NOW, attempt=1, exit_code=0)
    assert step(all_again, now_seen(new_init)) == [StartContainer("s", 1)]
    new_sidecar = one("s", "running", created_at=NOW, attempt=1)
    assert step(all_again, now_seen(new_init, new_sidecar)) == [StartContainer("a", 1), StartContainer("b", 1)]
    running = [one(name, "running", created_at=NOW, attempt=1) for name in ("a", "b")]
    assert step(all_again, now_seen(new_init, new_sidecar, *running)) == []
