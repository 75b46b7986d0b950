/** By hand: what a 4 KiB read costs the device, without guest and host disk. node dist/test/devices/virtio/speed.js [IMAGE] */
import { openDisk } from "../../../src/backends/disk/open-disk.js";
import { BlkDevice, BlkFeature } from "../../../src/devices/virtio/blk.js";
import { Feature } from "../../../src/devices/virtio/constants.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { MemoryDisk } from "./fakes.js";
import { Bench, RINGS, Rig } from "./support.js";

for (const kind of RINGS) {
  const rig = new Rig();
  const type = new BlkDevice(rig.allocator, "blk", { queues: 1, readOnly: false, serial: "s" });
  const file = process.argv[2];
  const disk = file === undefined ? new MemoryDisk(1 << 20) : await openDisk({ file, readOnly: true });
  type.describe(disk);
  type.attach(disk);
  const bench = new Bench(rig, type);
  bench.negotiate([...kind.bits, BlkFeature.FLUSH, Feature.INDIRECT_DESC, Feature.EVENT_IDX]);
  const ring = new kind.make(rig.ram, 0x10000, 256, bench.device.queues[0]);
  bench.driverOk();
  rig.ram.writeU32(gpa(0x20000), 0);
  for (let round = 0; round < 3; round++) {
    let inside = 0;
    let count = 0;
    while (count < 60_000) {
      for (let i = 0; i < 32; i++, count++) {
        rig.ram.writeU64(gpa(0x20008), BigInt((count * 8) % 2048));
        ring.add(
          [
            { address: 0x20000, length: 16 },
            { address: 0x30000 + 4096 * (i % 16), length: 4096, write: true },
            { address: 0x20100, length: 1, write: true },
          ],
          { indirect: 0x50000 + 64 * i },
        );
      }
      const before = process.cpuUsage().user + process.cpuUsage().system;
      bench.run();
      inside += process.cpuUsage().user + process.cpuUsage().system - before;
      ring.used();
      if (disk instanceof MemoryDisk) disk.log.length = 0;
    }
    console.log(`${kind.kind}: ${(inside / count).toFixed(2)} us of CPU a request`);
  }
}
