// Tables of workloads, pods, nodes and events, with a filter; the first 500 rows that match are shown.

import { age, h, link, meter, Rows, state, table } from "./dom.js";
import { bytes, lastSeen, nodeState, podKind, podStatus, quantity, readyCount, requests, restarts, workloadState }
  from "./objects.js";

const SHOWN = 500;
const WORKLOADS = { deployments: "Deployment", statefulsets: "StatefulSet", daemonsets: "DaemonSet", jobs: "Job",
  cronjobs: "CronJob" };

/** A list: what it follows, its columns, and how a row's cells come from an object; `sort` gives the order. */
const LISTS = {
  workloads: {
    title: "Workloads", kinds: Object.keys(WORKLOADS), columns: ["Kind", "Namespace", "Name", "Ready", "Images", "Age"],
    cells(one, kind) {
      const [ready, wanted, how] = workloadState(kind, one);
      const spec = (one.spec.jobTemplate?.spec || one.spec).template?.spec;
      const images = (spec?.containers || []).map((container) => container.image).join(", ");
      return [WORKLOADS[kind], one.metadata.namespace, one.metadata.name,
        state(how, wanted === null ? `${ready} active` : `${ready}/${wanted}`), images, age(one.metadata.creationTimestamp)];
    },
  },
  pods: {
    title: "Pods", kinds: ["pods"], columns: ["Namespace", "Name", "Ready", "Status", "Restarts", "Node", "Age"],
    cells(pod) {
      const { namespace, name, creationTimestamp } = pod.metadata;
      return [namespace, link(["pod", namespace, name], name), readyCount(pod).join("/"),
        state(podKind(pod), podStatus(pod)), String(restarts(pod)), pod.spec.nodeName || "–", age(creationTimestamp)];
    },
  },
  nodes: {
    title: "Nodes", kinds: ["nodes", "pods"], rows: ["nodes"],
    columns: ["Name", "Status", "Roles", "Version", "Requested CPU", "Requested memory", "Pods", "Age"],
    cells(node, _, live) {
      const pods = live.all("pods").filter((pod) => pod.spec.nodeName === node.metadata.name
        && !["Succeeded", "Failed"].includes(pod.status?.phase));
      const sum = (name) => pods.reduce((total, pod) => total + requests(pod)[name], 0);
      const has = node.status.allocatable || {};
      const role = "node-role.kubernetes.io/";
      const roles = Object.keys(node.metadata.labels || {}).filter((one) => one.startsWith(role));
      const [cpu, memory] = [sum("cpu"), sum("memory")];
      return [node.metadata.name, state(...nodeState(node)), roles.map((one) => one.slice(role.length)).join(", ") || "–",
        node.status.nodeInfo?.kubeletVersion || "", meter("", cpu / quantity(has.cpu), `${cpu.toFixed(2)} of ${has.cpu}`),
        meter("", memory / quantity(has.memory), `${bytes(memory)} of ${bytes(quantity(has.memory))}`),
        `${pods.length} of ${has.pods || "?"}`, age(node.metadata.creationTimestamp)];
    },
    version: (node, live) => `${node.metadata.resourceVersion} ${live.objects.pods.size} ${live.changes}`,
  },
  events: {
    title: "Events", kinds: ["events"], columns: ["Last seen", "Type", "Reason", "Object", "Message"], newest: true,
    cells(event) {
      const { kind, namespace, name } = event.involvedObject;
      const object = kind === "Pod" ? link(["pod", namespace, name], `pod/${name}`) : `${(kind || "").toLowerCase()}/${name}`;
      return [age(lastSeen(event)), state(event.type === "Warning" ? "bad" : "done", event.type), event.reason, object,
        event.message || ""];
    },
  },
};

export const kindsOf = (name) => LISTS[name].kinds;

export function list(name, root) {
  const { title, columns, cells, kinds, rows = kinds, newest, version } = LISTS[name];
  const filter = h("input", { type: "search", id: "filter", placeholder: "Filter", "aria-label": `Filter ${title}` });
  const count = h("span", { class: "quiet", role: "status" });
  const { frame, body } = table(title, columns);
  root.append(h("div", { class: "heading" }, h("h1", {}, title), filter, count), frame);
  let latest = null;
  const table_ = new Rows(body, ([kind, one]) =>
    h("tr", {}, cells(one, kind, latest).map((cell) => h("td", {}, cell))));

  function show(live) {
    latest = live;
    const word = filter.value.trim().toLowerCase();
    const all = rows.flatMap((kind) => live.all(kind).map((one) => [kind, one]));
    const found = all.filter(([kind, one]) => !word || text(kind, one).includes(word));
    const key = newest ? ([, one]) => lastSeen(one) : ([, one]) => `${one.metadata.namespace || ""}/${one.metadata.name}`;
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    found.sort((one, other) => (newest ? -1 : 1) * compare(key(one), key(other)));
    table_.show(found.slice(0, SHOWN).map(([kind, one]) =>
      [one.metadata.uid, version ? version(one, live) : one.metadata.resourceVersion, [kind, one]]));
    const most = found.length > SHOWN ? `the first ${SHOWN} of ${found.length}; filter for others` : `${found.length}`;
    count.textContent = found.length < all.length ? `${most} of ${all.length} in all` : most;
  }
  filter.addEventListener("input", () => latest && show(latest));
  return show;
}

function text(kind, one) {
  const about = one.involvedObject ? `${one.involvedObject.kind}/${one.involvedObject.name} ${one.reason} ${one.message}` : "";
  const how = kind === "pods" ? `${podStatus(one)} ${one.spec.nodeName || ""}` : "";
  return `${kind} ${one.metadata.namespace || ""}/${one.metadata.name} ${about} ${how}`.toLowerCase();
}
