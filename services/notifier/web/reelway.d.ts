/** Types of reelway.js; docs/realtime.md explains. */

/** A video as GET /v1/videos/{id} answers it, without cost and attempts. */
export interface Video {
  id: string;
  model: string;
  status: "queued" | "in_progress" | "completed" | "failed";
  state: "queued" | "submitting" | "running" | "storing" | "succeeded" | "failed" | "canceled" | "expired" | "needs_review";
  /** 0 to 100; never goes back. */
  progress: number;
  /** Whether progress is reckoned from what this model took before. */
  progress_estimated: boolean;
  prompt: string;
  user?: string;
  metadata?: Record<string, string>;
  /** Signed; works until url_expires_at, in Unix seconds. */
  url?: string;
  url_expires_at?: number;
  error: Problem | null;
  [more: string]: unknown;
}

export interface Problem {
  code: string;
  message: string;
  retryable: boolean;
  /** With a video that failed. */
  video?: Video;
}

export interface Options {
  /** Of POST /v1/realtime/tokens. */
  token?: string;
  /** Asked for another when the token has ended. */
  refresh?: () => Promise<string>;
  /** Where Reelway is; where this module came from when left out. */
  url?: string;
  transport?: "auto" | "websocket" | "sse";
}

interface WatchEvents {
  progress: CustomEvent<Video>;
  done: CustomEvent<Video>;
  error: CustomEvent<Problem>;
  /** Of a user's watch: what is unfinished was told, or events were lost. */
  subscribed: CustomEvent<{ more?: boolean }>;
  reset: CustomEvent<object>;
}

interface LiveEvents {
  open: CustomEvent<{ transport: "websocket" | "sse" }>;
  close: CustomEvent<{ code: number; reason: string }>;
  error: CustomEvent<Problem>;
}

export class Watch extends EventTarget {
  readonly about: { video_id?: string; user?: string };
  readonly video: Video | null;
  readonly videos: Map<string, Video>;
  readonly cursor: string;
  close(): void;
  addEventListener<K extends keyof WatchEvents>(type: K, listener: (event: WatchEvents[K]) => void): void;
}

export class Live extends EventTarget {
  watch(videoId: string): Watch;
  watchUser(user: string): Watch;
  close(): void;
  addEventListener<K extends keyof LiveEvents>(type: K, listener: (event: LiveEvents[K]) => void): void;
}

export function connect(options: Options): Live;
