// A pod's page: how it is, what happened when, its containers, events and log.

import { age, h, Rows, state, table } from "./dom.js";
import { LoggedOut } from "./live.js";
import { lastSeen, moments, podKind, podStatus } from "./objects.js";

const KEPT_LINES = 5000;

export function pod(namespace, name, root, ended) {
  const title = h("h1", {}, name);
  const facts = h("dl", { class: "facts" });
  const timeline = h("ol", { class: "timeline" });
  const containers = table("Containers", ["Name", "State", "Ready", "Restarts", "Image"]);
  const events = table("Events of this pod", ["Last seen", "Type", "Reason", "From", "Message"]);
  const log = new Log(namespace, name, ended);
  root.append(h("p", { class: "quiet" }, `Pod in ${namespace}`), title, facts,
    section("Timeline", timeline), section("Containers", containers.frame), section("Log", log.element),
    section("Events", events.frame));
  const rows = new Rows(events.body, (one) => h("tr", {}, [age(lastSeen(one)),
    state(one.type === "Warning" ? "bad" : "done", one.type), one.reason,
    one.source?.component || one.reportingComponent || "", one.message || ""].map((cell) => h("td", {}, cell))));

  function show(live) {
    const [one] = live.all("pods");
    if (!one) {
      title.replaceChildren(name, " ", state("odd", live.objects.pods ? "gone or not there" : ""));
      return;
    }
    title.replaceChildren(name, " ", state(podKind(one), podStatus(one)));
    showFacts(facts, one);
    showContainers(containers.body, one);
    const of = live.all("events").filter((event) => event.involvedObject.uid === one.metadata.uid);
    showTimeline(timeline, moments(one, of));
    rows.show(of.sort((a, b) => lastSeen(b).localeCompare(lastSeen(a)))
      .map((event) => [event.metadata.uid, event.metadata.resourceVersion, event]));
    log.offer([...(one.spec.initContainers || []), ...one.spec.containers].map((each) => each.name), one);
  }
  return { show, stop: () => log.stop() };
}

function section(title, ...content) {
  return h("section", { "aria-label": title }, h("h2", {}, title), content);
}

function showFacts(root, one) {
  const owner = (one.metadata.ownerReferences || [])[0];
  const facts = { Node: one.spec.nodeName || "none yet", Address: one.status.podIP || "none yet",
    "Quality of service": one.status.qosClass || "", "Controlled by": owner ? `${owner.kind}/${owner.name}` : "nobody" };
  const problem = (one.status.conditions || []).find((each) => each.type === "PodScheduled" && each.status === "False");
  if (problem) facts["Not scheduled"] = problem.message || problem.reason;
  root.replaceChildren(...Object.entries(facts).map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value))),
    h("div", {}, h("dt", {}, "Age"), h("dd", {}, age(one.metadata.creationTimestamp))));
}

function showContainers(body, one) {
  const statuses = [...(one.status.initContainerStatuses || []), ...(one.status.containerStatuses || [])];
  body.replaceChildren(...statuses.map((each) => {
    const [word, about] = Object.entries(each.state || {})[0] || ["unknown", {}];
    const kind = word === "running" ? "good" : word === "waiting" ? "busy" : about.exitCode === 0 ? "done" : "bad";
    const cells = [each.name, state(kind, about.reason ? `${word}: ${about.reason}` : word), each.ready ? "yes" : "no",
      String(each.restartCount), each.image];
    return h("tr", {}, cells.map((cell) => h("td", {}, cell)));
  }));
}

/** Draw what happened as bars: each from the moment before to its own. */
function showTimeline(root, found) {
  const start = found[0].at;
  const whole = Math.max(found[found.length - 1].at - start, 1);
  let before = start;
  root.replaceChildren(...found.map(({ at, who, what }) => {
    const bar = h("span", { class: "bar" });
    bar.style.setProperty("margin-left", `${Math.min((before - start) / whole, 0.99) * 100}%`);
    bar.style.setProperty("width", `${Math.max(((at - before) / whole) * 100, 0.5)}%`);
    before = at;
    return h("li", {}, h("span", { class: "at" }, `${((at - start) / 1000).toFixed(3)} s`),
      h("span", { class: "lane", "aria-hidden": "true" }, bar), h("span", { class: "who" }, who),
      h("span", { class: "what" }, what));
  }));
}

/** The log of one container, followed as it is written. */
class Log {
  constructor(namespace, name, ended) {
    Object.assign(this, { namespace, name, ended });
    this.choice = h("select", { id: "container", onchange: () => this.begin() });
    this.follows = h("input", { type: "checkbox", id: "follow", checked: true });
    this.text = h("pre", { class: "log", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Log" });
    this.element = h("div", {}, h("p", { class: "controls" }, h("label", { for: "container" }, "Container"), this.choice,
      this.follows, h("label", { for: "follow" }, "Stay at the end")), this.text);
  }

  /** Offer the containers there are; begin with the first that can have a log. */
  offer(names, one) {
    if (names.join() !== this.names) {
      this.names = names.join();
      this.choice.replaceChildren(...names.map((name) => h("option", {}, name)));
      this.choice.value = one.spec.containers[0].name;
    }
    const statuses = [...(one.status.initContainerStatuses || []), ...(one.status.containerStatuses || [])];
    const chosen = statuses.find((each) => each.name === this.choice.value);
    const started = chosen && (chosen.state?.running || chosen.state?.terminated);
    const life = started && (chosen.containerID || "x");
    if (life && life !== this.life) {
      this.life = life;
      this.begin();
    }
  }

  stop() {
    this.abort?.abort();
  }

  async begin() {
    this.stop();
    this.abort = new AbortController();
    const { signal } = this.abort;
    this.text.replaceChildren();
    const query = new URLSearchParams({ namespace: this.namespace, pod: this.name, container: this.choice.value });
    try {
      const answer = await fetch(`/log?${query}`, { signal, credentials: "same-origin" });
      if (answer.status === 401) throw new LoggedOut();
      if (!answer.ok) return this.add((await answer.json()).message);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) this.add(piece.value);
    } catch (error) {
      if (error instanceof LoggedOut) this.ended();
      else if (!signal.aborted) this.add(`\n(the log broke off: ${error.message})\n`);
    }
  }

  add(text) {
    this.text.append(text.replace(/\x1b\[[0-9;?]*[a-zA-Z]/g, ""));
    while (this.text.childNodes.length > KEPT_LINES) this.text.firstChild.remove();
    if (this.follows.checked) this.text.scrollTop = this.text.scrollHeight;
  }
}
