import LumaAI from "lumaai";
import { receive } from "./callbacks.mjs";
import { download, rejection } from "./video.mjs";

const { BASE, KEY } = process.env;
const open = (authToken) => new LumaAI({ authToken, baseURL: `${BASE}/luma/dream-machine/v1` });
const client = open(KEY);
const callbacks = await receive();
const finish = async (generation) => {
  while (generation.state === "queued" || generation.state === "dreaming") {
    await new Promise((resolve) => setTimeout(resolve, 200));
    generation = await client.generations.get(generation.id);
  }
  return generation;
};

const created = await client.generations.video.create({
  model: "ray-2", prompt: "A paper boat [fault:rate_limit:1]", aspect_ratio: "16:9", duration: "5s", resolution: "720p", callback_url: callbacks.url,
});
const ended = await finish(created);
const failed = await finish(await client.generations.video.create({ model: "ray-2", prompt: "[fault:policy]" }));
const extended = await finish(await client.generations.video.create({
  model: "ray-2", prompt: "It sinks", duration: "5s", keyframes: { frame0: { type: "generation", id: created.id } },
}));
const modify = (mode) => client.generations.video.modify({ generation_type: "modify_video", model: "ray-2", mode, prompt: "At night", media: { url: ended.assets.video } });
const modified = await finish(await modify("flex_2"));
const lost = await rejection(client.generations.video.create({ model: "ray-2", prompt: "p", keyframes: { frame0: { type: "generation", id: "absent" } } }));
const manner = await rejection(modify("wild_1"));
const invalid = await rejection(client.generations.video.create({ model: "ray-2", prompt: "p", duration: "long" }));
const absent = await rejection(client.generations.get("absent"));
const unknown = await rejection(open("wrong").generations.video.create({ model: "ray-2", prompt: "p" }));
const told = [await callbacks.next(), await callbacks.next()].map(({ body }) => JSON.parse(body)); // unsigned
callbacks.close();
console.log(JSON.stringify({
  created: created.state, ended: ended.state, video: await download(ended.assets.video),
  failed: [failed.state, failed.failure_reason],
  extended: [extended.state, await download(extended.assets.video)], modified: [modified.state, await download(modified.assets.video)],
  lost: [lost instanceof LumaAI.NotFoundError, lost.status], manner: [manner instanceof LumaAI.UnprocessableEntityError, manner.status],
  invalid: [invalid instanceof LumaAI.UnprocessableEntityError, invalid.status],
  absent: [absent instanceof LumaAI.NotFoundError, absent.status],
  unknown: [unknown instanceof LumaAI.AuthenticationError, unknown.status],
  webhooks: told.map(({ state }) => state), ofTheGeneration: told.every(({ id }) => id === created.id),
}));
