/** Worker: serves the queues of the virtio devices that need an event loop, and the host's sockets behind them. */
import { parentPort, workerData } from "node:worker_threads";
import { PortSocket } from "../backends/sockets/port-socket.js";
import { SocketError } from "../backends/sockets/unix-listener.js";
import { VsockSockets } from "../backends/sockets/vsock-sockets.js";
import type { Board } from "./board.js";
import { EndReason } from "./exit-status.js";
import { IO_THREAD } from "./io-threads.js";
import { enterThread, type ThreadData } from "./thread-data.js";

const data = workerData as ThreadData;

await enterThread("io", data, async (board) => {
  // Waiting for a word in shared memory does not keep a Worker alive; waiting for messages does.
  parentPort?.on("message", () => {});
  const closers: (() => void)[] = [];
  try {
    await open(board, closers);
    await serve(board);
  } catch (error) {
    if (!(error instanceof SocketError)) throw error;
    board.lifecycle.end({ reason: EndReason.FAILURE, message: error.message });
  } finally {
    for (const close of closers) close();
  }
});

/** What listens on the host. Throws `SocketError`. */
async function open({ virtio }: Board, closers: (() => void)[]): Promise<void> {
  const { config } = data;
  if (virtio.vsock !== undefined && config.vsock?.uds !== undefined) {
    const { type, device } = virtio.vsock;
    const sockets = new VsockSockets(type, config.vsock.uds);
    type.attach(device, sockets);
    closers.push(() => sockets.close());
    await sockets.listen();
  } else if (virtio.vsock !== undefined) {
    virtio.vsock.type.attach(virtio.vsock.device, { connect: (_port, done) => done(undefined) });
  }
  for (const [i, { uds }] of config.consolePorts.entries()) {
    const console = virtio.console!;
    const socket = new PortSocket(() => console.device.io.ring());
    console.type.streams[1 + i] = socket;
    closers.push(() => socket.close());
    await socket.listen(uds);
  }
}

async function serve({ lifecycle, virtio, ioThreads }: Board): Promise<void> {
  while (!lifecycle.ended) {
    const seen = ioThreads.seen(IO_THREAD);
    const more = ioThreads.whileRunning(lifecycle, () => virtio.serve(IO_THREAD));
    // Sockets and terminals have their turn between two rounds.
    if (more) await new Promise(setImmediate);
    else await ioThreads.waitAsync(IO_THREAD, seen);
  }
}
