import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { BootError } from "../../src/boot/boot-error.js";
import { E820Type, e820Map } from "../../src/boot/e820.js";
import type { GuestMemory } from "../../src/memory/guest-memory.js";
import { gpa } from "../../src/memory/guest-memory.js";
import { codeLike, load, makeBzImage, makeElf, makeMemory, PAYLOAD_OFFSET } from "./images.js";

const LINKED_AT = 0x1000000;
const TEXT = codeLike(5000, 1);
const DATA = codeLike(300, 2);

/** As Linux is linked: text and data at their own large pages, a bss, the entry point a little into the text. */
function vmlinux(): Buffer {
  return makeElf({
    bits: 64,
    entry: BigInt(LINKED_AT + 0x40),
    segments: [
      { physical: LINKED_AT, virtual: 0xffffffff81000000n, data: TEXT },
      { physical: LINKED_AT + 0x200000, virtual: 0xffffffff81200000n, data: DATA, size: 0x100000 },
    ],
  });
}

function bytes(memory: GuestMemory, address: number, length: number): Buffer {
  return Buffer.from(memory.bytes(gpa(address), length));
}

function string(memory: GuestMemory, address: number): string {
  const tail = bytes(memory, address, 4096);
  return tail.subarray(0, tail.indexOf(0)).toString();
}

test("the kernel inside is put at its physical addresses, its bss cleared", async () => {
  const memory = makeMemory(32);
  memory.fill(gpa(LINKED_AT), 0x300000, 0xaa);
  const state = await load(memory, makeBzImage({ payload: vmlinux() }));
  assert.equal(state.format, "bzImage");
  assert.deepEqual(bytes(memory, LINKED_AT, TEXT.length), TEXT);
  assert.deepEqual(bytes(memory, LINKED_AT + 0x200000, DATA.length), DATA);
  const bss = bytes(memory, LINKED_AT + 0x200000 + DATA.length, 0x100000 - DATA.length);
  assert.ok(bss.every((byte) => byte === 0));
});

test("the state is that of the 64-bit boot protocol", async () => {
  const memory = makeMemory(32);
  const { regs, sregs } = await load(memory, makeBzImage({ payload: vmlinux() }));
  assert.equal(regs.rip, BigInt(LINKED_AT + 0x40));
  assert.equal(regs.rflags & 0x200n, 0n, "interrupts are off");
  assert.equal(sregs.efer, 0x500n, "LME and LMA");
  assert.equal(sregs.cr0 & 0x80000001n, 0x80000001n, "PG and PE");
  assert.equal(sregs.cr4, 0x20n, "PAE");
  assert.equal(sregs.cs.selector, 0x10);
  assert.deepEqual([sregs.cs.l, sregs.cs.db, sregs.cs.type & 0xa], [1, 0, 0xa]);
  for (const segment of [sregs.ds, sregs.es, sregs.ss]) {
    assert.deepEqual([segment.selector, segment.base, segment.limit], [0x18, 0n, 0xffffffff]);
    assert.equal(segment.type & 0xa, 0x2, "writable data");
  }
  // The GDT in memory has the same descriptors (SDM vol. 3A, figure 3-8).
  assert.equal(memory.readU64(gpa(Number(sregs.gdt.base) + 0x10)), 0x00af9b000000ffffn);
  assert.equal(memory.readU64(gpa(Number(sregs.gdt.base) + 0x18)), 0x00cf93000000ffffn);
  assert.equal(memory.readU64(gpa(Number(sregs.gdt.base) + 0x20)), 0x00008b0000000067n);
  assert.ok(sregs.gdt.limit >= 0x27);
});

test("the page tables map the first 4 GiB to themselves", async () => {
  const memory = makeMemory(32);
  const { sregs } = await load(memory, makeBzImage({ payload: vmlinux() }));
  const entry = (table: bigint, index: number) => memory.readU64(gpa(Number(table & ~0xfffn) + index * 8));
  for (const address of [0, 0x7000, LINKED_AT, 0xc0000000, 0xffe00000]) {
    const pointer = entry(entry(sregs.cr3, 0), Math.floor(address / 2 ** 30));
    const page = entry(pointer, Math.floor(address / 2 ** 21) % 512);
    assert.equal(page & 0x83n, 0x83n, "a large page, present and writable");
    assert.equal(Number(page & ~0xfffn), Math.floor(address / 2 ** 21) * 2 ** 21);
  }
  assert.equal(entry(sregs.cr3, 1), 0n);
});

test("boot_params: the setup header is handed over, and what the loader must fill is filled", async () => {
  const memory = makeMemory(32);
  const image = makeBzImage({ payload: vmlinux() });
  const initrd = codeLike(10000, 3);
  const { regs } = await load(memory, image, { initrd, initrdPath: "initrd", commandLine: "a=b quiet" });
  const params = bytes(memory, Number(regs.rsi), 4096);
  assert.equal(Number(regs.rsi) % 4096, 0);
  assert.equal(params.readUInt32LE(0x202), 0x53726448);
  assert.equal(params[0x1ef], 0, "the sentinel is not copied");
  assert.equal(params[0x210], 0xff, "type_of_loader");
  assert.equal(params[0x211], 0x01, "LOADED_HIGH, and no KASLR");
  assert.equal(params.readUInt16LE(0x1fa), 0xffff, "vid_mode");
  assert.deepEqual(params.subarray(0x230, 0x268), image.subarray(0x230, 0x268));
  assert.deepEqual(params.subarray(0x26c, 0x290), Buffer.alloc(0x290 - 0x26c), "nothing past the header");
  assert.equal(params.readBigUInt64LE(0x070), 0xe0000n, "acpi_rsdp_addr");
  assert.equal(string(memory, params.readUInt32LE(0x228)), "a=b quiet");
  const [address, size] = [params.readUInt32LE(0x218), params.readUInt32LE(0x21c)];
  assert.equal(size, initrd.length);
  assert.deepEqual(bytes(memory, address, size), initrd);

  const map = e820Map(memory);
  assert.equal(params[0x1e8], map.length);
  map.forEach((range, index) => {
    const at = 0x2d0 + index * 20;
    assert.equal(Number(params.readBigUInt64LE(at)), range.address);
    assert.equal(Number(params.readBigUInt64LE(at + 8)), range.size);
    assert.equal(params.readUInt32LE(at + 16), range.type);
  });
  assert.equal(map[0].type, E820Type.RAM);
});

test("without an initrd its fields are zero", async () => {
  const memory = makeMemory(32);
  const { regs } = await load(memory, makeBzImage({ payload: vmlinux() }));
  assert.equal(memory.readU32(gpa(Number(regs.rsi) + 0x218)), 0);
  assert.equal(memory.readU32(gpa(Number(regs.rsi) + 0x21c)), 0);
});

test("the initrd is page-aligned, as high as it may be, and never on the kernel", async () => {
  const initrd = codeLike(0x300001, 4);
  const place = async (mib: number, initrdAddressMax?: number) => {
    const memory = makeMemory(mib);
    const image = makeBzImage({ payload: vmlinux(), ...(initrdAddressMax && { initrdAddressMax }) });
    const { regs } = await load(memory, image, { initrd });
    return memory.readU32(gpa(Number(regs.rsi) + 0x218));
  };
  assert.equal(await place(32), 0x2000000 - 0x301000);
  assert.equal(await place(32, 0x18fffff), 0x1900000 - 0x301000);
  // Where the kernel fills the top of memory, below it.
  assert.equal(await place(20), LINKED_AT - 0x301000);
  assert.equal(await place(32, 0x1100000), LINKED_AT - 0x301000);
});

test("what does not fit is refused with sizes", async () => {
  await assert.rejects(load(makeMemory(18), makeBzImage({ payload: vmlinux() })), {
    name: "BootError",
    message: "kernel: too large for 18 MiB of memory: the kernel reaches up to 19 MiB",
  });
  const options = { initrd: new Uint8Array(20.5 * 2 ** 20), initrdPath: "big.gz" };
  await assert.rejects(load(makeMemory(32), makeBzImage({ payload: vmlinux() }), options), {
    name: "BootError",
    message: "initrd big.gz (20.5 MiB) does not fit into 32 MiB of memory beside the kernel",
  });
});

test("the command line's limit is the kernel's; at the limit it is passed", async () => {
  const image = makeBzImage({ payload: vmlinux(), commandLineSize: 100 });
  const memory = makeMemory(32);
  const { regs } = await load(memory, image, { commandLine: "x".repeat(100) });
  const at = memory.readU32(gpa(Number(regs.rsi) + 0x228));
  assert.equal(string(memory, at), "x".repeat(100));
  await assert.rejects(load(makeMemory(32), image, { commandLine: "x".repeat(101) }), {
    name: "BootError",
    message: "the kernel command line is 101 bytes long, but this kernel takes at most 100",
  });
});

test("an unknown payload is left to the image's own 64-bit entry", async () => {
  const memory = makeMemory(32);
  const image = makeBzImage({ payload: Buffer.from("no format that is known") });
  const state = await load(memory, image);
  assert.equal(state.regs.rip, BigInt(LINKED_AT + 0x200));
  assert.equal(state.sregs.efer, 0x500n);
  assert.deepEqual(bytes(memory, LINKED_AT, 0x400), image.subarray(5 * 512, 5 * 512 + 0x400));
  assert.equal(memory.readU32(gpa(Number(state.regs.rsi) + 0x214)), LINKED_AT, "code32_start");
});

test("without XLF_KERNEL_64 the 32-bit entry is used, by the 32-bit boot protocol", async () => {
  const memory = makeMemory(32);
  const image = makeBzImage({
    payload: Buffer.from("unknown"),
    xloadflags: 0,
    relocatable: 0,
    preferredAddress: 0x100000,
  });
  const { regs, sregs } = await load(memory, image);
  assert.equal(regs.rip, 0x100000n);
  assert.deepEqual([regs.rbp, regs.rdi, regs.rbx], [0n, 0n, 0n]);
  assert.notEqual(regs.rsi, 0n);
  assert.equal(sregs.cr0 & 0x80000001n, 1n, "protected mode without paging");
  assert.equal(sregs.efer, 0n);
  assert.deepEqual([sregs.cs.selector, sregs.cs.l, sregs.cs.db, sregs.cs.limit], [0x10, 0, 1, 0xffffffff]);
});

test("either entry of the image can be asked for", async () => {
  const image = makeBzImage({ payload: gzipSync(vmlinux()) });
  assert.equal((await load(makeMemory(32), image, { entry: "64-bit" })).regs.rip, BigInt(LINKED_AT + 0x200));
  assert.equal((await load(makeMemory(32), image, { entry: "32-bit" })).regs.rip, BigInt(LINKED_AT));
  assert.equal((await load(makeMemory(32), image, { entry: "kernel" })).regs.rip, BigInt(LINKED_AT + 0x40));
  const old = makeBzImage({ payload: Buffer.from("unknown"), xloadflags: 0 });
  await assert.rejects(load(makeMemory(32), old, { entry: "64-bit" }), /has no 64-bit entry point/);
  await assert.rejects(load(makeMemory(32), old, { entry: "kernel" }), /cannot be unpacked/);
});

test("the room that the image unpacks itself into is kept free", async () => {
  const memory = makeMemory(32);
  const image = makeBzImage({ payload: Buffer.from("unknown"), initSize: 0xf00000 });
  const { regs } = await load(memory, image, { initrd: new Uint8Array(0x200000) });
  assert.ok(memory.readU32(gpa(Number(regs.rsi) + 0x218)) + 0x200000 <= LINKED_AT);
  await assert.rejects(
    load(makeMemory(24), image),
    /too large for 24 MiB of memory: the kernel reaches up to 31 MiB/,
  );
});

test("a 32-bit kernel inside is entered in protected mode", async () => {
  const payload = makeElf({
    bits: 32,
    segments: [{ physical: LINKED_AT, virtual: 0xc1000000n, data: TEXT }],
  });
  const { regs, sregs } = await load(makeMemory(32), makeBzImage({ payload }));
  assert.equal(regs.rip, BigInt(LINKED_AT));
  assert.equal(sregs.cr0 & 0x80000001n, 1n);
});

test("broken images", async () => {
  const image = makeBzImage({ payload: gzipSync(vmlinux()) });
  const patched = (change: (copy: Buffer) => void) => {
    const copy = Buffer.from(image);
    change(copy);
    return copy;
  };
  const cases: [string, Buffer, RegExp][] = [
    ["truncated", image.subarray(0, image.length - 100), /kernel: truncated kernel: .* of .* are there/],
    [
      "signature cut off",
      patched((copy) => {
        copy.writeUInt32LE(0x40, 0x3c);
        copy.write("PE\0\0", 0x40);
        copy.writeUInt16LE(0x20b, 0x58);
        copy.writeUInt32LE(copy.length - 8, 0xe8);
        copy.writeUInt32LE(1472, 0xec);
      }),
      /kernel: truncated kernel: its last 1464 bytes are missing/,
    ],
    ["cut in the header", image.subarray(0, 0x240), /truncated kernel: the setup header is cut off/],
    ["too old", patched((copy) => copy.writeUInt16LE(0x0205, 0x206)), /boot protocol 2\.05/],
    ["a zImage", patched((copy) => copy.fill(0, 0x211, 0x212)), /too old a kernel/],
    ["no code", patched((copy) => copy.writeUInt32LE(0, 0x1f4)), /no protected-mode code/],
    ["huge code", patched((copy) => copy.writeUInt32LE(0xffffffff, 0x1f4)), /truncated kernel: .* of 64 GiB/],
    ["payload outside", patched((copy) => copy.writeUInt32LE(0xfffffff0, 0x24c)), /payload is outside/],
    [
      "damaged payload",
      patched((copy) => copy.fill(0x55, 5 * 512 + PAYLOAD_OFFSET + 100, 5 * 512 + PAYLOAD_OFFSET + 140)),
      /kernel: broken kernel: the gzip data in it: /,
    ],
  ];
  for (const [what, file, message] of cases) {
    await assert.rejects(load(makeMemory(32), file), (error: Error) => {
      assert.ok(error instanceof BootError, `${what}: ${error.stack}`);
      assert.match(error.message, message, what);
      assert.ok(!error.message.includes("\n"));
      return true;
    });
  }
});
