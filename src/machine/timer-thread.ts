/** Worker: runs the handlers of the machine's timers, and what the host side wants done to devices (`Board.inputArrived`). */
import { workerData } from "node:worker_threads";
import { enterThread, type ThreadData } from "./thread-data.js";
import { wakePunctually } from "./timer-slack.js";

await enterThread("timer", workerData as ThreadData, ({ lifecycle, timers }) => {
  wakePunctually();
  lifecycle.waitUntilStarted();
  timers.run();
});
