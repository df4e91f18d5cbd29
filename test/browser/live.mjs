// A real Chromium watches videos being made, through a network that is cut. It
// prints what it saw as one JSON object.
import { chromium } from "playwright-core";

const { BASE, CONTROL, CHROMIUM } = process.env;
const control = async (path) => {
  const r = await fetch(CONTROL + path, { method: "POST" });
  if (!r.ok) throw new Error(`${path}: ${r.status} ${await r.text()}`);
  return r.json();
};
const out = {};
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"] });
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(60_000);
  await page.exposeFunction("askForToken", async (about) => (await control("/token?" + about)).token);
  await page.goto(BASE + "/v1/demo");

  // Open, progress, a cut, the rest.
  let { id } = await control("/submit?slow=1");
  await page.evaluate(async (id) => {
    const { connect } = await import("/v1/reelway.js");
    window.connect = connect;
    window.told = [];
    window.closes = [];
    window.asked = 0;
    window.live = connect({ refresh: () => (window.asked++, window.askForToken("video=" + id)) });
    live.addEventListener("close", (e) => closes.push(e.detail.code));
    const watch = live.watch(id);
    for (const type of ["progress", "done"])
      watch.addEventListener(type, (e) => {
        told.push(`${e.detail.state} ${e.detail.progress}`);
        if (type === "done") window.video = e.detail;
      });
    watch.addEventListener("error", (e) => (window.failed = e.detail));
  }, id);
  const running = () => window.told.filter((t) => t.startsWith("running")).length >= 2;
  await page.waitForFunction(running);
  await control("/cut");
  await page.waitForFunction(() => window.closes.length > 0);
  out.beforeTheCut = await page.evaluate(() => window.told.length);
  await control("/pass?events=3"); // meanwhile more happens
  await control("/restore");
  await page.waitForFunction(() => window.video || window.failed);
  Object.assign(out, await page.evaluate(() => ({ told: window.told, failed: window.failed ?? null, closed: window.closes[0], asked: window.asked, cost: "cost" in window.video })));

  // The finished video plays.
  await page.evaluate(() => {
    const player = document.querySelector("video");
    player.src = window.video.url;
    return player.play();
  });
  await page.waitForFunction(() => document.querySelector("video").currentTime > 0.5);
  out.plays = await page.evaluate(() => [document.querySelector("video").videoWidth, document.querySelector("video").videoHeight]);

  // A token that is revoked, by somebody who cannot make another.
  const token = await control("/token?user=alice");
  await page.evaluate((token) => {
    window.ended = [];
    const live = window.connect({ token });
    live.addEventListener("close", (e) => ended.push(e.detail.code));
    live.addEventListener("error", (e) => ended.push(e.detail.code));
    live.watchUser("alice").addEventListener("subscribed", () => (window.subscribed = true));
  }, token.token);
  await page.waitForFunction(() => window.subscribed);
  await control("/revoke?id=" + token.id);
  await page.waitForFunction(() => window.ended.length === 2);
  out.revoked = await page.evaluate(() => window.ended);

  // Where no WebSocket gets through.
  await control("/websockets?allowed=0");
  ({ id } = await control("/submit"));
  await page.evaluate((id) => {
    window.transports = [];
    const live = window.connect({ refresh: () => window.askForToken("user=alice") });
    live.addEventListener("open", (e) => transports.push(e.detail.transport));
    live.watch(id).addEventListener("done", (e) => (window.second = e.detail.id));
  }, id);
  await page.waitForFunction(() => window.second);
  out.fallback = await page.evaluate((id) => [window.transports[0], window.second === id], id);
  await control("/websockets?allowed=1");

  // The page that shows it.
  const demo = await control("/token?video=" + id);
  await page.goto(`${BASE}/v1/demo#token=${demo.token}&video=${id}`);
  await page.reload();
  await page.waitForFunction(() => document.querySelector("video").currentTime > 0.5);
  out.demo = await page.evaluate(() => document.querySelector("output").textContent);
} finally {
  await browser.close();
}
console.log(JSON.stringify(out));
