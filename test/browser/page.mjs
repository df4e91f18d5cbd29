// The snippet for pages of docs/realtime.md, read from standard input, in a real
// Chromium. It prints what became of it.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const { BASE, TOKEN, VIDEO, CHROMIUM } = process.env;
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"] });
try {
  const page = await browser.newPage();
  await page.route("**/my/token", (route) => route.fulfill({ body: TOKEN }));
  await page.goto(BASE + "/v1/demo");
  await page.evaluate((id) => {
    document.body.innerHTML = "<progress id=bar max=100></progress><output id=note></output><video id=player muted autoplay></video>";
    window.videoId = id;
  }, VIDEO);
  await page.addScriptTag({ type: "module", content: readFileSync(0, "utf8") });
  await page.waitForFunction(() => window.note.textContent || window.player.currentTime > 0.5, null, { timeout: 60_000 });
  console.log(JSON.stringify(await page.evaluate(() => ({ plays: window.player.currentTime > 0.5, note: window.note.textContent }))));
} finally {
  await browser.close();
}
