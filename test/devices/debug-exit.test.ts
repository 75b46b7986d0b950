import assert from "node:assert/strict";
import { test } from "node:test";
import { PortBus } from "../../src/devices/bus.js";
import { DEBUG_EXIT_PORT, DEBUG_EXIT_SIZE, DebugExit } from "../../src/devices/debug-exit.js";
import { newExit } from "./support.js";

test("a write of V ends the machine with (V << 1) | 1, whatever its size; reads end nothing", () => {
  const statuses: number[] = [];
  const bus = new PortBus();
  const device = new DebugExit((status) => statuses.push(status));
  bus.register({ owner: "debug-exit", start: DEBUG_EXIT_PORT, size: DEBUG_EXIT_SIZE, device, maxSize: 4 });
  const read = newExit({ port: 0xf4 });
  bus.serveIo(read);
  assert.equal(read.data[0], 0);
  for (const [size, ...bytes] of [
    [1, 0],
    [1, 0x10],
    [2, 0x10, 0xff],
    [4, 0xff, 0xff, 0xff, 0xff],
  ]) {
    const exit = newExit({ port: 0xf4, size, isWrite: true });
    exit.data.set(bytes);
    bus.serveIo(exit);
  }
  assert.deepEqual(statuses, [1, 0x21, 0x21, 0xff]);
});
