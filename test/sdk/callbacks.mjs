// The receiver of a provider's callbacks, with their raw bytes.
import { createServer } from "node:http";

export async function receive() {
  const came = [], waiting = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    response.end("{}");
    const delivery = { headers: request.headers, body: Buffer.concat(chunks).toString("utf8") };
    waiting.length > 0 ? waiting.shift()(delivery) : came.push(delivery);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/callbacks`,
    next: () => (came.length > 0 ? Promise.resolve(came.shift()) : new Promise((resolve) => waiting.push(resolve))),
    close: () => server.close(),
  };
}

// outcome is "verified", or the name of the error with which a verifier refused.
export async function outcome(verify) {
  try {
    return (await verify()) === false ? "refused" : "verified";
  } catch (error) {
    return error.constructor.name;
  }
}
