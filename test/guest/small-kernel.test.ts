/** Kernels of a few instructions on the software CPU: the debug exit, traces of accesses and steps, a triple fault. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { HEADER_BYTES, LOAD_ADDRESS, multibootKernel } from "../machine/multiboot-kernel.js";
import { runGuest } from "./guests.js";

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(directory, { recursive: true, force: true }));

/** A file that is entered at the first of `code`, in 32-bit protected mode. */
const kernel = (...code: number[]) => multibootKernel(directory, code);

/** mov $value, %al; out %al, $0xf4; then it halts, in case that did not end it. */
const debugExit = (value: number) => [0xb0, value, 0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfd];

const run = (...args: string[]) => runGuest(["-m", "8", "--nodefaults", ...args]);

for (const value of [0, 1, 0x10, 0x7f]) {
  test(`--isa-debug-exit: ${value} ends with ${(value << 1) | 1}`, async () => {
    const { code, stdout, stderr } = await run("--isa-debug-exit", kernel(...debugExit(value)));
    assert.deepEqual({ code, stdout, stderr }, { code: (value << 1) | 1, stdout: "", stderr: "" });
  });
}

test("without --isa-debug-exit nobody is at the port", async () => {
  const { code, stderr } = await run("--timeout", "4", "--debug-ioport", kernel(...debugExit(3)));
  assert.deepEqual(
    { code, stderr },
    { code: 124, stderr: "ioport write 0x00f4 1 0x03 (unclaimed)\nnlkt: timed out after 4 s\n" },
  );
});

test("--debug-ioport and --debug-mmio show each access as it is", async () => {
  const file = kernel(
    ...[0xb0, 0x41, 0x66, 0xba, 0xf8, 0x03, 0xee], // mov $'A', %al; mov $0x3f8, %dx; out %al, %dx
    ...[0x66, 0xba, 0x34, 0x12, 0x66, 0xed], // mov $0x1234, %dx; in %dx, %ax
    ...[0xc7, 0x05, 0x00, 0x00, 0x00, 0xd0, 0x78, 0x56, 0x34, 0x12], // movl $0x12345678, 0xd0000000
    ...[0xa0, 0x01, 0x00, 0x00, 0xd0], // mov 0xd0000001, %al
    ...debugExit(0),
  );
  const { stdout, stderr } = await run("--isa-debug-exit", "--debug-ioport", "--debug-mmio", file);
  assert.equal(stdout, "A");
  assert.deepEqual(stderr.split("\n"), [
    "ioport write 0x03f8 1 0x41 com1",
    "ioport read  0x1234 2 0xffff (unclaimed)",
    "mmio write 0xd0000000 4 0x12345678 (unclaimed)",
    "mmio read  0xd0000001 1 0xff (unclaimed)",
    "ioport write 0x00f4 1 0x00 isa-debug-exit",
    "",
  ]);
});

test("--debug-single-step shows the address of each instruction", async () => {
  const { stderr } = await run(
    "--isa-debug-exit",
    "--debug-single-step",
    kernel(0x90, 0x90, ...debugExit(0)),
  );
  const steps = [...stderr.matchAll(/^step: vcpu 0 pc ([0-9a-f]+)$/gm)].map(([, pc]) =>
    Number.parseInt(pc, 16),
  );
  const first = LOAD_ADDRESS + HEADER_BYTES;
  assert.deepEqual(steps.slice(0, 3), [first + 1, first + 2, first + 4]);
});

test("a triple fault: exit 1, with registers, code bytes and the page-table walk", async () => {
  // mov $0x12345678, %ebx; ud2, with no IDT.
  const { code, stderr } = await run(kernel(0xbb, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x0b));
  assert.equal(code, 1);
  assert.match(stderr, /^nlkt: vCPU 0: triple fault\nvCPU 0:\nRAX /);
  assert.match(stderr, /RBX {4}0000000012345678/);
  assert.match(stderr, /^RIP {4}0000000000100025 /m);
  assert.match(stderr, /^Code .* bb 78 56 34 12 <0f> 0b /m);
  assert.match(stderr, /^Page tables for RIP \(linear 0000000000100025\):\n {2}paging is off/m);
});
