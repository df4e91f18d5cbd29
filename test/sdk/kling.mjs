// Kling has no client library in npm; its callbacks follow Standard Webhooks,
// whose own library reads them.
import { Webhook } from "standardwebhooks";
import { outcome, receive } from "./callbacks.mjs";

const { BASE, KEY, SECRET } = process.env;
const callbacks = await receive();
const answer = await (await fetch(`${BASE}/kling/text-to-video/kling-3.0`, {
  method: "POST", headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json" },
  body: JSON.stringify({ prompt: "A paper boat", settings: { resolution: "720p", aspect_ratio: "16:9", duration: 5 }, options: { callback_url: callbacks.url, external_task_id: "attempt_1" } }),
})).json();
const verifier = new Webhook(SECRET);
const told = [await callbacks.next(), await callbacks.next()];
callbacks.close();
console.log(JSON.stringify({
  code: answer.code,
  webhooks: told.map(({ headers, body }) => verifier.verify(body, headers).status),
  ofTheTask: told.every(({ body }) => JSON.parse(body).id === answer.data.id && JSON.parse(body).external_id === "attempt_1"),
  tampered: await outcome(() => verifier.verify(told[0].body + " ", told[0].headers)),
}));
