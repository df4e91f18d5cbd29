// OpenAI's SDK, unchanged, against Reelway itself; test/openai_js_test.go runs it.
import OpenAI from "openai";
import { rejection } from "./video.mjs";

const { BASE, KEY, IMAGE } = process.env;
const calls = [];
const counted = (url, init) => {
  calls.push(`${init.method.toUpperCase()} ${new URL(url).pathname}`);
  return fetch(url, init);
};
const open = (apiKey) => new OpenAI({ baseURL: `${BASE}/v1`, apiKey, fetch: counted });
const client = open(KEY);

const finish = async (video) => {
  while (video.status === "queued" || video.status === "in_progress") {
    await new Promise((resolve) => setTimeout(resolve, 200));
    video = await client.videos.retrieve(video.id);
  }
  return video;
};
const size = async (id, variant) => {
  const response = await client.videos.downloadContent(id, { variant });
  const bytes = await response.arrayBuffer();
  return [response.headers.get("content-type").split("/")[0], bytes.byteLength > 1000];
};

const created = await client.videos.create({
  model: "sora-2", prompt: "A paper boat", seconds: "4", size: "720x1280", input_reference: { image_url: IMAGE },
});
const video = await finish(created);
const variants = {};
for (const variant of ["video", "thumbnail", "spritesheet"]) variants[variant] = await size(video.id, variant);

const remixed = await client.videos.remix(video.id, { prompt: "In the rain" });
const edited = await client.videos.edit({ prompt: "At night", video: { id: video.id } });
const extended = await client.videos.extend({ prompt: "It sinks", seconds: "8", video: { id: video.id } });
const made = [];
for (const v of [remixed, edited, extended]) {
  const { status, seconds, size, remixed_from_video_id } = await finish(v);
  made.push([status, seconds, size, remixed_from_video_id === video.id]);
}

const other = await finish(await client.videos.create({ model: "kling-v2-6", prompt: "A kite", seconds: "5" }));
const listed = [];
for await (const v of client.videos.list({ limit: 2 })) listed.push(v.id);
const oldest = await client.videos.list({ limit: 1, order: "asc" });

const noRemix = await rejection(client.videos.remix(other.id, { prompt: "p" }));
const film = Buffer.from(await (await client.videos.downloadContent(video.id)).arrayBuffer());
const byFile = await finish(await client.videos.edit({ prompt: "By day", video: await OpenAI.toFile(film, "a.mp4") }));
const file = await rejection(client.videos.edit({ prompt: "p", video: await OpenAI.toFile(Buffer.from("no video"), "a.mp4") }));
const unfinished = await client.videos.create({ model: "kling-v2-6", prompt: "A raft [fault:unknown_word]", seconds: "5" });
const before = calls.length;
const tooEarly = await rejection(client.videos.edit({ prompt: "p", model: "runway-seedance-2.0", video: { id: unfinished.id } }));
const tries = calls.length - before;
const invalid = await rejection(client.videos.create({ model: "kling-v2-6", prompt: "p", seconds: "99" }));
const unknown = await rejection(open("wrong").videos.create({ prompt: "p" }));
const deleted = await client.videos.delete(other.id);
const absent = await rejection(client.videos.retrieve(other.id));
const refusal = (e) => [e.constructor.name, e.status, e.code, e.param];

console.log(JSON.stringify({
  created: [created.status, created.seconds, created.size, created.remixed_from_video_id], ended: [video.status, video.progress],
  variants, made, listed: [listed.length, new Set(listed).size, listed.includes(video.id), oldest.data[0].id === video.id],
  byFile: [byFile.status, byFile.model, byFile.seconds, byFile.remixed_from_video_id],
  noRemix: refusal(noRemix), advice: noRemix.message.includes("choose one of"), file: refusal(file), tooEarly: [...refusal(tooEarly), tries],
  invalid: refusal(invalid), unknown: refusal(unknown).slice(0, 3), deleted: [deleted.deleted, deleted.object], absent: refusal(absent).slice(0, 3),
  requestId: absent.requestID?.startsWith("req_"),
}));
