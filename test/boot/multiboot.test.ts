import assert from "node:assert/strict";
import { test } from "node:test";
import { E820Type, e820Map } from "../../src/boot/e820.js";
import { findMultibootHeader } from "../../src/boot/multiboot.js";
import { type GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import { codeLike, load, makeElf, makeMemory, makeMultibootHeader } from "./images.js";

const BODY = codeLike(3000, 30);

function bytes(memory: GuestMemory, address: number, length: number): Buffer {
  return Buffer.from(memory.bytes(gpa(address), length));
}

function string(memory: GuestMemory, address: number): string {
  const tail = bytes(memory, address, 256);
  return tail.subarray(0, tail.indexOf(0)).toString();
}

/** A flat image: bytes that are not loaded, then the header, then a body. */
function flat(addresses: readonly number[], skipped = 64): Buffer {
  return Buffer.concat([
    Buffer.alloc(skipped, 0xee),
    makeMultibootHeader({ flags: 1 << 16, addresses }),
    BODY,
  ]);
}

test("3.2: the machine state", async () => {
  const { format, regs, sregs } = await load(makeMemory(16), flat([0x100000, 0x100000, 0, 0, 0x100020]));
  assert.equal(format, "multiboot");
  assert.equal(regs.rip, 0x100020n);
  assert.equal(regs.rax, 0x2badb002n);
  assert.equal(sregs.cr0 & 0x80000001n, 1n, "PE set, PG clear");
  assert.equal(regs.rflags & 0x20200n, 0n, "VM and IF clear");
  assert.deepEqual([sregs.cs.base, sregs.cs.limit, sregs.cs.db], [0n, 0xffffffff, 1]);
  for (const segment of [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss]) {
    assert.deepEqual([segment.base, segment.limit], [0n, 0xffffffff]);
  }
});

test("3.1.3: the address fields say which part of the file goes where", async () => {
  const memory = makeMemory(16);
  memory.fill(gpa(0x100000), 0x10000, 0x77);
  // The text starts 16 bytes before the header; 1000 bytes are loaded, the rest up to 2000 is bss.
  const file = flat([0x200010, 0x200000, 0x2003e8, 0x2007d0, 0x200010]);
  await load(memory, file);
  assert.deepEqual(bytes(memory, 0x200000, 1000), file.subarray(64 - 16, 64 - 16 + 1000));
  assert.ok(bytes(memory, 0x2003e8, 1000).every((byte) => byte === 0));
  // A load end of 0: the whole rest of the file; a bss end of 0: none.
  const whole = makeMemory(16);
  await load(whole, flat([0x200000, 0x200000, 0, 0, 0x200000]));
  assert.deepEqual(bytes(whole, 0x200020, BODY.length), BODY);
});

test("3.1.3: address fields go before an ELF header", async () => {
  const elf = makeElf({ bits: 64, segments: [{ physical: 0x900000, data: BODY }] });
  const addresses = [0x100000 + elf.length, 0x100000, 0, 0, 0x100000];
  const padding = Buffer.alloc(-elf.length & 3);
  const file = Buffer.concat([
    elf,
    padding,
    makeMultibootHeader({
      flags: 1 << 16,
      addresses: [addresses[0] + padding.length, ...addresses.slice(1)],
    }),
  ]);
  const memory = makeMemory(16);
  const { regs } = await load(memory, file);
  assert.equal(regs.rip, 0x100000n);
  assert.deepEqual(bytes(memory, 0x100000, elf.length), elf);
});

test("a 32-bit ELF file with a header is loaded by its segments", async () => {
  const memory = makeMemory(16);
  const text = Buffer.concat([makeMultibootHeader({ flags: 3 }), BODY]);
  const segments = [
    { physical: 0x100000, data: text },
    { physical: 0x200000, data: BODY, size: 0x4000 },
  ];
  const { format, regs } = await load(memory, makeElf({ bits: 32, entry: 0x10000cn, segments }));
  assert.equal(format, "multiboot");
  assert.equal(regs.rip, 0x10000cn);
  assert.deepEqual(bytes(memory, 0x100000, text.length), text);
  assert.deepEqual(bytes(memory, 0x200000, BODY.length), BODY);
});

test("3.3: the boot information", async () => {
  const memory = makeMemory(16);
  const initrd = codeLike(5000, 31);
  const { regs } = await load(memory, flat([0x100000, 0x100000, 0, 0, 0x100000]), {
    initrd,
    initrdPath: "modules/one",
    commandLine: "a b=c",
  });
  const info = Number(regs.rbx);
  const u32 = (offset: number) => memory.readU32(gpa(info + offset));
  assert.equal(u32(0), (1 << 0) | (1 << 2) | (1 << 3) | (1 << 6) | (1 << 9));
  assert.equal(u32(4), 639, "KiB of lower memory");
  assert.equal(u32(8), 15 * 1024, "KiB of upper memory");
  assert.equal(string(memory, u32(16)), "kernel a b=c");
  assert.equal(string(memory, u32(64)), "nlkt");

  assert.equal(u32(20), 1, "mods_count");
  const module = u32(24);
  const [start, end, name, reserved] = [0, 4, 8, 12].map((offset) => memory.readU32(gpa(module + offset)));
  assert.equal(start % 4096, 0, "flag 0 may ask for page alignment, so it is always there");
  assert.deepEqual(bytes(memory, start, end - start), initrd);
  assert.equal(string(memory, name), "modules/one");
  assert.equal(reserved, 0);

  const [length, map] = [u32(44), u32(48)];
  const ranges: { address: number; size: number; type: number }[] = [];
  for (let at = map; at < map + length; at += memory.readU32(gpa(at)) + 4) {
    ranges.push({
      address: Number(memory.readU64(gpa(at + 4))),
      size: Number(memory.readU64(gpa(at + 12))),
      type: memory.readU32(gpa(at + 20)),
    });
  }
  assert.deepEqual(ranges, e820Map(memory));
  assert.ok(ranges.some(({ type }) => type === E820Type.RAM));
});

test("without an initrd there is no module list", async () => {
  const memory = makeMemory(16);
  const { regs } = await load(memory, flat([0x100000, 0x100000, 0, 0, 0x100000]), { commandLine: "" });
  assert.equal(memory.readU32(gpa(Number(regs.rbx))) & (1 << 3), 0);
  assert.equal(string(memory, memory.readU32(gpa(Number(regs.rbx) + 16))), "kernel");
});

test("an image at the bottom of memory is not overwritten by what the loader adds", async () => {
  const memory = makeMemory(16);
  const { regs, sregs } = await load(memory, flat([0x1000, 0x1000, 0, 0x90000, 0x1000]));
  for (const address of [Number(regs.rbx), Number(sregs.gdt.base)])
    assert.ok(address >= 0x90000, `0x${address.toString(16)}`);
  assert.deepEqual(bytes(memory, 0x1020, BODY.length), BODY);
});

test("3.1: the header is found at a multiple of four in the first 8192 bytes only", () => {
  const header = makeMultibootHeader({ flags: 0 });
  const at = (offset: number) =>
    findMultibootHeader(Buffer.concat([Buffer.alloc(offset), header, Buffer.alloc(64)]));
  assert.equal(at(0)?.offset, 0);
  assert.equal(at(8180)?.offset, 8180);
  assert.equal(at(8184), undefined);
  assert.equal(at(2), undefined);
  const wrongSum = Buffer.from(header);
  wrongSum[8] ^= 1;
  assert.equal(findMultibootHeader(Buffer.concat([wrongSum, Buffer.alloc(64)])), undefined);
});

test("3.1.2: demands that are not met are refused; optional features are not", async () => {
  const addresses = [0x100000, 0x100000, 0, 0, 0x100000];
  const file = (flags: number) => Buffer.concat([makeMultibootHeader({ flags, addresses }), BODY]);
  await load(makeMemory(16), file(0x10003));
  await load(makeMemory(16), file(0x7fff0003 & ~0xfffc));
  await assert.rejects(load(makeMemory(16), file(0x10004)), {
    name: "BootError",
    message: "kernel: this multiboot kernel demands what NLKT does not have (flags 0x4)",
  });
});

test("broken address fields", async () => {
  const cases: [number[], RegExp][] = [
    [[0x100000, 0x100004, 0, 0, 0x100004], /the load address is above the header's/],
    [[0x100100, 0x100000, 0, 0, 0x100000], /before the file's first byte/],
    [[0x100000, 0x100000, 0xfffff, 0, 0x100000], /the load end is below the load address/],
    [[0x100000, 0x100000, 0x200000, 0, 0x100000], /past the end of the file/],
    [[0x100000, 0x100000, 0x100100, 0x1000ff, 0x100000], /the end of the bss is below the load end/],
    [[0x100000, 0x100000, 0, 0, 0xfffff], /the entry point is outside/],
    [[0x100000, 0x100000, 0, 0xffffffff, 0x100000], /too large for 16 MiB of memory/],
    [[0xf0000, 0xf0000, 0, 0, 0xf0000], /0xf0000–.* which is not RAM/],
  ];
  for (const [addresses, message] of cases) {
    await assert.rejects(load(makeMemory(16), flat(addresses)), (error: Error) => {
      assert.equal(error.name, "BootError", error.stack);
      assert.match(error.message, message);
      return true;
    });
  }
});
