/**
 * Watches Reelway's videos from a browser. No dependencies.
 *
 *   import { connect } from "https://reelway.example.com/v1/reelway.js";
 *   const live = connect({ token, refresh: () => fetch("/my/token").then((r) => r.text()) });
 *   const watch = live.watch("video_…");
 *   watch.addEventListener("progress", (e) => bar.value = e.detail.progress);
 *   watch.addEventListener("done", (e) => player.src = e.detail.url);
 *   watch.addEventListener("error", (e) => alert(e.detail.message));
 *
 * A connection that breaks is made again, and goes on where it was: nothing is
 * left out and nothing comes twice. Where WebSockets do not get through, it
 * uses server-sent events. docs/realtime.md tells of tokens and close codes.
 * @module
 */

const FINAL = ["completed", "failed"];
const QUIET = 20_000; // ms without a word before a WebSocket is asked for one
const DEAD = 45_000; // ms without a word, heartbeats included, before a stream is given up
const SLOWEST = 15_000; // ms between attempts at the most

/** One video, or all of a user: an EventTarget of `progress`, `done` and `error`. */
export class Watch extends EventTarget {
  /** The last that was told, as the object of GET /v1/videos/{id}; of a user, by id. */
  video = null;
  videos = new Map();
  cursor = "";
  #seen = new Map();
  #live;

  constructor(live, about) {
    super();
    this.#live = live;
    /** What is watched: {video_id} or {user}. */
    this.about = about;
  }

  /** Ends the watch; nothing more is told. */
  close() {
    this.#live._drop(this);
  }

  _tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  _frame(f) {
    if (f.cursor) this.cursor = f.cursor;
    if (f.type === "error") {
      this.#live._drop(this);
      this._tell("error", f.error);
    } else if (f.type === "end") {
      this.#live._drop(this);
    } else if (f.type === "reset" || f.type === "subscribed") {
      this._tell(f.type, f);
    } else if (f.video && f.sequence > (this.#seen.get(f.video.id) ?? 0)) {
      const v = f.video;
      this.#seen.set(v.id, f.sequence);
      this.videos.set(v.id, v);
      this.video = v;
      if (!FINAL.includes(v.status)) return this._tell("progress", v);
      if (this.about.video_id) this.#live._drop(this);
      if (v.status === "completed") this._tell("done", v);
      else this._tell("error", { code: v.state, message: `the video is ${v.state}`, retryable: false, ...v.error, video: v });
    }
  }
}

/** A connection: `open`, `close` ({code, reason}) and `error` tell how it fares. */
export class Live extends EventTarget {
  #base;
  #token;
  #refresh;
  #transport;
  #watches = new Set();
  #streams = new Map(); // SSE: watch → AbortController
  #socket = null;
  #timer = 0;
  #tries = 0; // since something was told
  #deaf = 0; // WebSockets in a row that did not open
  #stale = false; // the token was refused
  #busy = false;
  #closed = false;

  constructor({ token = "", refresh, url = new URL(import.meta.url).origin, transport = "auto" }) {
    super();
    this.#base = url.replace(/\/$/, "");
    this.#token = token;
    this.#refresh = refresh;
    this.#transport = transport;
    globalThis.addEventListener?.("online", this.#hurry);
  }

  /** Watches one video until it is final. */
  watch(videoId) {
    return this.#add({ video_id: videoId });
  }

  /** Watches all videos of the user whom the token names. */
  watchUser(user) {
    return this.#add({ user });
  }

  /** Ends everything. */
  close() {
    this.#closed = true;
    globalThis.removeEventListener?.("online", this.#hurry);
    this.#watches.clear();
    this.#disconnect();
  }

  #add(about) {
    const w = new Watch(this, about);
    this.#watches.add(w);
    if (this.#socket?.readyState === WebSocket.OPEN) this.#subscribe(w);
    else this.#connect();
    return w;
  }

  _drop(w) {
    if (!this.#watches.delete(w)) return;
    this.#streams.get(w)?.abort();
    this.#streams.delete(w);
    const { video_id: v, user } = w.about;
    if (this.#watches.size === 0) this.#disconnect();
    else if (this.#socket?.readyState === WebSocket.OPEN)
      this.#socket.send(JSON.stringify({ type: "unsubscribe", ...(v ? { videos: [v] } : { user }) }));
  }

  #hurry = () => {
    if (this.#timer) this.#again(0);
  };

  #disconnect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    for (const s of this.#streams.values()) s.abort();
    this.#streams.clear();
    const s = this.#socket;
    this.#socket = null;
    s?.close(1000);
  }

  #again(wait = Math.min(SLOWEST, 250 * 2 ** this.#tries++) * (0.5 + Math.random() / 2)) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.#connect();
    }, wait);
  }

  async #connect() {
    if (this.#closed || this.#busy || this.#timer || this.#socket || this.#watches.size === 0) return;
    this.#busy = true;
    try {
      if (this.#stale || !this.#token) {
        // A token that is refused at once is not worth asking for for ever.
        if (!this.#refresh || this.#tries > 5) throw new Error("the token has ended");
        this.#token = await this.#refresh();
        this.#stale = false;
      }
    } catch (e) {
      if (this.#refresh && this.#tries <= 5) return this.#again(); // your back end may be out of reach too
      return this.#fail({ code: "unauthenticated", message: String(e?.message ?? e), retryable: false });
    } finally {
      this.#busy = false;
    }
    if (this.#closed || this.#watches.size === 0) return;
    if (this.#transport === "sse" || (this.#transport === "auto" && (this.#deaf > 1 || this.#streams.size))) {
      this.#deaf = 0; // next time a WebSocket may get through
      for (const w of this.#watches) if (!this.#streams.has(w)) this.#stream(w);
    } else this.#open();
  }

  #fail(error) {
    const all = [...this.#watches];
    this.#watches.clear();
    this.#disconnect();
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
    for (const w of all) w._tell("error", error);
  }

  #lost(code, reason) {
    this.#socket = null;
    if (code === 1008) this.#stale = true;
    this.dispatchEvent(new CustomEvent("close", { detail: { code, reason } }));
    if (!this.#closed && this.#watches.size) this.#again();
  }

  #subscribe(w) {
    const { video_id: v, user } = w.about;
    this.#socket.send(JSON.stringify({ type: "subscribe", after: w.cursor, ...(v ? { videos: [v] } : { user }) }));
  }

  #open() {
    let opened = false;
    let heard = Date.now();
    const ws = new WebSocket(this.#base.replace(/^http/, "ws") + "/v1/stream", ["reelway.token." + this.#token]);
    this.#socket = ws;
    const beat = setInterval(() => {
      if (Date.now() - heard > DEAD) end({ code: 1006, reason: "silent" });
      else if (opened && Date.now() - heard > QUIET) ws.send('{"type":"ping"}');
    }, 5_000);
    const end = (e) => {
      clearInterval(beat);
      ws.onopen = ws.onmessage = ws.onclose = null;
      ws.close();
      if (this.#socket !== ws) return; // we left it
      if (!opened) this.#deaf++;
      this.#lost(e.code, e.reason);
    };
    ws.onclose = end;
    ws.onopen = () => {
      opened = true;
      this.#deaf = 0;
      for (const w of this.#watches) this.#subscribe(w);
      this.dispatchEvent(new CustomEvent("open", { detail: { transport: "websocket" } }));
    };
    ws.onmessage = (e) => {
      heard = Date.now();
      this.#frame(JSON.parse(e.data));
    };
  }

  #frame(f) {
    if (f.type !== "error") this.#tries = 0;
    for (const w of [...this.#watches])
      if (w.about.video_id === f.video_id && w.about.user === f.user) w._frame(f);
  }

  async #stream(w) {
    const stop = new AbortController();
    this.#streams.set(w, stop);
    const { video_id: v, user } = w.about;
    const q = new URLSearchParams({ token: this.#token, last_event_id: w.cursor, ...(v ? {} : { user }) });
    let watchdog = 0;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => stop.abort(), DEAD);
    };
    let code = 1006;
    try {
      alive();
      const r = await fetch(`${this.#base}/v1/${v ? `videos/${encodeURIComponent(v)}/` : ""}events?${q}`, { signal: stop.signal, cache: "no-store" });
      if (r.status === 204) return this._drop(w);
      if (!r.ok) {
        if (r.status === 401) code = 1008;
        else if (r.status < 500 && r.status !== 429) {
          this._drop(w);
          return w._tell("error", (await r.json()).error);
        }
        throw new Error(r.statusText);
      }
      this.dispatchEvent(new CustomEvent("open", { detail: { transport: "sse" } }));
      let text = "";
      for (const reader = r.body.pipeThrough(new TextDecoderStream()).getReader(); ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        alive();
        const messages = (text + value).split("\n\n");
        text = messages.pop();
        for (const m of messages)
          for (const line of m.split("\n"))
            if (line.startsWith("data: ") && this.#watches.has(w)) {
              this.#tries = 0;
              w._frame(JSON.parse(line.slice(6)));
            }
      }
    } catch {
      // told below
    } finally {
      clearTimeout(watchdog);
      if (this.#streams.get(w) === stop) {
        this.#streams.delete(w);
        if (this.#watches.has(w)) this.#lost(code, "");
      }
    }
  }
}

/**
 * Makes a connection. Nothing is opened before the first watch.
 * @param {{token?: string, refresh?: () => Promise<string>, url?: string, transport?: "auto"|"websocket"|"sse"}} options
 */
export function connect(options) {
  return new Live(options);
}
