import assert from "node:assert/strict";
import { test } from "node:test";
import { e820Map } from "../../src/boot/e820.js";
import { gpa } from "../../src/memory/guest-memory.js";
import { codeLike, load, makeElf, makeMemory, makeNote } from "./images.js";

const TEXT = codeLike(4000, 20);
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

test("a 64-bit vmlinux is entered at its entry point in 64-bit mode, with boot_params", async () => {
  const memory = makeMemory(32);
  const kernel = makeElf({ bits: 64, entry: 0x1000010n, segments: [{ physical: 0x1000000, data: TEXT }] });
  const state = await load(memory, kernel, { initrd: codeLike(100, 1) });
  assert.equal(state.format, "vmlinux");
  assert.equal(state.regs.rip, 0x1000010n);
  assert.equal(state.sregs.efer, 0x500n);
  const params = Number(state.regs.rsi);
  assert.equal(memory.readU32(gpa(params + 0x202)), 0x53726448, "a setup header, though the file has none");
  assert.equal(memory.readU16(gpa(params + 0x1fe)), 0xaa55);
  assert.ok(memory.readU16(gpa(params + 0x206)) >= 0x020c);
  assert.equal(memory.readU8(gpa(params + 0x210)), 0xff);
  assert.equal(memory.readU8(gpa(params + 0x211)), 0x01);
  assert.equal(memory.readU32(gpa(params + 0x21c)), 100);
  assert.equal(memory.readU8(gpa(params + 0x1e8)), e820Map(memory).length);
});

test("a virtual entry point is translated by the segment it is in", async () => {
  const segments = [
    { physical: 0x200000, virtual: 0xffffffff80200000n, data: TEXT },
    { physical: 0x400000, virtual: 0xffffffff80400000n, data: TEXT },
  ];
  const kernel = makeElf({ bits: 64, entry: 0xffffffff80400123n, segments });
  assert.equal((await load(makeMemory(16), kernel)).regs.rip, 0x400123n);
  const outside = makeElf({ bits: 64, entry: 0xffffffff80500000n, segments });
  await assert.rejects(load(makeMemory(16), outside), /kernel: the entry point is outside of the kernel/);
});

test("a 32-bit vmlinux is entered in protected mode, ESI at boot_params", async () => {
  const kernel = makeElf({ bits: 32, segments: [{ physical: 0x100000, virtual: 0xc0100000n, data: TEXT }] });
  const { regs, sregs } = await load(makeMemory(16), kernel);
  assert.equal(regs.rip, 0x100000n);
  assert.notEqual(regs.rsi, 0n);
  assert.equal(sregs.cr0 & 0x80000001n, 1n);
  assert.equal(sregs.cs.db, 1);
});

test("the gap between two segments stays free of what the loader adds", async () => {
  const memory = makeMemory(4);
  // All of memory but the gap and a page is the kernel's, so the initrd could only go into the gap.
  const segments = [
    { physical: 0x100000, data: TEXT, size: 0x100000 },
    { physical: 0x300000, data: TEXT, size: 0xff000 },
  ];
  const kernel = makeElf({ bits: 64, segments });
  await assert.rejects(load(memory, kernel, { initrd: new Uint8Array(0xa0000) }), /does not fit into 4 MiB/);
});

function pvhKernel(bits: 32 | 64, entry: Uint8Array): Buffer {
  const notes = Buffer.concat([
    makeNote("GNU", 3, codeLike(20, 21)),
    makeNote("Xen", 6, Buffer.from("linux\0")),
    makeNote("Xen", XEN_ELFNOTE_PHYS32_ENTRY, entry),
  ]);
  return makeElf({ bits, segments: [{ physical: 0x1000000, data: TEXT }], notes });
}

for (const [bits, note] of [
  [64, Uint8Array.of(0x50, 0, 0, 1, 0, 0, 0, 0)],
  [64, Uint8Array.of(0x50, 0, 0, 1)],
  [32, Uint8Array.of(0x50, 0, 0, 1)],
] as const) {
  test(`a ${bits}-bit kernel with a PVH note of ${note.length} bytes: start info and entry state`, async () => {
    const memory = makeMemory(32);
    const initrd = codeLike(5000, 22);
    const { format, regs, sregs } = await load(memory, pvhKernel(bits, note), {
      initrd,
      commandLine: "hello pvh",
    });
    assert.equal(format, "PVH");
    assert.equal(regs.rip, 0x1000050n);
    assert.equal(sregs.cr0 & 0x80000001n, 1n, "PE, no PG");
    assert.equal(sregs.cr4, 0n);
    assert.deepEqual([sregs.cs.base, sregs.cs.limit, sregs.cs.db], [0n, 0xffffffff, 1]);
    assert.deepEqual([sregs.ds.base, sregs.ds.limit, sregs.es.limit], [0n, 0xffffffff, 0xffffffff]);
    assert.deepEqual([sregs.tr.base, sregs.tr.limit, sregs.tr.type], [0n, 0x67, 0xb], "an active 32-bit TSS");
    assert.equal(regs.rflags & 0x20300n, 0n, "VM, IF and TF are clear");

    const info = Number(regs.rbx);
    const u32 = (offset: number) => memory.readU32(gpa(info + offset));
    const u64 = (offset: number) => Number(memory.readU64(gpa(info + offset)));
    assert.equal(u32(0), 0x336ec578);
    assert.equal(u32(4), 1, "version");
    assert.equal(u32(12), 1, "nr_modules");
    const module = u64(16);
    assert.ok(initrd.equals(memory.bytes(gpa(Number(memory.readU64(gpa(module)))), initrd.length)));
    assert.equal(memory.readU64(gpa(module + 8)), BigInt(initrd.length));
    assert.equal(Buffer.from(memory.bytes(gpa(u64(24)), 10)).toString(), "hello pvh\0");
    assert.equal(u64(32), 0xe0000, "rsdp_paddr");
    const map = e820Map(memory);
    assert.equal(u32(48), map.length);
    map.forEach((range, index) => {
      const at = u64(40) + index * 24;
      assert.equal(Number(memory.readU64(gpa(at))), range.address);
      assert.equal(Number(memory.readU64(gpa(at + 8))), range.size);
      assert.equal(memory.readU32(gpa(at + 16)), range.type);
    });
  });
}

test("a PVH note that is too short or points outside of the kernel is refused", async () => {
  await assert.rejects(load(makeMemory(32), pvhKernel(64, Uint8Array.of(1, 2))), /broken PVH note/);
  const outside = pvhKernel(64, Uint8Array.of(0, 0, 0, 2));
  await assert.rejects(load(makeMemory(64), outside), /the PVH entry point is outside of the kernel/);
});

test("broken ELF files", async () => {
  const good = makeElf({ bits: 64, segments: [{ physical: 0x1000000, data: TEXT }] });
  const patched = (change: (copy: Buffer) => void) => {
    const copy = Buffer.from(good);
    change(copy);
    return copy;
  };
  const cases: [Uint8Array, RegExp][] = [
    [good.subarray(0, 30), /broken ELF file: the header is cut off/],
    [good.subarray(0, 60), /broken ELF file: the header is cut off/],
    [good.subarray(0, 100), /the program headers are cut off/],
    [good.subarray(0, good.length - 1), /segment 0 is cut off/],
    [patched((copy) => copy.fill(9, 4, 5)), /neither 32-bit nor 64-bit/],
    [patched((copy) => copy.fill(2, 5, 6)), /big-endian/],
    [patched((copy) => copy.writeUInt16LE(0, 56)), /no program headers/],
    [patched((copy) => copy.writeUInt16LE(0xffff, 56)), /the program headers are cut off/],
    [patched((copy) => copy.writeUInt16LE(8, 54)), /program headers of 8 bytes/],
    [patched((copy) => copy.writeUInt32LE(6, 64)), /nothing to load/],
    [patched((copy) => copy.writeBigUInt64LE(0xffffffffffffffffn, 32)), /the program headers are cut off/],
    [patched((copy) => copy.writeBigUInt64LE(0xffffffffffffffffn, 64 + 8)), /segment 0 is cut off/],
    [patched((copy) => copy.writeBigUInt64LE(10n, 64 + 40)), /larger in the file than in memory/],
    [patched((copy) => copy.writeBigUInt64LE(2n ** 63n, 64 + 40)), /past the physical address space/],
    [patched((copy) => copy.writeBigUInt64LE(2n ** 40n, 64 + 40)), /too large for 32 MiB of memory/],
    [
      makeElf({ bits: 64, type: 1, segments: [{ physical: 0x1000000, data: TEXT }] }),
      /no executable \(type 1\)/,
    ],
    [
      makeElf({ bits: 64, segments: [{ physical: 0xa0000, data: TEXT }] }),
      /0xa0000–0xa0f9f, which is not RAM/,
    ],
    [
      makeElf({ bits: 64, segments: Array(2).fill({ physical: 0x1000000, data: TEXT }) }),
      /broken kernel: two parts of it at 0x1000000/,
    ],
    [
      makeElf({ bits: 64, segments: Array(1000).fill({ physical: 0x1000000, data: TEXT }) }),
      /more than 128 segments/,
    ],
  ];
  for (const [file, message] of cases) {
    await assert.rejects(load(makeMemory(32), file), (error: Error) => {
      assert.equal(error.name, "BootError", error.stack);
      assert.match(error.message, message);
      assert.match(error.message, /^kernel: /);
      return true;
    });
  }
});

test("a program for Linux is no kernel", async () => {
  const program = makeElf({
    bits: 64,
    segments: [{ physical: 0x1000000, data: TEXT }],
    interpreter: Buffer.from("/lib64/ld-linux-x86-64.so.2\0"),
  });
  await assert.rejects(load(makeMemory(32), program), { message: "kernel: a program, not a kernel" });
});

test("an ELF file for another machine is named", async () => {
  for (const [machine, name] of [
    [183, "Arm64"],
    [243, "RISC-V"],
    [12345, "machine number 12345"],
  ] as const) {
    const kernel = makeElf({ bits: 64, machine, segments: [{ physical: 0x1000000, data: TEXT }] });
    await assert.rejects(load(makeMemory(32), kernel), {
      name: "BootError",
      message: `kernel: an ELF file for ${name}, not an x86 kernel`,
    });
  }
});
