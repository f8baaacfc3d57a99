// The first page: how the cluster is, and a picture of where pods sit and how full nodes are.

import { h, link, meter, Rows, state } from "./dom.js";
import { bytes, lastSeen, nodeState, podKind, podStatus, quantity, requests } from "./objects.js";

export const KINDS = ["pods", "nodes", "events"];
const UNPLACED = "On no node yet";

export function overview(root) {
  const tiles = h("section", { class: "tiles", "aria-label": "Summary" });
  const nodes = h("div", { class: "nodes" });
  const warnings = h("ul", { class: "plain" });
  const key = h("p", { class: "key" },
    state("good", "running"), state("busy", "starting"), state("bad", "failing"), state("done", "completed"),
    state("odd", "ending"));
  root.append(h("h1", {}, "Overview"), tiles,
    h("section", { "aria-labelledby": "where" },
      h("div", { class: "heading" }, h("h2", { id: "where" }, "Where pods sit"), key), nodes),
    h("section", { "aria-labelledby": "warned" }, h("h2", { id: "warned" }, "Latest warnings"), warnings));
  const boxes = new Rows(nodes, nodeBox);
  const rows = new Rows(warnings, warning);
  const cache = new Map();
  return (live) => {
    const pods = live.all("pods");
    showTiles(tiles, pods, live.all("nodes"), live.all("events"), live.errors);
    boxes.show(placed(pods, live.all("nodes"), cache));
    const latest = live.all("events").filter((one) => one.type === "Warning")
      .sort((one, other) => lastSeen(other).localeCompare(lastSeen(one))).slice(0, 8);
    rows.show(latest.length ? latest.map((one) => [one.metadata.uid, one.metadata.resourceVersion, one])
      : [["none", 1, null]]);
  };
}

function showTiles(root, pods, nodes, events, errors) {
  const of = (kind) => pods.filter((pod) => podKind(pod) === kind).length;
  const ready = nodes.filter((node) => nodeState(node)[1].startsWith("Ready")).length;
  const hour = Date.now() - 3600e3;
  const warned = events.filter((one) => one.type === "Warning" && Date.parse(lastSeen(one)) > hour).length;
  const tile = (name, value, kind, target) => h("a", { class: `tile ${kind}`, href: target },
    h("span", { class: "value" }, value), h("span", { class: "name" }, name));
  root.replaceChildren(
    tile("nodes ready", errors.nodes ? "?" : `${ready}/${nodes.length}`, ready < nodes.length ? "bad" : "good", "#/nodes"),
    tile("pods running", String(of("good")), "good", "#/pods"),
    tile("pods starting", String(of("busy")), of("busy") ? "busy" : "", "#/pods"),
    tile("pods failing", String(of("bad")), of("bad") ? "bad" : "", "#/pods"),
    tile("warnings in the last hour", String(warned), warned ? "busy" : "", "#/events"));
}

/** Return the boxes to draw; the version of one changes when anything in it does. */
function placed(pods, nodes, cache) {
  const byNode = new Map(nodes.map((node) => [node.metadata.name, { name: node.metadata.name, node, pods: [] }]));
  for (const pod of pods) {
    const name = pod.spec.nodeName || UNPLACED;
    if (!byNode.has(name)) byNode.set(name, { name, node: null, pods: [] });
    byNode.get(name).pods.push(pod);
  }
  const boxes = [...byNode.values()].sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  return boxes.map((box) => {
    const drawn = box.pods.map((pod) => `${pod.metadata.uid} ${pod.metadata.resourceVersion}`).sort().join();
    const seen = `${box.node ? nodeState(box.node) : ""} ${JSON.stringify(box.node?.status.allocatable || "")} ${drawn}`;
    const known = cache.get(box.name);
    if (!known || known.seen !== seen) cache.set(box.name, { seen, version: (known?.version || 0) + 1 });
    return [box.name, cache.get(box.name).version, box];
  });
}

function nodeBox({ name, node, pods }) {
  const asked = { cpu: 0, memory: 0 };
  for (const pod of pods) {
    if (["Succeeded", "Failed"].includes(pod.status?.phase)) continue;
    const one = requests(pod);
    asked.cpu += one.cpu;
    asked.memory += one.memory;
  }
  const order = (pod) => `${pod.metadata.namespace}/${pod.metadata.name}`;
  const squares = pods.sort((one, other) => order(one).localeCompare(order(other))).map(square);
  const has = node?.status.allocatable;
  const bars = has ? [
    meter("CPU", asked.cpu / quantity(has.cpu), `${asked.cpu.toFixed(2)} of ${quantity(has.cpu)}`),
    meter("Memory", asked.memory / quantity(has.memory), `${bytes(asked.memory)} of ${bytes(quantity(has.memory))}`),
    meter("Pods", pods.length / quantity(has.pods), `${pods.length} of ${has.pods}`),
  ] : [];
  return h("article", { class: "node", "data-node": name },
    h("h3", {}, name, " ", node ? state(...nodeState(node)) : ""), bars,
    h("div", { class: "squares" }, squares));
}

function square(pod) {
  const { namespace, name } = pod.metadata;
  const element = link(["pod", namespace, name]);
  const text = `${namespace}/${name}: ${podStatus(pod)}`;
  element.className = `square ${podKind(pod)}`;
  element.title = text;
  element.setAttribute("aria-label", text);
  return element;
}

function warning(event) {
  if (event === null) return h("li", { class: "quiet" }, "none");
  const { kind, namespace, name } = event.involvedObject;
  const object = kind === "Pod" ? link(["pod", namespace, name], `${namespace}/${name}`) : `${kind} ${name}`;
  return h("li", {}, state("bad", event.reason), " ", object, ": ", event.message || "");
}
