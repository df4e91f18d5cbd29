import RunwayML, { TaskFailedError } from "@runwayml/sdk";
import { download, rejection } from "./video.mjs";

const { BASE, KEY } = process.env;
const open = (apiKey) => new RunwayML({ apiKey, baseURL: `${BASE}/runway` });
const client = open(KEY);
const task = (promptText, duration = 5) => client.textToVideo.create({ model: "gen4.5", promptText, ratio: "1280:720", duration });

// waitForTaskOutput asks for the first time after some 6 s.
const [done, failed] = await Promise.all([
  task("A paper boat [fault:rate_limit:1]").waitForTaskOutput(),
  rejection(task("[fault:policy]").waitForTaskOutput()),
]);
const fromImage = await client.imageToVideo.create({ model: "gen4.5", promptText: "p", promptImage: "https://images.example/a.png", ratio: "1280:720", duration: 5 });
const pending = await client.tasks.retrieve(fromImage.id);
await client.tasks.delete(fromImage.id);
const canceled = await client.tasks.retrieve(fromImage.id);
const videoToVideo = (body) => client.videoToVideo.create(body).waitForTaskOutput();
const [edited, referred] = await Promise.all([
  videoToVideo({ model: "aleph2", promptText: "At night", videoUri: done.output[0] }),
  videoToVideo({ model: "seedance2", promptText: "At night", promptVideo: done.output[0], duration: 4, ratio: "1280:720" }),
]);
const unfetched = await rejection(client.videoToVideo.create({ model: "aleph2", promptText: "p", videoUri: `${BASE}/media/absent.mp4` }));
const invalid = await rejection(task("p", 60));
const absent = await rejection(client.tasks.retrieve("absent"));
const unknown = await rejection(open("wrong").textToVideo.create({ model: "gen4.5", promptText: "p", ratio: "1280:720", duration: 5 }));
console.log(JSON.stringify({
  ended: done.status, cost: done.cost.credits, video: await download(done.output[0]),
  failed: [failed instanceof TaskFailedError, failed.taskDetails.failureCode, failed.taskDetails.cost.credits],
  estimated: [fromImage.estimatedCost.credits, pending.status, pending.estimatedCost.credits],
  canceled: canceled.status,
  edited: [edited.status, await download(edited.output[0])], referred: [referred.status, await download(referred.output[0])],
  unfetched: [unfetched instanceof RunwayML.BadRequestError, unfetched.status],
  invalid: [invalid instanceof RunwayML.BadRequestError, invalid.status],
  absent: [absent instanceof RunwayML.NotFoundError, absent.status],
  unknown: [unknown instanceof RunwayML.AuthenticationError, unknown.status],
}));
