/** The socket device: VIRTIO 5.10. */
import assert from "node:assert/strict";
import type { Duplex } from "node:stream";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { VsockDevice } from "../../../src/devices/virtio/vsock.js";
import { BUFFER_ALLOCATION } from "../../../src/devices/virtio/vsock-connection.js";
import {
  readHeader,
  VSOCK_HEADER_SIZE,
  type VsockHeader,
  VsockOp,
  writeHeader,
} from "../../../src/devices/virtio/vsock-packet.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import { validateLocks } from "../support.js";
import { FakeHost, socketPair } from "./fakes.js";
import { Bench, Rig, SplitDriver } from "./support.js";

validateLocks();

const CID = 7;
const PORT = 1000;
const TX = 0x40000;
const RX = 0x60000;
const RX_SIZE = 4096;

class VsockBench {
  readonly rig = new Rig();
  readonly type = new VsockDevice(this.rig.allocator, "vsock", CID);
  readonly host = new FakeHost(new Set([PORT]));
  readonly bench = new Bench(this.rig, this.type);
  rx!: SplitDriver;
  tx!: SplitDriver;

  constructor() {
    this.type.attach(this.bench.device, this.host);
    this.start();
  }

  start(): void {
    this.bench.negotiate([0]);
    const [rx, tx] = this.bench.device.queues;
    this.rx = new SplitDriver(this.rig.ram, 0x1000, 16, rx);
    this.tx = new SplitDriver(this.rig.ram, 0x2000, 16, tx);
    new SplitDriver(this.rig.ram, 0x3000, 8, this.bench.device.queues[2]);
    this.bench.driverOk();
    for (let i = 0; i < 8; i++) this.#offer(i);
  }

  #offer(i: number): void {
    this.rx.add([{ address: RX + RX_SIZE * i, length: RX_SIZE, write: true }]);
    this.#offered.push(i);
  }
  readonly #offered: number[] = [];

  send(fields: Partial<VsockHeader>, data: string | Uint8Array = ""): void {
    const bytes = typeof data === "string" ? Buffer.from(data) : data;
    const header = writeHeader({
      sourceCid: BigInt(CID),
      targetCid: 2n,
      sourcePort: 50,
      targetPort: PORT,
      length: bytes.length,
      type: 1,
      op: VsockOp.RW,
      flags: 0,
      bufferAllocation: 65536,
      forwardCount: 0,
      ...fields,
    });
    this.rig.ram.write(gpa(TX), header);
    this.rig.ram.write(gpa(TX + VSOCK_HEADER_SIZE), bytes);
    this.tx.add([{ address: TX, length: VSOCK_HEADER_SIZE + bytes.length }]);
    this.bench.run();
    this.tx.used();
  }

  /** What the device sent to the guest. */
  async packets(): Promise<{ header: VsockHeader; data: string }[]> {
    const found: { header: VsockHeader; data: string }[] = [];
    for (let quiet = 0; quiet < 5; quiet++) {
      await turn();
      this.bench.run();
      for (const { length } of this.rx.used()) {
        const i = this.#offered.shift()!;
        const bytes = Buffer.from(this.rig.ram.bytes(gpa(RX + RX_SIZE * i), length));
        found.push({ header: readHeader(bytes), data: bytes.toString("latin1", VSOCK_HEADER_SIZE) });
        this.#offer(i);
        quiet = 0;
      }
    }
    return found;
  }

  async ops(): Promise<number[]> {
    return (await this.packets()).map(({ header }) => header.op);
  }

  /** A stream that the guest opened. */
  async open(credit = 65536): Promise<Duplex> {
    this.send({ op: VsockOp.REQUEST, bufferAllocation: credit });
    assert.deepEqual(await this.ops(), [VsockOp.RESPONSE]);
    return this.host.accepted.at(-1)!.far;
  }
}

async function receive(stream: Duplex): Promise<string> {
  for (let i = 0; i < 20; i++) {
    const data = stream.read() as Buffer | null;
    if (data !== null) return data.toString("latin1");
    await turn();
  }
  return "";
}

test("the guest opens a stream, data goes both ways (5.10.6.4, 5.10.6.5)", async () => {
  const vsock = new VsockBench();
  const far = await vsock.open();
  vsock.send({}, "hello");
  assert.equal(await receive(far), "hello");
  far.write("and hello to you");
  const [packet] = await vsock.packets();
  assert.equal(packet.data, "and hello to you");
  assert.deepEqual(
    { ...packet.header, bufferAllocation: 0 },
    {
      sourceCid: 2n,
      targetCid: BigInt(CID),
      sourcePort: PORT,
      targetPort: 50,
      length: 16,
      type: 1,
      op: 5,
      flags: 0,
      bufferAllocation: 0,
      forwardCount: 5,
    },
  );
  assert.equal(packet.header.bufferAllocation, BUFFER_ALLOCATION);
});

test("nobody listens: a reset (5.10.6.6)", async () => {
  const vsock = new VsockBench();
  vsock.send({ op: VsockOp.REQUEST, targetPort: 9 });
  const [packet] = await vsock.packets();
  assert.equal(packet.header.op, VsockOp.RST);
  assert.equal(packet.header.sourcePort, 9);
  assert.equal(packet.header.targetPort, 50);
});

test("packets of no stream are answered with a reset, resets with nothing (5.10.6.6)", async () => {
  const vsock = new VsockBench();
  vsock.send({ op: VsockOp.RW }, "lost");
  vsock.send({ op: VsockOp.RST });
  assert.deepEqual(await vsock.ops(), [VsockOp.RST]);
  vsock.send({ op: VsockOp.REQUEST, type: 9 });
  assert.deepEqual(await vsock.ops(), [VsockOp.RST], "unknown types (5.10.6.5)");
  vsock.send({ op: VsockOp.REQUEST, sourceCid: 8n });
  assert.deepEqual(await vsock.ops(), [], "a source that is not the guest's");
});

test("the host opens a stream (5.10.6.5)", async () => {
  const vsock = new VsockBench();
  const [near, far] = socketPair();
  near.pause();
  let accepted: number | undefined = -1;
  vsock.type.open(77, near, (port) => {
    accepted = port;
  });
  const [request] = await vsock.packets();
  assert.equal(request.header.op, VsockOp.REQUEST);
  assert.equal(request.header.targetPort, 77);
  vsock.send({ op: VsockOp.RESPONSE, sourcePort: 77, targetPort: request.header.sourcePort });
  assert.equal(accepted, request.header.sourcePort);
  far.write("from the host");
  assert.equal((await vsock.packets())[0].data, "from the host");
  vsock.send({ sourcePort: 77, targetPort: request.header.sourcePort }, "answer");
  assert.equal(await receive(far), "answer");
});

test("the host asks in vain", async () => {
  const vsock = new VsockBench();
  let accepted: number | undefined = -1;
  vsock.type.open(77, socketPair()[0], (port) => {
    accepted = port;
  });
  const [request] = await vsock.packets();
  vsock.send({ op: VsockOp.RST, sourcePort: 77, targetPort: request.header.sourcePort });
  assert.equal(accepted, undefined);
  vsock.bench.device.writeStatus(0);
  accepted = -1;
  vsock.type.open(77, socketPair()[0], (port) => {
    accepted = port;
  });
  assert.equal(accepted, undefined, "no driver");
});

test("the device sends no more than the guest has room for (5.10.6.3)", async () => {
  const vsock = new VsockBench();
  const far = await vsock.open(1000);
  far.write("x".repeat(2500));
  const sum = async () => (await vsock.packets()).reduce((total, { data }) => total + data.length, 0);
  assert.equal(await sum(), 1000);
  vsock.send({ op: VsockOp.CREDIT_UPDATE, bufferAllocation: 1000, forwardCount: 600 });
  assert.equal(await sum(), 600);
  vsock.send({ op: VsockOp.CREDIT_UPDATE, bufferAllocation: 4000, forwardCount: 1600 });
  assert.equal(await sum(), 900);
});

test("credit is told when it is asked for, and when half of it is back (5.10.6.3)", async () => {
  const vsock = new VsockBench();
  const far = await vsock.open();
  far.resume();
  vsock.send({ op: VsockOp.CREDIT_REQUEST });
  const [answer] = await vsock.packets();
  assert.equal(answer.header.op, VsockOp.CREDIT_UPDATE);
  assert.equal(answer.header.bufferAllocation, BUFFER_ALLOCATION);
  let updates = 0;
  for (let i = 0; i < 40; i++) {
    vsock.send({}, Buffer.alloc(16_000));
    updates += (await vsock.ops()).filter((op) => op === VsockOp.CREDIT_UPDATE).length;
  }
  assert.ok(updates >= 5, `${updates} updates`);
});

test("a guest that sends more than it may loses its stream (5.10.6.3.1)", async () => {
  const vsock = new VsockBench();
  await vsock.open();
  // Nobody reads at the host's end.
  for (let i = 0; i < 20; i++) vsock.send({}, Buffer.alloc(32_000));
  assert.ok((await vsock.ops()).includes(VsockOp.RST));
});

test("shutdown: one direction, then the other, then a reset (5.10.6.5)", async () => {
  const vsock = new VsockBench();
  const far = await vsock.open();
  const ended = new Promise((resolve) => far.once("end", resolve));
  far.resume();
  vsock.send({ op: VsockOp.SHUTDOWN, flags: 2 });
  await ended;
  far.write("still here");
  assert.equal((await vsock.packets())[0].data, "still here");
  vsock.send({ op: VsockOp.SHUTDOWN, flags: 1 });
  assert.deepEqual(await vsock.ops(), [VsockOp.RST]);
  vsock.send({}, "after");
  assert.deepEqual(await vsock.ops(), [VsockOp.RST]);
});

test("what the guest sent before it shut down arrives, however slow the host is", async () => {
  const vsock = new VsockBench();
  const far = await vsock.open();
  for (let i = 0; i < 6; i++) vsock.send({}, Buffer.alloc(32_000, "z"));
  vsock.send({ op: VsockOp.SHUTDOWN, flags: 3 });
  assert.deepEqual(await vsock.ops(), [VsockOp.RST]);
  let received = 0;
  for await (const chunk of far) received += (chunk as Buffer).length;
  assert.equal(received, 6 * 32_000);
});

test("the host's end closes: the guest hears of it, behind the last data", async () => {
  const vsock = new VsockBench();
  const far = await vsock.open();
  far.end("last words");
  const packets = await vsock.packets();
  assert.equal(packets[0].data, "last words");
  assert.equal(packets[1].header.op, VsockOp.SHUTDOWN);
  assert.ok((packets[1].header.flags & 2) !== 0);
});

test("a second request for a stream that is there, lengths that lie, unknown operations: resets", async () => {
  for (const fields of [
    { op: VsockOp.REQUEST },
    { op: VsockOp.RW, length: 500 },
    { op: 77 },
    { op: VsockOp.RESPONSE },
  ]) {
    const vsock = new VsockBench();
    await vsock.open();
    vsock.send(fields, "data");
    assert.deepEqual(await vsock.ops(), [VsockOp.RST], JSON.stringify(fields));
    assert.ok(!vsock.bench.needsReset);
  }
});

test("a guest that provokes resets and reads none is not listened to (5.10.6.1)", () => {
  const vsock = new VsockBench();
  for (let i = 0; i < 8; i++) vsock.rx.used();
  let pushed = 0;
  for (let i = 0; i < 2000; i++) {
    const before = vsock.tx.usedIndex;
    try {
      vsock.send({ op: VsockOp.RW, sourcePort: i }, "x");
    } catch {
      break;
    }
    if (vsock.tx.usedIndex !== before) pushed++;
  }
  assert.ok(pushed < 400, `${pushed} packets were taken`);
});

test("a driver that resets the device loses its streams, and gets new ones", async () => {
  const vsock = new VsockBench();
  const far = await vsock.open();
  const closed = new Promise((resolve) => far.once("close", resolve));
  vsock.bench.device.writeStatus(0);
  vsock.bench.device.serve();
  await closed;
  const again = new VsockBench();
  await again.open();
});

test("the configuration is the guest's CID (5.10.4)", () => {
  const { device } = new VsockBench().bench;
  assert.equal(device.readConfig(0, 4), CID);
  assert.equal(device.readConfig(4, 4), 0);
  assert.equal(device.readConfig(1, 1), 0);
});
