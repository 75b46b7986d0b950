/** Worker: opens disks, serves their queues until the machine ends, closes them. */
import { parentPort, workerData } from "node:worker_threads";
import { type Disk, DiskError } from "../backends/disk/disk.js";
import { openDisk } from "../backends/disk/open-disk.js";
import type { DiskGeometry } from "../devices/virtio/blk.js";
import type { Board } from "./board.js";
import { diskThread } from "./io-threads.js";
import { enterThread, type ThreadData } from "./thread-data.js";

/** What the Worker posts: the disks that it has, or why it has none. */
export type DisksOpened = { readonly disks: readonly OpenedDisk[] } | { readonly problem: string };
export interface OpenedDisk extends DiskGeometry {
  readonly index: number;
}

const data = workerData as ThreadData;
const name = `disk-${data.id}`;

await enterThread(name, data, async (board) => {
  const disks: Disk[] = [];
  try {
    await open(board, disks);
    serve(board);
  } finally {
    close(board, disks);
  }
});

async function open(board: Board, disks: Disk[]): Promise<void> {
  const opened: OpenedDisk[] = [];
  try {
    for (const [index, { spec }] of data.config.disks.entries()) {
      if (diskThread(index) !== data.id) continue;
      const disk = await openDisk(spec);
      disks.push(disk);
      board.virtio.disks[index].attach(disk);
      const { sizeBytes, blockSize, discardGranularity } = disk;
      opened.push({ index, sizeBytes, blockSize, discardGranularity });
    }
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    parentPort?.postMessage({ problem: error.message } satisfies DisksOpened);
    return;
  }
  parentPort?.postMessage({ disks: opened } satisfies DisksOpened);
}

function serve({ lifecycle, virtio, ioThreads }: Board): void {
  while (!lifecycle.ended) {
    const seen = ioThreads.seen(data.id);
    const more = ioThreads.whileRunning(lifecycle, () => virtio.serve(data.id));
    if (!more) ioThreads.wait(data.id, seen);
  }
}

function close(board: Board, disks: readonly Disk[]): void {
  for (const disk of disks) {
    try {
      disk.close();
    } catch (error) {
      board.lifecycle.fail(name, error);
    }
  }
}
