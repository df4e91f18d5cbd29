import Replicate, { validateWebhook } from "replicate";
import { receive } from "./callbacks.mjs";
import { download, kind, rejection } from "./video.mjs";

const { BASE, KEY } = process.env;
const client = new Replicate({ baseUrl: `${BASE}/replicate/v1`, auth: KEY });
const callbacks = await receive();
const model = "bytedance/seedance-1-pro";
const input = { prompt: "A paper boat [fault:rate_limit:1]", duration: 5, resolution: "720p", aspect_ratio: "16:9" };

const seen = [];
const created = await client.predictions.create({ model, input, webhook: callbacks.url, webhook_events_filter: ["completed"] });
const ended = await client.wait(created, { interval: 100 }, async ({ status }) => void seen.push(status));
// run is the whole of it: create, wait, and the output as a file.
const file = await client.run(model, { input: { prompt: "A kite" }, wait: { mode: "poll", interval: 100 } });
const bytes = await (await file.blob()).arrayBuffer();
const aleph = (video) => client.run("runwayml/gen4-aleph", { input: { prompt: "At night", video }, wait: { mode: "poll", interval: 100 } });
const edited = await (await (await aleph(ended.output)).blob()).arrayBuffer();
const unfetched = await rejection(aleph(`${BASE}/media/absent.mp4`));
const failed = await rejection(client.run(model, { input: { prompt: "[fault:policy]" }, wait: { mode: "poll", interval: 100 } }));
const long = await client.predictions.create({ model, input: { prompt: "A train" } });
const canceled = await client.predictions.cancel(long.id);
const invalid = await rejection(client.predictions.create({ model, input: {} }));
const stranger = new Replicate({ baseUrl: `${BASE}/replicate/v1`, auth: "wrong" });
const unknown = await rejection(stranger.predictions.create({ model, input }));

const { headers, body } = await callbacks.next();
const { key: secret } = await client.webhooks.default.secret.get();
const event = JSON.parse(body);
callbacks.close();
console.log(JSON.stringify({
  created: created.status, ended: ended.status, waited: seen.every((word) => ["starting", "processing"].includes(word)),
  video: await download(ended.output), run: kind(bytes),
  edited: kind(edited), unfetched: [unfetched.name, unfetched.response.status],
  failed: failed.message,
  canceled: canceled.status,
  invalid: [invalid.name, invalid.response.status, invalid.message.includes("prompt is required")],
  unknown: [unknown.name, unknown.response.status],
  webhook: event.status, ofThePrediction: event.id === created.id,
  verified: await validateWebhook({ headers, body }, secret),
  tampered: await validateWebhook({ headers, body: body + " " }, secret),
}));
