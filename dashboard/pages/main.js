// Which page is shown, for whom, and in which namespace.

import { h } from "./dom.js";
import { ask, Live } from "./live.js";
import { kindsOf, list } from "./lists.js";
import { KINDS, overview } from "./overview.js";
import { pod } from "./pod.js";

const content = document.getElementById("content");
const bar = document.getElementById("bar");
const scope = document.getElementById("namespace");
const LINK = { live: "● live", away: "▲ no connection" };
let live = null;
let leave = null;

function close() {
  live?.stop();
  leave?.();
  live = leave = null;
}

/** Show the page that the address names. */
function open() {
  close();
  const [name, ...parts] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  const page = h("div", { class: "page" });
  const notice = h("div", { role: "alert" });
  content.replaceChildren(notice, page);
  let show;
  let query;
  if (name === "pod" && parts.length === 2) {
    const view = pod(parts[0], parts[1], page, login);
    [show, leave, query] = [view.show, view.stop, { kinds: ["pods", "events"], namespace: parts[0], pod: parts[1] }];
  } else if (["workloads", "pods", "nodes", "events"].includes(name)) {
    [show, query] = [list(name, page), { kinds: kindsOf(name), namespace: scope.value.trim() }];
  } else {
    [show, query] = [overview(page), { kinds: KINDS, namespace: scope.value.trim() }];
  }
  mark(name || "overview");
  live = new Live(query, {
    ended: login,
    link: setLink,
    changed: () => {
      live.changes = (live.changes || 0) + 1;
      tellErrors(notice, live.errors);
      show(live);
    },
  });
}

function mark(name) {
  for (const one of bar.querySelectorAll("nav a")) {
    if (one.getAttribute("href") === `#/${name}`) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} – Wherry`;
}

function setLink(how) {
  const element = document.getElementById("link");
  if (element.textContent !== LINK[how]) {
    element.textContent = LINK[how];
    element.className = how;
  }
}

/** Say what this user may not see; the rest of the page still works. */
function tellErrors(root, errors) {
  const texts = Object.values(errors);
  if (root.childElementCount === texts.length) return;
  root.replaceChildren(...texts.map((text) => h("p", { class: "notice" }, text,
    scope.value ? "" : " – if you may see one namespace only, name it above.")));
}

/** Ask for a token; what was shown before goes, for it was another's. */
function login() {
  close();
  bar.hidden = true;
  const token = h("input", { id: "token", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
  const problem = h("p", { class: "problem", role: "alert" });
  const form = h("form", { class: "login" },
    h("img", { src: "/pages/boat.svg", alt: "", width: 56, height: 56 }), h("h1", {}, "Wherry"),
    h("label", { for: "token" }, "Token"), token, h("button", {}, "Log in"), problem,
    h("p", { class: "quiet" }, "A token of a service account is made by ", h("code", {}, "wherry create token NAME"),
      ". You will see what it may see."));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      const { user } = await ask("/login", { method: "POST", body: JSON.stringify({ token: token.value }) });
      begin(user);
    } catch (error) {
      problem.textContent = error.message;
      token.select();
    }
  });
  document.title = "Log in – Wherry";
  content.replaceChildren(form);
  token.focus();
}

function begin(user) {
  document.getElementById("user").textContent = user;
  bar.hidden = false;
  open();
  offerNamespaces();
}

/** Offer the namespaces there are, where the user may know them; any can be typed. */
function offerNamespaces() {
  const names = new Live({ kinds: ["namespaces"] }, {
    ended: () => {},
    link: () => {},
    changed: () => {
      const found = names.all("namespaces").map((one) => one.metadata.name).sort();
      document.getElementById("namespaces").replaceChildren(...found.map((name) => h("option", { value: name })));
      names.stop();
    },
  });
}

window.addEventListener("hashchange", () => !bar.hidden && (open(), content.focus({ preventScroll: true })));
document.getElementById("scope").addEventListener("submit", (event) => event.preventDefault());
scope.addEventListener("change", open);
document.getElementById("logout").addEventListener("click", async () => {
  close();
  await ask("/logout", { method: "POST" }).catch(() => {});
  login();
});

const { user } = await ask("/me");
if (user) begin(user);
else login();
