import OpenAI from "openai";
import { outcome, receive } from "./callbacks.mjs";
import { kind, rejection } from "./video.mjs";

const { BASE, KEY, SECRET } = process.env;
const client = new OpenAI({ baseURL: `${BASE}/openai/v1`, apiKey: KEY, webhookSecret: SECRET });
const callbacks = await receive();

const finish = async (video) => {
  while (video.status === "queued" || video.status === "in_progress") {
    await new Promise((resolve) => setTimeout(resolve, 200));
    video = await client.videos.retrieve(video.id);
  }
  return video;
};

// The SDK repeats the create that is answered with 429, after the wait asked for.
const created = await client.videos.create({
  model: "sora-2", prompt: "A paper boat [fault:rate_limit:1]", seconds: "4", size: "1280x720", callback_url: callbacks.url,
});
const video = await finish(created);
const content = await client.videos.downloadContent(video.id);
const moderated = await finish(await client.videos.create({ prompt: "[fault:policy]" }));
const invalid = await rejection(client.videos.create({ prompt: "p", seconds: "900" }));
const absent = await rejection(client.videos.retrieve("video_absent"));
const stranger = new OpenAI({ baseURL: `${BASE}/openai/v1`, apiKey: "wrong" });
const unknown = await rejection(stranger.videos.create({ prompt: "p" }));

// The SDK sends a remix as JSON, an edit and an extension as forms.
const remixed = await finish(await client.videos.remix(video.id, { prompt: "In the rain" }));
const edited = await finish(await client.videos.edit({ prompt: "At night", video: { id: video.id } }));
const extended = await finish(await client.videos.extend({ prompt: "It sinks", seconds: "8", video: { id: video.id } }));
const running = await client.videos.create({ prompt: "[fault:unknown_word]" });
const unfinished = await rejection(client.videos.remix(running.id, { prompt: "p" }));

const { headers, body } = await callbacks.next();
const event = await client.webhooks.unwrap(body, headers);
callbacks.close();
console.log(JSON.stringify({
  created: created.status, ended: video.status, progress: video.progress, seconds: video.seconds, size: video.size,
  video: kind(await content.arrayBuffer()),
  moderated: [moderated.status, moderated.error.code, moderated.seconds, moderated.size],
  invalid: [invalid.constructor.name, invalid.status, invalid.code],
  absent: [absent.constructor.name, absent.status],
  unknown: [unknown.constructor.name, unknown.status, unknown.code],
  remixed: [remixed.status, remixed.remixed_from_video_id === video.id, remixed.seconds, remixed.size],
  edited: [edited.status, edited.remixed_from_video_id === video.id, edited.seconds],
  extended: [extended.status, extended.remixed_from_video_id === video.id, extended.seconds],
  unfinished: [unfinished.constructor.name, unfinished.status],
  webhook: event.type, ofTheVideo: event.data.id === video.id,
  tampered: await outcome(() => client.webhooks.unwrap(body + " ", headers)),
}));
