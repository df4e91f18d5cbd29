// OpenAI's client against Reelway: a file, or an object, as input_reference.
import fs from "node:fs";
import OpenAI, { toFile } from "openai";
import { rejection } from "./video.mjs";

const { BASE, KEY, FILE } = process.env;
const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: KEY });
const wanted = { model: "kling-v2-6", prompt: "A boat [fetch]", seconds: "5" };

const video = await client.videos.create({ ...wanted, input_reference: fs.createReadStream(FILE) });

const answer = await fetch(`${BASE}/v1/uploads`, {
  method: "POST", headers: { authorization: `Bearer ${KEY}`, "content-type": "image/png" }, body: fs.readFileSync(FILE),
});
const upload = await answer.json();
const byID = await client.videos.create({ ...wanted, input_reference: { file_id: upload.id } });

const refused = await rejection(client.videos.create({ ...wanted, input_reference: await toFile(Buffer.from("no image"), "a.png", { type: "image/png" }) }));
console.log(JSON.stringify({ video: video.id, byID: byID.id, refused: [refused.constructor.name, refused.status, refused.param] }));
