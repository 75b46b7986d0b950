/** The console device: VIRTIO 5.3. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConsoleDevice, ConsoleEvent, ConsoleFeature } from "../../../src/devices/virtio/console.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { validateLocks } from "../support.js";
import { FakeStream } from "./fakes.js";
import { Bench, Rig, SplitDriver } from "./support.js";

validateLocks();

const DATA = 0x40000;
const ALL = [ConsoleFeature.SIZE, ConsoleFeature.EMERG_WRITE];

class ConsoleBench {
  readonly rig = new Rig();
  readonly type: ConsoleDevice;
  readonly streams: FakeStream[];
  readonly bench: Bench;
  readonly rings: SplitDriver[];

  constructor(names: readonly string[] = [], features: readonly number[] = ALL) {
    const ports = ["", ...names].map((name, i) => ({ console: i === 0, name }));
    this.type = new ConsoleDevice(this.rig.allocator, "console", ports);
    this.streams = ports.map((_, i) => {
      this.type.streams[i] = new FakeStream();
      return this.type.streams[i] as FakeStream;
    });
    this.bench = new Bench(this.rig, this.type);
    this.bench.negotiate(features);
    this.rings = this.bench.device.queues.map(
      (queue, i) => new SplitDriver(this.rig.ram, 0x1000 * (i + 1), 16, queue),
    );
    this.bench.driverOk();
  }

  send(queue: number, text: string): void {
    this.rig.ram.write(gpa(DATA), Buffer.from(text, "latin1"));
    this.rings[queue].add([{ address: DATA, length: text.length }]);
    this.bench.run();
  }

  /** Offer a buffer of `length` bytes and return what the device put into it, if anything. */
  receive(queue: number, length = 64): string | undefined {
    const address = DATA + 0x1000 * (1 + queue);
    const ring = this.rings[queue];
    if (ring.used().length > 0) assert.fail("the device used a buffer that nobody looked for");
    ring.add([{ address, length, write: true }]);
    this.bench.run();
    const [used] = ring.used();
    return used && Buffer.from(this.rig.ram.bytes(gpa(address), used.length)).toString("latin1");
  }

  control(id: number, event: number, value: number): void {
    const message = Buffer.alloc(8);
    message.writeUInt32LE(id, 0);
    message.writeUInt16LE(event, 4);
    message.writeUInt16LE(value, 6);
    this.send(3, message.toString("latin1"));
  }

  /** All control messages that wait. */
  messages(): { id: number; event: number; value: number; rest: string }[] {
    const found: { id: number; event: number; value: number; rest: string }[] = [];
    const address = DATA + 0x8000;
    // One buffer stays on the ring when there is nothing more.
    for (;;) {
      if (!this.#offered) this.rings[2].add([{ address, length: 64, write: true }]);
      this.#offered = true;
      this.bench.run();
      const [used] = this.rings[2].used();
      if (used === undefined) return found;
      this.#offered = false;
      const bytes = Buffer.from(this.rig.ram.bytes(gpa(address), used.length));
      found.push({
        id: bytes.readUInt32LE(0),
        event: bytes.readUInt16LE(4),
        value: bytes.readUInt16LE(6),
        rest: bytes.toString("latin1", 8),
      });
    }
  }
  #offered = false;
}

test("one port: bytes go both ways; no MULTIPORT (5.3.3)", () => {
  const one = new ConsoleBench();
  assert.ok(!one.type.features.includes(ConsoleFeature.MULTIPORT));
  assert.equal(one.bench.device.queues.length, 2);
  one.send(1, "hello host");
  assert.equal(one.streams[0].sent, "hello host");
  one.streams[0].input = Buffer.from("hello guest");
  assert.equal(one.receive(0, 5), "hello");
  assert.equal(one.receive(0), " guest");
  assert.equal(one.receive(0), undefined);
});

test("what the host does not take stays with the guest, and goes on in the middle of a buffer", () => {
  const { rings, bench, streams, rig } = new ConsoleBench();
  streams[0].room = 3;
  rig.ram.write(gpa(DATA), Buffer.from("abcdefgh"));
  rings[1].add([{ address: DATA, length: 8 }]);
  bench.run();
  assert.equal(streams[0].sent, "abc");
  assert.equal(rings[1].used().length, 0);
  const before = rig.rings;
  streams[0].room = 100;
  streams[0].waiting?.();
  assert.equal(rig.rings, before + 1);
  bench.run();
  assert.equal(streams[0].sent, "abcdefgh");
  assert.equal(rings[1].used().length, 1);
});

test("the size is configuration, and a change of it is told (5.3.4, 5.3.5)", () => {
  const one = new ConsoleBench();
  one.type.resize(132, 43);
  one.bench.run();
  assert.equal(one.bench.device.readConfig(0, 2), 132);
  assert.equal(one.bench.device.readConfig(2, 2), 43);
  assert.equal(one.bench.configInterrupts, 1);
  one.bench.run();
  assert.equal(one.bench.configInterrupts, 1);
});

test("emergency writes need no queue and no driver (5.3.4)", () => {
  const one = new ConsoleBench();
  one.bench.device.writeStatus(0);
  for (const character of "oops") one.bench.device.writeConfig(8, 4, character.charCodeAt(0));
  assert.equal(one.streams[0].sent, "oops");
});

test("several ports: how they are announced and opened (5.3.6.2)", () => {
  const many = new ConsoleBench(["org.nlkt.one", "org.nlkt.two"], [...ALL, ConsoleFeature.MULTIPORT]);
  const { DEVICE_READY, DEVICE_ADD, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME } = ConsoleEvent;
  assert.equal(many.bench.device.queues.length, 8);
  assert.equal(many.bench.device.readConfig(4, 4), 3);
  many.type.resize(80, 25);
  many.streams[2].connected = false;
  assert.deepEqual(
    many.messages().map(({ event }) => event),
    [RESIZE],
    "the size came before everything",
  );
  many.control(0, DEVICE_READY, 1);
  assert.deepEqual(
    many
      .messages()
      .filter(({ event }) => event === DEVICE_ADD)
      .map(({ id }) => id),
    [0, 1, 2],
  );
  many.control(0, PORT_READY, 1);
  assert.deepEqual(many.messages(), [
    { id: 0, event: CONSOLE_PORT, value: 1, rest: "" },
    { id: 0, event: RESIZE, value: 1, rest: "\x50\0\x19\0" },
    { id: 0, event: PORT_OPEN, value: 1, rest: "" },
  ]);
  many.control(1, PORT_READY, 1);
  assert.deepEqual(many.messages(), [
    { id: 1, event: PORT_OPEN, value: 1, rest: "" },
    { id: 1, event: PORT_NAME, value: 1, rest: "org.nlkt.one" },
  ]);
  many.control(2, PORT_READY, 1);
  assert.deepEqual(many.messages(), [{ id: 2, event: PORT_NAME, value: 1, rest: "org.nlkt.two" }]);
  many.streams[2].connected = true;
  assert.deepEqual(many.messages(), [{ id: 2, event: PORT_OPEN, value: 1, rest: "" }]);
  many.streams[2].connected = false;
  assert.deepEqual(many.messages(), [{ id: 2, event: PORT_OPEN, value: 0, rest: "" }]);
});

test("several ports: data waits until the guest has the port open", () => {
  const many = new ConsoleBench(["a"], [...ALL, ConsoleFeature.MULTIPORT]);
  many.control(0, ConsoleEvent.DEVICE_READY, 1);
  many.streams[1].input = Buffer.from("wait");
  many.rings[4].add([{ address: DATA, length: 16, write: true }]);
  many.bench.run();
  assert.equal(many.rings[4].used().length, 0);
  many.control(1, ConsoleEvent.PORT_OPEN, 1);
  assert.equal(many.streams[1].opened, true);
  many.bench.run();
  assert.deepEqual(
    many.rings[4].used().map(({ length }) => length),
    [4],
  );
  many.send(5, "from the port");
  assert.equal(many.streams[1].sent, "from the port");
});

test("control messages that make no sense are left alone", () => {
  const many = new ConsoleBench(["a"], [...ALL, ConsoleFeature.MULTIPORT]);
  for (const [id, event, value] of [
    [9, 3, 1],
    [0xffffffff, 6, 1],
    [0, 77, 1],
    [0, 3, 0],
  ])
    many.control(id, event, value);
  many.send(3, "short");
  assert.ok(!many.bench.needsReset);
});
