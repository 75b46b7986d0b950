/** Pause, stop, Ctrl-a x and signals on KVM, whatever the guest does, and that nothing is left behind. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Machine } from "../../src/api/index.js";
import { NLKT } from "../cli/nlkt.js";
import type { Asm } from "../guests/support/asm.js";
import { onQemu } from "../guests/support/limits.js";
import { Random } from "../oracle/cpu-case.js";
import { meet } from "./processors.js";
import { kernel, noKvm, short } from "./support.js";

/** What the project promises: so long after the request no vCPU runs any more. */
const PROMISE_MILLISECONDS = 100;
/** A host that has other things to do may take longer now and then. */
const ATTEMPTS = 4;

/** Do as `attempt` says until it keeps the promise, which it gives the times of, by what took them. */
async function assertPromised(attempt: () => Promise<Readonly<Record<string, number>>>): Promise<void> {
  let late: string[] = [];
  for (let n = 0; n < ATTEMPTS; n++) {
    const times = Object.entries(await attempt());
    const beyond = times.filter(([, milliseconds]) => !(milliseconds <= PROMISE_MILLISECONDS));
    if (beyond.length === 0) return;
    late = late.concat(beyond.map(([what, milliseconds]) => `${what} took ${milliseconds.toFixed(0)} ms`));
  }
  assert.fail(late.join(", "));
}

/** What NLKT says of how long its vCPUs took. */
const STOPPED = /the vCPUs stopped ([\d.]+) ms after the machine's end/;

/** What guests may be at, by name. */
const GUESTS: Readonly<Record<string, (code: Asm) => void>> = {
  "an endless loop": (code) => code.hex("ebfe"),
  "sleep with interrupts off": (code) => code.hex("fa f4 ebfd"),
  // in al, 0x80; jmp
  "reads of a port": (code) => code.hex("e480 ebfc"),
  // mov eax, [0xd0000000]; jmp
  "reads of a device's memory": (code) => code.hex("a1000000d0 ebf9"),
  // mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp
  "a flood of output": (code) => code.mov("dx", 0x3f8).hex("b078 ee ebfd"),
};

/** With `--short` one. */
const CHOSEN = Object.entries(GUESTS).slice(0, short ? 1 : undefined);

interface Running {
  readonly machine: Machine;
  /** Bytes of output so far. */
  readonly printed: () => number;
  /** Once it is stopped: milliseconds that its vCPUs took to. */
  readonly stopped: () => number;
}

/** mov dx, 0x3f8; print "up" */
const sayUp = (code: Asm) => code.mov("dx", 0x3f8).hex("b075 ee b070 ee");

/** A machine whose guest has printed something. `read`: read what else it prints. */
async function start(file: string, cpus: number, read: boolean): Promise<Running> {
  let said = "";
  const machine = await Machine.create({
    kernel: file,
    nodefaults: true,
    accel: "kvm",
    memoryMiB: 16,
    cpus,
    timeoutSeconds: 120,
    log: (_level, text) => {
      said += text;
    },
  });
  let printed = 0;
  const first = new Promise((resolve) => machine.console.once("data", resolve));
  const listener = (chunk: Buffer) => {
    printed += chunk.length;
  };
  machine.console.on("data", listener);
  await machine.start();
  await first;
  if (!read) machine.console.off("data", listener).pause();
  return { machine, printed: () => printed, stopped: () => Number(STOPPED.exec(said)?.[1]) };
}

async function milliseconds(work: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await work();
  return performance.now() - from;
}

const timesOf = (pause: number, stop: number, gone: number) =>
  `pause ${pause.toFixed(1)} ms, stop ${stop.toFixed(1)} ms; all threads gone after ${gone.toFixed(1)} ms`;

describe("machines on KVM are paused and stopped", { skip: noKvm }, () => {
  for (const [name, write] of CHOSEN) {
    for (const read of name === "a flood of output" ? [true, false] : [true]) {
      test(`${name}${read ? "" : " that nobody reads"}`, async (t) => {
        const file = kernel((code) => write(sayUp(code)));
        await assertPromised(async () => {
          const { machine, printed, stopped } = await start(file, 1, read);
          await sleep(300);
          const pause = await milliseconds(() => machine.pause());
          await sleep(100);
          const before = printed();
          await sleep(200);
          assert.equal(printed(), before, "a paused guest prints nothing");
          await machine.resume();
          if (read && name === "a flood of output") {
            while (printed() === before) await sleep(10);
          }
          const gone = await milliseconds(() => machine.stop());
          t.diagnostic(timesOf(pause, stopped(), gone));
          return { pause, stop: stopped() };
        });
      });
    }
  }

  for (const cpus of short ? [4] : [2, 4]) {
    test(`${cpus} vCPUs, one of them in a loop, the others halted`, async (t) => {
      const file = kernel((code) => sayUp(meet(code, cpus - 1)).hex("ebfe"));
      await assertPromised(async () => {
        const { machine, stopped } = await start(file, cpus, true);
        const pause = await milliseconds(() => machine.pause());
        await machine.resume();
        const gone = await milliseconds(() => machine.stop());
        t.diagnostic(timesOf(pause, stopped(), gone));
        return { pause, stop: stopped() };
      });
    });
  }
});

const noScript =
  spawnSync("script", ["--version"]).status === 0
    ? false
    : "script (util-linux), which makes a terminal, is missing";

interface Typed {
  readonly output: string;
  /** Milliseconds from the keys until the shell had its prompt back. */
  readonly taken: number;
}

/** Run `file` at a terminal, and type Ctrl-a x once it has said "up". */
async function typeQuit(file: string): Promise<Typed> {
  const run = `${process.execPath} ${NLKT} run --accel kvm --nodefaults -m 16 --loglevel debug -k ${file}`;
  const child = spawn("script", ["-qec", `${run}; echo "ended with $?."`, "/dev/null"], { timeout: 60_000 });
  let output = "";
  let typed = 0;
  const taken = await new Promise<number>((resolve, reject) => {
    child.on("close", () => reject(new Error(`ended without a status: ${output.slice(-300)}`)));
    child.stdout.on("data", (chunk: Buffer) => {
      output = (output + chunk.toString("latin1")).slice(-10_000);
      if (typed === 0 && /up/.test(output)) {
        typed = performance.now();
        child.stdin.write("\u0001x");
      }
      if (/ended with \d+\./.test(output)) resolve(performance.now() - typed);
    });
  });
  child.stdin.destroy();
  return { output, taken };
}

describe("Ctrl-a x at a terminal ends a machine on KVM", { skip: noKvm || noScript }, () => {
  for (const [name, write] of CHOSEN) {
    test(name, async (t) => {
      const file = kernel((code) => write(sayUp(code)));
      await assertPromised(async () => {
        const { output, taken } = await typeQuit(file);
        assert.match(output, /ended with 0\./);
        const stop = Number(STOPPED.exec(output)?.[1]);
        t.diagnostic(
          `the vCPUs stopped after ${stop.toFixed(1)} ms, the process after ${taken.toFixed(0)} ms`,
        );
        return { "Ctrl-a x": stop };
      });
    });
  }
});

/** Processes with a VM of KVM whose environment has `mark`. */
function processesOf(mark: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/environ`, "latin1").includes(mark);
    } catch {
      return false;
    }
  });
}

/** How many file descriptors of VMs this machine's processes have; those of other users are not seen. */
function openVms(): number {
  let count = 0;
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      for (const fd of readdirSync(`/proc/${pid}/fd`)) {
        if (readlinkSync(`/proc/${pid}/fd/${fd}`) === "anon_inode:kvm-vm") count++;
      }
    } catch {
      // It is gone, or another user's.
    }
  }
  return count;
}

describe("killed at random moments", { skip: noKvm }, () => {
  const ROUNDS = Number(process.env.NLKT_TEST_KILLS ?? 4);
  const WITHIN_MILLISECONDS = onQemu ? 6000 : 1500;

  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    test(`${signal}: no process and no thread is left behind`, async (t) => {
      const random = new Random(signal.length + 17);
      const file = kernel((code) => meet(code, 1).hex("ebfe"));
      for (let n = 0; n < ROUNDS; n++) {
        const mark = `NLKT_TEST_MARK=${process.pid}-${signal}-${n}`;
        const [name, value] = mark.split("=");
        const args = ["run", "--accel", "kvm", "--nodefaults", "-m", "16", "-c", "2", "-k", file];
        const child = spawn(process.execPath, [NLKT, ...args], {
          env: { ...process.env, [name]: value },
          stdio: ["ignore", "ignore", "inherit"],
        });
        const exited = new Promise((resolve) => child.on("exit", resolve));
        const delay = random.below(WITHIN_MILLISECONDS);
        await sleep(delay);
        child.kill(signal);
        const taken = await milliseconds(() => exited);
        t.diagnostic(`after ${delay} ms: gone in ${taken.toFixed(0)} ms`);
        // Threads are in the process's directory, which goes with the last of them.
        assert.deepEqual(processesOf(mark), []);
      }
      if (onQemu) assert.equal(openVms(), 0, "nobody has a VM");
    });
  }
});
