// What the page knows of the cluster: one stream of lines a view, and the objects they leave behind.

/** Thrown when nobody is logged in, or the token has run out. */
export class LoggedOut extends Error {}

/** Ask our server; returns the JSON of its answer. */
export async function ask(path, options = {}) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "/login") throw new LoggedOut();
  if (!answer.ok) throw new Error(body.message || answer.statusText);
  return body;
}

/** Yield the lines of an answer as they come. */
export async function* linesOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield lines;
  }
  if (rest) yield [rest];
}

/** Follows kinds and calls `changed` soon after anything has changed, at most four times a second. */
export class Live {
  constructor(query, { changed, link, ended }) {
    this.query = query;
    this.changed = changed;
    this.link = link;
    this.ended = ended;
    this.objects = {};
    this.errors = {};
    this.abort = new AbortController();
    for (const kind of query.kinds) this.objects[kind] = new Map();
    this.run();
  }

  stop() {
    this.abort.abort();
    clearTimeout(this.timer);
  }

  /** Return the objects of a kind. */
  all(kind) {
    return [...(this.objects[kind] || new Map()).values()];
  }

  async run() {
    const { kinds, ...rest } = this.query;
    const query = new URLSearchParams({ kinds: kinds.join(","), ...rest });
    while (!this.abort.signal.aborted) {
      try {
        const answer = await fetch(`/live?${query}`, { signal: this.abort.signal, credentials: "same-origin" });
        if (answer.status === 401) return this.ended();
        if (!answer.ok) throw new Error(answer.statusText);
        for await (const lines of linesOf(answer)) lines.forEach((line) => line && this.take(JSON.parse(line)));
      } catch (error) {
        if (this.abort.signal.aborted) return;
      }
      this.link("away");
      await new Promise((wake) => setTimeout(wake, 2000));
    }
  }

  take(line) {
    this.link(line.type === "DOWN" ? "away" : "live");
    if (line.type === "DOWN" || line.type === "BEAT") return;
    if (line.type === "ERROR") {
      if (line.code === 401) return this.ended();
      this.errors[line.kind] = line.message;
    } else if (line.type === "LIST") {
      delete this.errors[line.kind];
      this.objects[line.kind] = new Map(line.items.map((one) => [one.metadata.uid, one]));
    } else if (line.type === "GONE") this.objects[line.kind].delete(line.object.metadata.uid);
    else this.objects[line.kind].set(line.object.metadata.uid, line.object);
    if (!this.timer) {
      this.timer = setTimeout(() => {
        this.timer = null;
        this.changed();
      }, this.drawn ? 250 : 20);
      this.drawn = true;
    }
  }
}
