/**
 * By hand: what requests cost the device in processor time, without a guest. 4 KiB reads, and reads of 250 scattered pages.
 * node dist/test/devices/virtio/speed.js [IMAGE]
 */
import { openDisk } from "../../../src/backends/disk/open-disk.js";
import { BlkDevice, BlkFeature } from "../../../src/devices/virtio/blk.js";
import { Feature } from "../../../src/devices/virtio/constants.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { MemoryDisk } from "./fakes.js";
import { Bench, HIGH_RAM, RINGS, Rig } from "./support.js";

const PAGE = 4096;
const ROUNDS = 3;
const SHAPES = [
  { what: "4 KiB", pages: 1, requests: 60_000 },
  { what: "250 pages", pages: 250, requests: 3_000 },
];

const file = process.argv[2];
const disk = file === undefined ? new MemoryDisk(2 << 20) : await openDisk({ file, readOnly: true });
for (const kind of RINGS) {
  for (const { what, pages, requests } of SHAPES) {
    const rig = new Rig();
    const type = new BlkDevice(rig.allocator, "blk", { queues: 1, readOnly: false, serial: "s" });
    type.describe(disk);
    type.attach(disk);
    const bench = new Bench(rig, type);
    bench.negotiate([...kind.bits, BlkFeature.FLUSH, Feature.INDIRECT_DESC, Feature.EVENT_IDX]);
    const ring = new kind.make(rig.ram, 0x10000, 256, bench.device.queues[0]);
    bench.driverOk();
    rig.ram.writeU32(gpa(0x20000), 0);
    const batch = pages === 1 ? 32 : 4;
    const sectors = Math.floor(disk.sizeBytes / 512) - pages * 8;
    for (let round = 0; round < ROUNDS; round++) {
      let inside = 0;
      let count = 0;
      while (count < requests) {
        for (let i = 0; i < batch; i++, count++) {
          rig.ram.writeU64(gpa(0x20008), BigInt((count * pages * 8) % sectors));
          const data = Array.from({ length: pages }, (_, page) => ({
            // No two that touch.
            address: HIGH_RAM + PAGE * ((page * 37 + i) % 256),
            length: PAGE,
            write: true,
          }));
          const chain = [
            { address: 0x20000, length: 16 },
            ...data,
            { address: 0x20100, length: 1, write: true },
          ];
          ring.add(chain, { indirect: 0x50000 + 64 * pages * i });
        }
        const before = process.cpuUsage();
        bench.run();
        const { user, system } = process.cpuUsage(before);
        inside += user + system;
        ring.used();
        if (disk instanceof MemoryDisk) disk.log.length = 0;
      }
      console.log(`${kind.kind}, ${what}: ${(inside / count).toFixed(2)} us of CPU a request`);
    }
  }
}
