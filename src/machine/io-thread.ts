/** Worker: serves the queues of the virtio devices that need an event loop. */
import { parentPort, workerData } from "node:worker_threads";
import { IO_THREAD } from "./io-threads.js";
import { Phase } from "./lifecycle.js";
import { enterThread, type ThreadData } from "./thread-data.js";

await enterThread("io", workerData as ThreadData, async ({ lifecycle, virtio, ioThreads }) => {
  // Waiting for a word in shared memory does not keep a Worker alive; waiting for messages does.
  parentPort?.on("message", () => {});
  while (!lifecycle.ended) {
    const seen = ioThreads.seen(IO_THREAD);
    const more = lifecycle.phase === Phase.RUNNING && virtio.serve(IO_THREAD);
    // Sockets and terminals have their turn between two rounds.
    if (more) await new Promise(setImmediate);
    else await ioThreads.waitAsync(IO_THREAD, seen);
  }
});
