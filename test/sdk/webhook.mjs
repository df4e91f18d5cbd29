import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const verifier = new Webhook(process.env.WEBHOOK_SECRET); // whsec_…
const [host, port] = process.env.LISTEN.split(":");

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString(); // the raw text, before anything parses it
  let event;
  try {
    event = verifier.verify(body, request.headers);
  } catch {
    response.writeHead(401).end("not signed by Reelway");
    return;
  }
  // Keep request.headers["webhook-id"]: an event may come twice.
  console.log(event.type, event.data.id);
  response.writeHead(204).end();
}).listen(Number(port), host);
