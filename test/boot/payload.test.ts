import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { decodeLzo1x } from "../../src/boot/lzop.js";
import { compressionOf, unpackPayload } from "../../src/boot/payload.js";
import { codeLike, load, makeBzImage, makeElf, makeMemory, random } from "./images.js";
import { hasTool, pipe } from "./tools.js";

const LIMIT = 2 ** 24;

/** As Linux's build appends it (scripts/Makefile.lib, size_append). */
function withSize(packed: Uint8Array, size: number): Buffer {
  const field = Buffer.alloc(4);
  field.writeUInt32LE(size);
  return Buffer.concat([packed, field]);
}

/** The options that Linux's build gives the compressors, and some more that they know. */
const COMPRESSORS: readonly [format: string, command: readonly [string, ...string[]]][] = [
  ["bzip2", ["bzip2", "-9"]],
  ["lzma", ["lzma", "-9"]],
  ["lzma", ["xz", "--format=lzma", "--lzma1=dict=64KiB,lc=3,lp=0,pb=2"]],
  ["xz", ["xz", "--check=crc32", "--x86", "--lzma2=,dict=32MiB"]],
  ["xz", ["xz", "--check=crc32", "--lzma2=,dict=32MiB"]],
  ["xz", ["xz", "--check=none", "--block-size=65536", "--x86", "--lzma2=preset=1"]],
  ["xz", ["xz", "--check=sha256", "-0"]],
  ["lzo", ["lzop", "-9"]],
  ["lzo", ["busybox", "lzop"]],
  ["lz4", ["lz4", "-l", "-9"]],
  ["lz4", ["lz4", "-l", "-1"]],
  ["zstd", ["zstd", "-19"]],
  ["zstd", ["zstd", "-1"]],
];

const CONTENTS: readonly [name: string, data: Buffer][] = [
  ["code-like bytes", codeLike(200_000, 7)],
  ["random bytes", Buffer.from(Uint32Array.from({ length: 20_000 }, random(8)).buffer)],
  ["zeros", Buffer.alloc(100_000)],
];

for (const [format, command] of COMPRESSORS) {
  test(`${command.join(" ")} is unpacked`, async (t) => {
    if (!hasTool(command[0])) return t.skip(`no ${command[0]} on this machine`);
    for (const [name, data] of CONTENTS) {
      const payload = withSize(pipe(command, data), data.length);
      assert.equal(compressionOf(payload), format);
      assert.ok(data.equals(await unpackPayload(payload, LIMIT)), name);
    }
  });
}

test("gzip is unpacked; its own last field is the size", async () => {
  for (const [, data] of CONTENTS) {
    assert.ok(data.equals(await unpackPayload(gzipSync(data), LIMIT)));
  }
});

test("a kernel in each format boots from a bzImage", async () => {
  const text = codeLike(50_000, 9);
  const kernel = makeElf({ bits: 64, segments: [{ physical: 0x1000000, data: text }] });
  const payloads: Buffer[] = [gzipSync(kernel)];
  for (const [, command] of COMPRESSORS) {
    if (hasTool(command[0])) payloads.push(withSize(pipe(command, kernel), kernel.length));
  }
  for (const payload of payloads) {
    const memory = makeMemory(32);
    const { regs } = await load(memory, makeBzImage({ payload }));
    assert.equal(regs.rip, 0x1000000n);
    assert.ok(text.equals(memory.memory.u8.subarray(0x1000000, 0x1000000 + text.length)));
  }
});

test("a payload that says it is larger than allowed is refused before it is unpacked", async () => {
  const payload = gzipSync(Buffer.alloc(1000));
  payload.writeUInt32LE(0xfffffff0, payload.length - 4);
  await assert.rejects(unpackPayload(payload, LIMIT), /4 GiB when unpacked/);
});

test("a payload that holds more or less than its size field says is damaged", async (t) => {
  const data = codeLike(100_000, 10);
  for (const [format, command] of COMPRESSORS) {
    if (!hasTool(command[0])) {
      t.diagnostic(`no ${command[0]} on this machine`);
      continue;
    }
    const packed = pipe(command, data);
    await assert.rejects(unpackPayload(withSize(packed, data.length + 1), LIMIT), command.join(" "));
    // LZMA has no other notion of its end than the size that it is given.
    if (format === "lzma") continue;
    await assert.rejects(unpackPayload(withSize(packed, data.length - 1), LIMIT), command.join(" "));
    await assert.rejects(unpackPayload(withSize(packed, 0), LIMIT), command.join(" "));
  }
});

test("damaged and truncated payloads end in an error or in data of the right size", async (t) => {
  const next = random(11);
  const data = codeLike(20_000, 12);
  const deadline = Date.now() + 1500;
  let cases = 0;
  const seeds: Buffer[] = [gzipSync(data)];
  for (const [, command] of COMPRESSORS) {
    if (hasTool(command[0])) seeds.push(withSize(pipe(command, data), data.length));
  }
  while (Date.now() < deadline) {
    const original = seeds[next() % seeds.length];
    const cut = next() % 4 === 0 ? next() % original.length : original.length;
    const payload = Buffer.concat([original.subarray(0, cut), original.subarray(original.length - 4)]);
    for (let flips = next() % 4; flips >= 0; flips--) {
      // The magic number and the size stay, so that the decoder is reached.
      payload[8 + (next() % Math.max(payload.length - 12, 1))] ^= 1 << (next() % 8);
    }
    try {
      assert.equal((await unpackPayload(payload, LIMIT)).length, payload.readUInt32LE(payload.length - 4));
    } catch (error) {
      assert.ok(error instanceof Error && error.name !== "AssertionError", String(error));
    }
    cases++;
  }
  t.diagnostic(`${cases} payloads`);
});

/** Hand-made from lzo.rst, "Byte sequences". */
test("LZO1X: each instruction", () => {
  const end = [0x11, 0, 0];
  const run = (input: number[], length: number) => {
    const output = new Uint8Array(length);
    decodeLzo1x(Uint8Array.from([...input, ...end]), output);
    return Buffer.from(output).toString("latin1");
  };
  const text = (string: string) => [...Buffer.from(string)];
  // First byte 22 and up: literals. Then 01LDDDSS: 3 + L bytes from (H << 3) + D + 1 back, S literals.
  assert.equal(run([17 + 4, ...text("abcd"), 0b01_1_011_10, 0, ...text("xy")], 10), "abcdabcdxy");
  // 1LLDDDSS: 5 + L bytes; the copy overlaps itself.
  assert.equal(run([17 + 4, ...text("abcd"), 0b1_11_000_00, 0], 12), "abcddddddddd");
  // First byte 18 to 21: as many literals, and a state in which 0000DDSS copies two bytes.
  assert.equal(run([17 + 3, ...text("abc"), 0b0000_10_01, 0, ...text("z")], 6), "abcabz");
  // 0000LLLL after no literals: 3 + L literals; with L = 0, 18 and more.
  assert.equal(run([4, ...text("sevenXY")], 7), "sevenXY");
  assert.equal(run([0, 2, ...text("twenty bytes of text")], 20), "twenty bytes of text");
  // 001LLLLL: 2 + L bytes from D + 1 back; L = 0 continues with zero bytes that count 255 each.
  assert.equal(run([17 + 4, ...text("abcd"), 0b001_00010, 3 << 2, 0], 8), "abcdabcd");
  assert.equal(
    run([17 + 4, ...text("abcd"), 0b001_00000, 0, 1, 0, 0], 4 + 2 + 31 + 255 + 1),
    `abc${"d".repeat(290)}`,
  );
  // After a long run of literals, 0000DDSS: three bytes from 2049 to 3072 back.
  const long = "0123456789".repeat(210).slice(0, 2090);
  const count = long.length - 18;
  const zeros = Math.floor((count - 1) / 255);
  const literals = [0, ...Array(zeros).fill(0), count - zeros * 255, ...text(long)];
  assert.equal(run([...literals, 0b0000_01_00, 2], 2093), long + long.slice(2090 - 2058, 2090 - 2055));
  // 0001HLLL: 2 + L bytes from 16384 + D back.
  const far = "abcdefgh".repeat(2200);
  const farCount = far.length - 18;
  const farZeros = Math.floor((farCount - 1) / 255);
  const farLiterals = [0, ...Array(farZeros).fill(0), farCount - farZeros * 255, ...text(far)];
  assert.equal(
    run([...farLiterals, 0b0001_0_011, 3 << 2, 0], far.length + 5),
    far + far.slice(-16387, -16382),
  );
});

test("LZO1X: references to before the start, and output that does not fit, are refused", () => {
  const bad = (input: number[], length: number) =>
    assert.throws(() => decodeLzo1x(Uint8Array.from(input), new Uint8Array(length)));
  bad([17 + 4, 1, 2, 3, 4, 0b01_0_111_00, 0, 0x11, 0, 0], 7);
  bad([17 + 4, 1, 2, 3, 4, 0x11, 0, 0], 3);
  bad([17 + 4, 1, 2, 3, 4, 0x11, 0, 0], 5);
  bad([17 + 4, 1, 2, 3], 4);
  bad([17 + 4, 1, 2, 3, 4], 4);
  bad([], 0);
});
