import { createPublicKey, verify } from "node:crypto";
import { readFile } from "node:fs/promises";
import { ApiError, GoogleGenAI } from "@google/genai";
import { receive } from "./callbacks.mjs";
import { kind, rejection } from "./video.mjs";

const { BASE, KEY, DIR } = process.env;
const open = (apiKey) => new GoogleGenAI({ apiKey, httpOptions: { baseUrl: `${BASE}/veo` } });
const client = open(KEY);
const callbacks = await receive();
const model = "veo-3.1-generate-preview";

const finish = async (operation) => {
  while (!operation.done) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    operation = await client.operations.getVideosOperation({ operation });
  }
  return operation;
};

const created = await client.models.generateVideos({
  model, source: { prompt: "A paper boat" },
  config: { numberOfVideos: 1, durationSeconds: 4, aspectRatio: "16:9", resolution: "720p",
    webhookConfig: { uris: [callbacks.url], userMetadata: { job: "video_1" } } },
});
const { response } = await finish(created);
await client.files.download({ file: response.generatedVideos[0].video, downloadPath: `${DIR}/genai.mp4` });
const extend = (uri) => client.models.generateVideos({ model, source: { prompt: "It sinks", video: { uri } }, config: { numberOfVideos: 1, resolution: "720p" } });
const { response: longer } = await finish(await extend(response.generatedVideos[0].video.uri));
await client.files.download({ file: longer.generatedVideos[0].video, downloadPath: `${DIR}/longer.mp4` });
const { response: filtered } = await finish(await client.models.generateVideos({ model, source: { prompt: "[fault:policy]" } }));
const { error } = await finish(await client.models.generateVideos({ model, source: { prompt: "[fault:fail_halfway]" } }));
const invalid = await rejection(client.models.generateVideos({ model, source: { prompt: "p" }, config: { durationSeconds: 60 } }));
const unknown = await rejection(open("wrong").models.generateVideos({ model, source: { prompt: "p" } }));
const lost = await rejection(extend(`${BASE}/veo/v1beta/files/absent:download?alt=media`));
const status = (refusal) => [refusal instanceof ApiError, refusal.status, JSON.parse(refusal.message).error.status];

// The SDK has no verifier: this is what Gemini's documentation tells to do.
const { headers, body } = await callbacks.next();
const event = JSON.parse(body);
const [head, claims, signature] = headers["webhook-signature"].split(".");
const { kid, alg } = JSON.parse(Buffer.from(head, "base64url"));
const { keys } = await (await fetch(`${BASE}/veo/.well-known/jwks.json`)).json();
const key = createPublicKey({ key: keys.find((jwk) => jwk.kid === kid), format: "jwk" });
callbacks.close();
console.log(JSON.stringify({
  begun: created.done ?? false, video: kind(await readFile(`${DIR}/genai.mp4`)),
  extended: kind(await readFile(`${DIR}/longer.mp4`)), lost: status(lost),
  filtered: [filtered.generatedVideos?.length ?? 0, filtered.raiMediaFilteredCount, filtered.raiMediaFilteredReasons.length],
  error: error.code,
  invalid: status(invalid), unknown: status(unknown),
  webhook: event.type, ofTheVideo: event.data.output_file_uri === response.generatedVideos[0].video.uri,
  metadata: event.user_metadata?.job,
  verified: alg === "RS256" && verify("RSA-SHA256", Buffer.from(`${head}.${claims}`), key, Buffer.from(signature, "base64url")),
}));
