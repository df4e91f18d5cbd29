import { createHash, createPublicKey, verify } from "node:crypto";
import { ApiError, createFalClient, ValidationError } from "@fal-ai/client";
import { outcome, receive } from "./callbacks.mjs";
import { download, rejection } from "./video.mjs";

const { BASE, KEY } = process.env;
// The client has its address built in; its middleware leads it here, and leaves
// path, headers and body as they are.
const requestMiddleware = async (request) => ({ ...request, url: request.url.replace("https://queue.fal.run", `${BASE}/fal`) });
const open = (credentials) => createFalClient({ credentials, requestMiddleware });
const client = open(KEY);
const callbacks = await receive();
const endpoint = "fal-ai/veo3.1/fast";
const prompt = "A paper boat";

const states = [];
const result = await client.subscribe(endpoint, {
  input: { prompt, duration: "8s", resolution: "720p", aspect_ratio: "16:9" }, pollInterval: 100, webhookUrl: callbacks.url,
  onQueueUpdate: ({ status }) => void states.push(status),
});
const { video } = result.data;
const extended = await client.subscribe("fal-ai/veo3.1/extend-video", { input: { prompt, video_url: video.url, duration: "7s" }, pollInterval: 100 });
const edited = await client.subscribe("fal-ai/kling-video/o1/video-to-video/edit", { input: { prompt, video_url: video.url }, pollInterval: 100 });
const unfetched = await rejection(client.queue.submit("fal-ai/veo3.1/extend-video", { input: { prompt, video_url: `${BASE}/media/absent.mp4` } }));
const refused = await rejection(client.subscribe(endpoint, { input: { prompt: "[fault:policy]" }, pollInterval: 100 }));
const broken = await rejection(client.subscribe(endpoint, { input: { prompt: "[fault:fail_halfway]" }, pollInterval: 100 }));
const invalid = await rejection(client.queue.submit(endpoint, { input: {} }));
const unknown = await rejection(open("wrong").queue.submit(endpoint, { input: { prompt } }));
const { request_id: requestId, response_url } = await client.queue.submit(endpoint, { input: { prompt } });
await client.queue.cancel(endpoint, { requestId });
const canceled = await client.queue.status(endpoint, { requestId });

// The client has no verifier: this is the one of fal's documentation.
const { headers, body } = await callbacks.next();
const { keys } = await (await fetch(`${BASE}/fal/.well-known/jwks.json`)).json();
const signed = (text) => {
  const of = (name) => headers[`x-fal-webhook-${name}`];
  const message = [of("request-id"), of("user-id"), of("timestamp"), createHash("sha256").update(text).digest("hex")].join("\n");
  return keys.some((jwk) => verify(null, Buffer.from(message), createPublicKey({ key: jwk, format: "jwk" }), Buffer.from(of("signature"), "hex")));
};
callbacks.close();
console.log(JSON.stringify({
  ended: states.at(-1), known: states.every((word) => ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"].includes(word)),
  video: await download(video.url), extended: await download(extended.data.video.url), edited: await download(edited.data.video.url),
  unfetched: [unfetched instanceof ValidationError, unfetched.status],
  refused: [refused instanceof ValidationError, refused.status, refused.fieldErrors?.[0].type],
  broken: [broken instanceof ApiError, broken.status, broken.body?.error_type],
  invalid: [invalid instanceof ValidationError, invalid.status, invalid.getFieldErrors?.("prompt").length],
  unknown: [unknown instanceof ApiError, unknown.status],
  canceled: canceled.status, shortened: response_url.endsWith(`/fal-ai/veo3.1/requests/${requestId}`),
  webhook: JSON.parse(body).status, ofTheRequest: JSON.parse(body).request_id === result.requestId,
  verified: signed(body), tampered: await outcome(() => signed(body + " ")),
}));
