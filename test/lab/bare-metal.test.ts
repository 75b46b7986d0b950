/** Kernels of a few instructions on KVM, with 1, 2 and 4 vCPUs and with memory past 4 GiB. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { NLKT } from "../cli/nlkt.js";
import { startGuest } from "../guest/guests.js";
import type { Asm } from "../guests/support/asm.js";
import { meet, Word } from "./processors.js";
import { exit, exitWith, kernel, noKvm, notShort, run } from "./support.js";

const GIB = 2 ** 30;
const MIB = 2 ** 20;

describe("small kernels on KVM", { skip: noKvm }, () => {
  for (const cpus of [1, 2, 4]) {
    test(`-c ${cpus}: all processors start, count together and take an interrupt`, async () => {
      const file = kernel((code) => {
        meet(code, cpus - 1);
        // test eax, eax; jnz; mov eax, [IDS]
        code.hex("85c0").jcc("nz", "end").load("ax", Word.IDS).label("end");
        exit(code);
      });
      const { code, stderr } = await run(file, "-c", `${cpus}`);
      const ids = (1 << cpus) - 2;
      assert.deepEqual({ code, stderr }, { code: (ids << 1) | 1, stderr: "" });
    });
  }

  for (const [memory, ends] of [
    ["5G", [4 * GIB, 5 * GIB, 6 * GIB - 2 * MIB]],
    // Two further memories: the last 64 KiB before 8 GiB are a hole.
    ["9G", [4 * GIB, 8 * GIB - 4 * MIB, 8 * GIB, 10 * GIB - 2 * MIB]],
  ] as const) {
    const skip = memory === "9G" && notShort;
    test(`-m ${memory}: memory past 4 GiB is there, each byte once`, { skip }, async () => {
      const { code, stderr } = await run(
        kernel((asm) => highMemory(asm, ends)),
        "-m",
        memory,
      );
      assert.deepEqual({ code, stderr }, { code: 1, stderr: "" });
    });
  }

  test("a flood of output comes out whole and in order", { skip: notShort }, async () => {
    const lines = 300;
    const file = kernel((code) => {
      // Decimal counter of 4 digits at ESI, printed with a line feed, `lines` times.
      code.mov("bp", lines).mov("dx", 0x3f8);
      code.label("line").movLabel("si", "text").mov("cx", 5);
      // lodsb; out dx, al; loop
      code.hex("ac ee e2fc");
      code.movLabel("si", "text");
      // The last digit up, with carry: inc byte [esi+3]; cmp byte [esi+3], '9'+1; jne; mov byte …, '0'; inc the one before
      for (const digit of [3, 2, 1]) {
        code.hex("fe46").db(digit).hex("807e").db(digit, 0x3a).jcc("nz", "next");
        code.hex("c646").db(digit, 0x30);
      }
      code.label("next").hex("4d").jcc("nz", "line");
      exitWith(code, 0);
      code.label("text").db(...Buffer.from("0000\n"));
    });
    const { code, stdout } = await run(file);
    assert.equal(code, 1);
    const expected = Array.from({ length: lines }, (_, i) => `${i}`.padStart(4, "0"));
    assert.deepEqual(stdout.trimEnd().split("\n"), expected);
  });

  test("a byte that is written just before a HLT for ever comes out", { skip: notShort }, async () => {
    const file = kernel((code) => {
      // 40 of them, so that writes gather; then sleep with interrupts off.
      code.mov("cx", 40).mov("dx", 0x3f8).hex("b078 ee e2fd fa f4");
    });
    const child = startGuest(["--accel", "kvm", "--nodefaults", "-m", "16", "-k", file]);
    const ended = new Promise((resolve) => child.on("close", resolve));
    let stdout = "";
    await new Promise<void>((resolve) => {
      child.on("close", () => resolve());
      child.stdout!.on("data", (chunk: Buffer) => {
        stdout += chunk.toString("latin1");
        if (stdout.length >= 40) resolve();
      });
    });
    child.kill();
    await ended;
    assert.equal(stdout, "x".repeat(40));
  });

  test("instructions that the software CPU did in KVM's place are counted in nlkt stat", {
    skip: notShort,
  }, async (t) => {
    const name = `test-steps-${process.pid}`;
    const file = kernel((code) => {
      // CR4.OSFXSR; paddd xmm0, [0xd0000000], which KVM does not emulate; print "x"; jmp $
      code.orCr(4, 0x200).hex("660ffe05").value(0xd0000000, 4);
      code.mov("dx", 0x3f8).hex("b078 ee ebfe");
    });
    const child = startGuest(["--accel", "kvm", "--nodefaults", "-m", "16", "--name", name, "-k", file]);
    const ended = new Promise((resolve) => child.on("close", resolve));
    t.after(() => child.kill());
    await new Promise<void>((resolve, reject) => {
      child.stdout!.once("data", () => resolve());
      child.on("close", () => reject(new Error("it ended")));
    });
    const stat = spawnSync(process.execPath, [NLKT, "stat", name, "--json"], { encoding: "utf8" });
    const { vcpus } = JSON.parse(stat.stdout) as { vcpus: { counters: Record<string, number> }[] };
    assert.ok(vcpus[0].counters.emulationSteps >= 1, stat.stdout);
    child.kill();
    await ended;
  });

  test("a jump to where no memory is: exit 1, with registers", { skip: notShort }, async () => {
    // mov ebx, 0x12345678; mov eax, 0xd0000000; jmp eax
    const { code, stderr } = await run(
      kernel((asm) => asm.mov("bx", 0x12345678).mov("ax", 0xd0000000).hex("ffe0")),
    );
    assert.equal(code, 1);
    assert.match(
      stderr,
      /^nlkt: vCPU 0: (internal error: an instruction that could not be emulated|triple fault)\nvCPU 0:\nRAX /,
    );
    assert.match(stderr, /RBX {4}0000000012345678/);
  });

  test("a triple fault: exit 1, with registers, code bytes and the page-table walk", async () => {
    // mov ebx, 0x12345678; lidt [zeros]; ud2
    const file = kernel((code) => {
      code.mov("bx", 0x12345678).hex("0f011d").address("zeros", 4).hex("0f0b").label("zeros").value(0n, 8);
    });
    const { code, stderr } = await run(file);
    assert.equal(code, 1);
    assert.match(stderr, /^nlkt: vCPU 0: triple fault\nvCPU 0:\nRAX /);
    assert.match(stderr, /^Page tables for RIP \(linear [0-9a-f]+\):\n {2}paging is off/m);
  });
});

/**
 * 32-bit code in IA-32e mode: linear 1 GiB + N × 2 MiB leads to `places[N]`. Each gets a value at its both ends; then all are read.
 */
function highMemory(code: Asm, places: readonly number[]): void {
  const PML4 = 0x200000;
  const PDPT = 0x201000;
  const LOW = 0x202000;
  const HIGH = 0x203000;
  const LINK = 3;
  const LARGE = 0x83;
  const EFER = 0xc0000080;
  const EFER_LME = 0x100;
  // mov edi, PML4; mov ecx, 4 pages of doublewords; xor eax, eax; cld; rep stosd
  code
    .mov("di", PML4)
    .mov("cx", 4 * 1024)
    .hex("31c0 fc f3ab");
  code.store32(PML4, PDPT | LINK);
  code.store32(PDPT, LOW | LINK).store32(PDPT + 8, HIGH | LINK);
  for (let i = 0; i < 2; i++) code.store32(LOW + 8 * i, i * 2 * MIB + LARGE);
  places.forEach((place, i) => {
    code.store32(HIGH + 8 * i, (place % 2 ** 32) + LARGE);
    code.store32(HIGH + 8 * i + 4, Math.floor(place / 2 ** 32));
  });
  code.setCr(3, PML4).orCr(4, 0x20).wrmsr(EFER, EFER_LME).orCr(0, 0x80000000);
  const words = places.flatMap((_, i) => [GIB + 2 * MIB * i, GIB + 2 * MIB * (i + 1) - 4]);
  const value = (i: number) => 0x5a000000 + 0x1111 * (i + 1);
  words.forEach((address, i) => {
    code.store32(address, value(i));
  });
  words.forEach((address, i) => {
    // cmp dword [address], value
    code.hex("813d").value(address, 4).value(value(i), 4).jcc("nz", "wrong");
  });
  exitWith(code, 0);
  code.label("wrong");
  exitWith(code, 1);
}
