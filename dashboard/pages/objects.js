// What is to be said of objects: pure functions of what the API tells.

const UNITS = { n: 1e-9, u: 1e-6, m: 1e-3, "": 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, Ki: 2 ** 10, Mi: 2 ** 20,
  Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50 };

/** Return a quantity ("250m", "1Gi") as a number. */
export function quantity(text) {
  const [, number, unit] = /^([0-9.eE+-]*?)([a-zA-Z]*)$/.exec(String(text ?? 0)) || [];
  return Number(number || 0) * (UNITS[unit] ?? 1);
}

/** Return bytes for people. */
export function bytes(count) {
  const unit = ["B", "Ki", "Mi", "Gi", "Ti"];
  let at = 0;
  for (; count >= 1024 && at < unit.length - 1; at++) count /= 1024;
  return `${count >= 10 || at === 0 ? Math.round(count) : count.toFixed(1)}${at ? " " + unit[at] : ""}`;
}

/** Return what a pod asks of a node: {cpu: cores, memory: bytes}; the larger of containers together and each init. */
export function requests(pod) {
  const found = {};
  for (const resource of ["cpu", "memory"]) {
    const of = (one) => quantity(one.resources?.requests?.[resource]);
    const inits = pod.spec.initContainers || [];
    const sidecars = inits.filter((one) => one.restartPolicy === "Always").reduce((sum, one) => sum + of(one), 0);
    const together = (pod.spec.containers || []).reduce((sum, one) => sum + of(one), sidecars);
    found[resource] = Math.max(together, ...inits.map(of)) + quantity(pod.spec.overhead?.[resource]);
  }
  return found;
}

/** Return a pod's state in kubectl's words. */
export function podStatus(pod) {
  const status = pod.status || {};
  let word = status.reason || status.phase || "Unknown";
  const inits = status.initContainerStatuses || [];
  const waitingInit = inits.findIndex((one) => {
    const ended = one.state?.terminated;
    return !(ended && ended.exitCode === 0) && !(one.started && isSidecar(pod, one.name));
  });
  if (waitingInit >= 0) {
    const init = inits[waitingInit];
    const reason = init.state?.terminated?.reason || init.state?.waiting?.reason;
    word = reason && reason !== "PodInitializing" ? `Init:${reason}` : `Init:${waitingInit}/${inits.length}`;
  } else {
    for (const one of [...(status.containerStatuses || [])].reverse()) {
      if (one.state?.waiting?.reason) word = one.state.waiting.reason;
      else if (one.state?.terminated) word = one.state.terminated.reason || `ExitCode:${one.state.terminated.exitCode}`;
    }
    if (word === "Completed" && (status.containerStatuses || []).some((one) => one.ready)) word = "Running";
  }
  return pod.metadata.deletionTimestamp ? (status.reason === "NodeLost" ? "Unknown" : "Terminating") : word;
}

function isSidecar(pod, name) {
  return (pod.spec.initContainers || []).some((one) => one.name === name && one.restartPolicy === "Always");
}

/** Return the kind of a pod's state: good, busy, bad, done or odd. */
export function podKind(pod) {
  const word = podStatus(pod);
  if (pod.status?.phase === "Succeeded" || word === "Completed") return "done";
  if (word === "Terminating") return "odd";
  if (word === "Running") return readyCount(pod)[0] === readyCount(pod)[1] ? "good" : "busy";
  if (/^(Pending|ContainerCreating|PodInitializing|SchedulingGated|Init:\d)/.test(word)) return "busy";
  return "bad";
}

/** Return how many of a pod's containers are ready, and how many there are. */
export function readyCount(pod) {
  const statuses = pod.status?.containerStatuses || [];
  return [statuses.filter((one) => one.ready).length, (pod.spec.containers || []).length];
}

/** Return how often a pod's containers were started again. */
export function restarts(pod) {
  return (pod.status?.containerStatuses || []).reduce((sum, one) => sum + (one.restartCount || 0), 0);
}

/** Return a condition of an object, or nothing. */
export function condition(obj, type) {
  return (obj.status?.conditions || []).find((one) => one.type === type);
}

/** Return how a node is: [kind, word]. */
export function nodeState(node) {
  const ready = condition(node, "Ready")?.status === "True";
  if (!ready) return ["bad", "NotReady"];
  return node.spec?.unschedulable ? ["odd", "Ready, cordoned"] : ["good", "Ready"];
}

/** Return how many of a workload's pods are ready, how many it asks for, and the kind of its state. */
export function workloadState(kind, one) {
  const status = one.status || {};
  if (kind === "jobs") {
    const wanted = one.spec.completions ?? 1;
    const done = condition(one, "Complete")?.status === "True";
    const failed = condition(one, "Failed")?.status === "True";
    return [status.succeeded || 0, wanted, failed ? "bad" : done ? "done" : "busy"];
  }
  if (kind === "cronjobs") return [(status.active || []).length, null, one.spec.suspend ? "odd" : "good"];
  const wanted = kind === "daemonsets" ? status.desiredNumberScheduled || 0 : one.spec.replicas ?? 1;
  const ready = (kind === "daemonsets" ? status.numberReady : status.readyReplicas) || 0;
  return [ready, wanted, ready >= wanted ? "good" : "busy"];
}

/** Return when an event was seen last. */
export function lastSeen(event) {
  return event.series?.lastObservedTime || event.lastTimestamp || event.eventTime || event.metadata.creationTimestamp;
}

/** Return what happened to a pod, in order: [{at: milliseconds, who, what}]; as `wherry timeline` tells it. */
export function moments(pod, events) {
  const words = { PodScheduled: "scheduled", PodReadyToStartContainers: "sandbox and network ready",
    Initialized: "initialized", ContainersReady: "containers ready", Ready: "ready" };
  const found = [{ at: Date.parse(pod.metadata.creationTimestamp), who: "api", what: "created" }];
  const add = (stamp, who, what) => stamp && found.push({ at: Date.parse(stamp), who, what });
  for (const one of pod.status?.conditions || []) {
    const who = one.type === "PodScheduled" ? "scheduler" : "agent";
    if (one.status === "True") add(one.lastTransitionTime, who, words[one.type] || one.type);
  }
  for (const one of [...(pod.status?.initContainerStatuses || []), ...(pod.status?.containerStatuses || [])]) {
    for (const state of [one.lastState, one.state]) {
      const { running, terminated } = state || {};
      add((running || terminated)?.startedAt, "runtime", `container ${one.name} started`);
      add(terminated?.finishedAt, "runtime", `container ${one.name} ended with ${terminated?.exitCode}`);
    }
  }
  for (const one of events) {
    if (one.reason === "Scheduled") continue;
    const who = one.source?.component || one.reportingComponent || "";
    add(one.eventTime || one.firstTimestamp || one.metadata.creationTimestamp, who, `${one.reason}: ${one.message || ""}`);
  }
  add(pod.metadata.deletionTimestamp, "", "to be gone");
  return found.sort((one, other) => one.at - other.at);
}
