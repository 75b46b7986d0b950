/** `nlkt run` over a scripted vCPU: what goes in, what comes out, and the exit code. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { POWER_OFF, RESET, scriptKernel } from "../machine/script-kernel.js";
import { ended, nlkt, printed, start } from "./nlkt.js";

/** Machine messages go to standard error, the console to standard output. */
test("a guest that powers off: its output as it is, exit 0, nothing on standard error", () => {
  const result = nlkt([
    "run",
    "-m",
    "64",
    scriptKernel("print hello", "out 0x3f8 1 0xff 0x00 0x0d", POWER_OFF),
  ]);
  assert.deepEqual(result, { code: 0, stdout: "hello\r\n\ufffd\0\r", stderr: "" });
});

test("a reboot exits 0", () => {
  assert.equal(nlkt(["run", "-k", scriptKernel(RESET)]).code, 0);
});

test("--isa-debug-exit", () => {
  assert.equal(nlkt(["run", "--isa-debug-exit", scriptKernel("out 0xf4 4 0x10")]).code, 0x21);
  assert.equal(nlkt(["run", "--isa-debug-exit", scriptKernel("out 0xf4 1 0")]).code, 1);
});

test("a crash exits 1: one line, then the registers", () => {
  const { code, stderr } = nlkt(["run", scriptKernel("exit 8")]);
  assert.equal(code, 1);
  assert.match(stderr, /^nlkt: vCPU 0: triple fault\nvCPU 0:\nRAX /);
});

for (const [step, what] of [
  ["exit 17 1", "internal error: an instruction that could not be emulated"],
  ["exit 17 2", "internal error: a simultaneous exception"],
  ["exit 17 3", "internal error: an exit during event delivery"],
  ["exit 17 77", "internal error: suberror 77"],
  ["exit 9 0x80000021", "the processor refused to enter the guest, reason 0x80000021"],
  ["exit 24 3", "system event 3"],
  ["exit 0 0x7b", "unexpected exit 0, reason 0x7b"],
]) {
  test(`${what}: exit 1, with registers, code bytes and page tables`, () => {
    const { code, stderr } = nlkt(["run", scriptKernel(step)]);
    assert.equal(code, 1);
    assert.equal(stderr.split("\n", 1)[0], `nlkt: vCPU 0: ${what}`);
    assert.match(stderr, /^vCPU 0:\nRAX .*^Code {3}.*^Page tables for RIP/ms);
  });
}

test("a fault of NLKT's own exits 1 with one line", () => {
  const { code, stderr } = nlkt(["run", scriptKernel("throw oh no")]);
  assert.deepEqual({ code, stderr }, { code: 1, stderr: "nlkt: vcpu-0: oh no\n" });
});

test("--timeout exits 124", () => {
  const { code, stdout, stderr } = nlkt(["run", "--timeout", "3", scriptKernel("print up", "wait")]);
  assert.deepEqual(
    { code, stdout, stderr },
    { code: 124, stdout: "up\r\n", stderr: "nlkt: timed out after 3 s\n" },
  );
});

test("the guest's reported command status is ignored where no command was asked for", () => {
  assert.equal(nlkt(["run", scriptKernel("out 0x580 1 3", POWER_OFF)]).code, 0);
});

test("--console none: nothing is printed", () => {
  assert.equal(nlkt(["run", "--console", "none", scriptKernel("print hello", POWER_OFF)]).stdout, "");
});

test("standard input reaches the guest, and its end ends nothing", () => {
  const { code, stdout } = nlkt(["run", scriptKernel("echo 0x0a", "print done", POWER_OFF)], {
    input: "typed\u0001x text\n",
  });
  // Ctrl-a is an escape key of terminals only.
  assert.deepEqual({ code, stdout }, { code: 0, stdout: "typed\u0001x textdone\r\n" });
});

test("--debug-ioport and --debug-mmio trace on standard error", () => {
  const { stdout, stderr } = nlkt([
    "run",
    "--debug-ioport",
    "--debug-mmio",
    scriptKernel("out 0x3f8 1 0x41", "in 0x1234 2", "mmio-write 0xd0000000 4 0x12345678", POWER_OFF),
  ]);
  assert.equal(stdout, "Affff\r\n");
  assert.match(stderr, /^ioport write 0x03f8 1 0x41 com1$/m);
  assert.match(stderr, /^ioport read {2}0x1234 2 0xffff \(unclaimed\)$/m);
  assert.match(stderr, /^mmio write 0xd0000000 4 0x12345678 \(unclaimed\)$/m);
});

test("--loglevel debug says when the first instruction ran", () => {
  const { stderr } = nlkt(["run", "--loglevel", "debug", scriptKernel(POWER_OFF)]);
  assert.match(stderr, /^nlkt: first guest instruction \d+ ms after the start/m);
});

for (const [signal, code] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
] as const) {
  test(`${signal} ends the machine with ${code}`, async () => {
    const child = start(["run", scriptKernel("print up", "wait")]);
    await printed(child, "up");
    child.kill(signal);
    assert.deepEqual(await ended(child), { code, signal: null });
  });
}

test("a reader that leaves does not disturb the guest", async () => {
  const child = start(["run", scriptKernel("print up", `print-times 5000 ${"z".repeat(60)}`, POWER_OFF)]);
  await printed(child, "up");
  child.stdout!.destroy();
  assert.deepEqual(await ended(child), { code: 0, signal: null });
});

test("a reader that reads nothing does not keep --timeout from ending it", async () => {
  const child = start([
    "run",
    "--timeout",
    "0.5",
    scriptKernel(`print-times 9000 ${"z".repeat(60)}`, "wait"),
  ]);
  child.stdout!.pause();
  const { code } = await new Promise<{ code: number | null }>((resolve) => {
    child.on("exit", (status) => resolve({ code: status }));
  });
  assert.equal(code, 124);
  child.stdout!.destroy();
});

test("a long output arrives whole through a slow pipe", async () => {
  const child = start(["run", scriptKernel(`print-times 4000 ${"z".repeat(60)}`, POWER_OFF)]);
  let bytes = 0;
  child.stdout!.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    child.stdout!.pause();
    setTimeout(() => child.stdout!.resume(), 5);
  });
  assert.equal((await ended(child)).code, 0);
  assert.equal(bytes, 4000 * 62);
});
