/** The commands about running instances, as a user types them: over scripted guests, and over busy ones on both providers. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, afterEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type InstanceInfo, type InstanceStats, instances } from "../../src/api/index.js";
import { formatUptime } from "../../src/cli/list.js";
import { kvmProblem } from "../../src/machine/accel.js";
import { multibootKernel } from "../machine/multiboot-kernel.js";
import { POWER_OFF, scriptKernel } from "../machine/script-kernel.js";
import { ended, environment, NLKT, printed } from "./nlkt.js";

const runtime = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(runtime, { recursive: true, force: true }));
const directory = path.join(runtime, "nlkt");

const scripted = { ...environment, XDG_RUNTIME_DIR: runtime };
/** With the providers of a user. */
const { NLKT_PROVIDER_MODULE: _, ...real } = scripted;

/** Run a command that is none of a guest. */
function nlkt(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [NLKT, ...args], {
    encoding: "utf8",
    env: real,
    input: "",
    timeout: 60_000,
  });
  return { code: status, stdout, stderr };
}

/** Run a command that has to go well; what it printed. */
function well(...args: string[]): string {
  const { code, stdout, stderr } = nlkt(...args);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: "" }, args.join(" "));
  return stdout;
}

/** What `nlkt list --json` and `nlkt stat --json` print, without a process. */
const list = async () => (await instances.list()) as InstanceInfo[];
const stat = (name: string) => instances.get(name).stats();
process.env.XDG_RUNTIME_DIR = runtime;

const POLL_MILLISECONDS = 20;

const guests: ChildProcess[] = [];
afterEach(async () => {
  // The next test's guests have the same names.
  for (const guest of guests.splice(0)) {
    const over = ended(guest);
    if (guest.exitCode === null && guest.signalCode === null && guest.kill("SIGKILL")) await over;
  }
});

/** Start a guest; resolves once it is listed. */
async function start(name: string, env: NodeJS.ProcessEnv, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, [NLKT, "run", "--name", name, ...args], { env, timeout: 60_000 });
  guests.push(child);
  let over = false;
  child.on("exit", () => {
    over = true;
  });
  const isUp = ({ name: its, state }: InstanceInfo) => its === name && state !== "starting";
  while (!over && !(await list()).some(isUp)) await sleep(POLL_MILLISECONDS);
  assert.ok(!over, `${name} ended`);
  return child;
}

const startScript = (name: string, ...script: string[]) => start(name, scripted, scriptKernel(...script));

describe("over scripted guests", () => {
  test("list and stat: nobody, then two, in a table and as JSON", async () => {
    assert.equal(well("list").trimEnd(), "NAME  PID  STATE  ACCEL  CPUS  MEMORY  UPTIME  KERNEL");
    assert.equal(well("list", "--json"), "[]\n");
    const one = await startScript("one", "print up", "wait");
    const two = await start("two", scripted, "-m", "64", "-c", "2", scriptKernel("wait"));
    const [first, second] = JSON.parse(well("list", "--json")) as InstanceInfo[];
    assert.deepEqual(
      [first.name, first.pid, first.state, first.cpus, first.memoryBytes],
      ["one", one.pid, "running", 1, 512 * 2 ** 20],
    );
    assert.deepEqual(
      [second.name, second.pid, second.cpus, second.memoryBytes],
      ["two", two.pid, 2, 64 * 2 ** 20],
    );
    assert.match(first.kernel, /script-\d+$/);
    assert.ok(first.uptimeSeconds > 0);
    assert.match(
      well("list"),
      /^NAME .*\none +\d+ +running .*\ntwo +\d+ +running +\S+ +2 +64 MiB +\d+ s .*\n$/,
    );

    const { exits, counters } = (await stat("one")).vcpus[0];
    // Five bytes on COM1, and the port's reads before them are the guest's business.
    assert.deepEqual(exits, { io: 4 });
    assert.deepEqual(counters, { kicks: 0 });
    assert.equal((await stat("two")).vcpus.length, 2);
    const text = well("stat", "one");
    assert.match(text, /^one: pid \d+, running, /);
    assert.match(text, /\n {2}EXITS +VCPU 0\n {2}io +4\n/);
    assert.match(well("stat", "two", "-m"), /^two: memory\n {2}total +64 MiB\n {2}resident +[\d.]+ MiB\n$/);
    assert.deepEqual(
      well("stat", "--all", "--json")
        .trimEnd()
        .split("\n")
        .map((line) => (JSON.parse(line) as InstanceStats).name),
      ["one", "two"],
    );
  });

  test("pause, resume and stop, by NAME, with -n, and all", async () => {
    const one = await startScript("one", "wait");
    const two = await startScript("two", "wait");
    const states = async () => (await list()).map(({ state }) => state);
    assert.equal(well("pause", "one"), "");
    assert.deepEqual(await states(), ["paused", "running"]);
    well("pause", "--all");
    well("pause", "one");
    assert.deepEqual(await states(), ["paused", "paused"]);
    well("resume", "-n", "two");
    assert.deepEqual(await states(), ["paused", "running"]);
    well("resume", "-a");
    assert.deepEqual(await states(), ["running", "running"]);
    const gone = ended(one);
    well("stop", "one");
    // It is gone when the command returns.
    assert.deepEqual(
      (await list()).map(({ name }) => name),
      ["two"],
    );
    assert.deepEqual(await gone, { code: 0, signal: null });
    well("pause", "two");
    const goneToo = ended(two);
    well("stop", "--all");
    assert.deepEqual(await goneToo, { code: 0, signal: null });
    assert.deepEqual(readdirSync(directory), []);
    well("stop", "--all");
  });

  test("the default name, the socket's mode, and that it goes with the guest", async () => {
    const child = spawn(process.execPath, [NLKT, "run", scriptKernel("print up", "echo 0x0a", POWER_OFF)], {
      env: scripted,
    });
    await printed(child, "up");
    const socket = `guest-${child.pid}.sock`;
    assert.deepEqual(readdirSync(directory), [socket]);
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    assert.equal(statSync(path.join(directory, socket)).mode & 0o777, 0o600);
    const over = ended(child);
    child.stdin.write("\n");
    assert.deepEqual(await over, { code: 0, signal: null });
    assert.deepEqual(readdirSync(directory), []);
  });

  test("a name that a running instance has", async () => {
    await startScript("one", "wait");
    const { code, stdout, stderr } = nlkt("run", "--name", "one", multibootKernel(runtime, [0xeb, 0xfe]));
    assert.deepEqual(
      { code, stdout, stderr },
      { code: 1, stdout: "", stderr: "nlkt: --name: there is a running instance one\n" },
    );
    assert.equal((await list()).length, 1);
  });

  test("kill -9 leaves a socket that the next list, or the next guest of the name, clears away", async () => {
    for (const next of ["list", "run"]) {
      const one = await startScript("one", "wait");
      const over = ended(one);
      one.kill("SIGKILL");
      await over;
      assert.deepEqual(readdirSync(directory), ["one.sock"]);
      assert.match(nlkt("stat", "one").stderr, /^nlkt: there is no running instance one: /);
      if (next === "list") assert.deepEqual(await list(), []);
      else await startScript("one", "wait");
      assert.deepEqual(readdirSync(directory), next === "list" ? [] : ["one.sock"]);
    }
  });

  test("one whose process is stopped", async () => {
    const one = await startScript("one", "wait");
    one.kill("SIGSTOP");
    assert.match(well("list"), /\none +unresponsive\n$/);
    assert.deepEqual(JSON.parse(well("list", "--json")), [{ name: "one", state: "unresponsive" }]);
    one.kill("SIGCONT");
    assert.equal((await list())[0].state, "running");
  });

  test("--on-reboot restart: the instance stays, and counts anew", async () => {
    await start("one", scripted, "--on-reboot", "restart", scriptKernel("echo 0x0a", "out 0xcf9 1 0x06"));
    const { pid } = (await list())[0];
    guests[0].stdin!.write("\n");
    let exits = 1e9;
    while (exits > 0) {
      const now = (await stat("one")).vcpus[0].exits.io ?? 0;
      if (now < exits) exits = now;
      else break;
    }
    assert.equal((await list())[0].pid, pid);
  });

  test("debug: the dump, of a running guest and of a paused one, as text and as JSON", async () => {
    await start("one", scripted, "-c", "2", scriptKernel("wait"));
    const dump = /^vCPU 0:\nRAX {4}0000000000000011 /;
    assert.match(well("debug", "one"), dump);
    assert.match(well("debug", "one", "--dump"), /^vCPU 0:\n[\s\S]*\nvCPU 1:\n/);
    assert.equal((await list())[0].state, "running");
    well("pause", "one");
    assert.match(well("debug", "--all", "-d"), dump);
    assert.equal((await list())[0].state, "paused");
    const json = JSON.parse(well("debug", "one", "--dump", "--locks", "--json")) as { dump: string[] };
    assert.equal(json.dump.length, 2);
    assert.match(json.dump[1], /^vCPU 1:\n/);
  });

  test("debug: a vCPU that hangs in an exit does not keep the others' dump", async () => {
    await startScript("one", "spin");
    assert.equal(well("debug", "one"), "vCPU 0: does not answer: its thread hangs\n");
    assert.equal(well("debug", "one", "--locks"), "no lock is held\n");
    const { code, stderr } = nlkt("pause", "one");
    assert.deepEqual(
      { code, stderr },
      { code: 1, stderr: "nlkt: one: the machine does not get to it within 8 s\n" },
    );
    well("stop", "one");
  });

  test("debug: NMI and SysRq", async () => {
    const guest = await startScript(
      "one",
      // The driver: DTR, RTS and OUT2 (PC16550D, 8.7), FIFO on; then the line status with a break, the break, the key.
      "out 0x3fc 1 0x0b",
      "out 0x3fa 1 0x01",
      "until 0x3fd 1 0x10",
      "in 0x3f8 1",
      "until 0x3fd 1 0x01",
      "in 0x3f8 1",
      "print done",
      "wait",
    );
    let output = "";
    guest.stdout!.on("data", (chunk: Buffer) => {
      output += chunk.toString("latin1");
    });
    const done = printed(guest, "done");
    assert.equal(well("debug", "one", "--nmi", "0", "--sysrq", "t"), "");
    await done;
    assert.match(output, /00\r\n74\r\ndone/);
    const { code, stderr } = nlkt("debug", "one", "--nmi", "1");
    assert.deepEqual(
      { code, stderr },
      { code: 1, stderr: "nlkt: one: there is no vCPU 1: the machine has 0 to 0\n" },
    );
  });

  test("no balloon where none was asked for", async () => {
    await startScript("one", "wait");
    const { code, stderr } = nlkt("balloon", "one", "--inflate", "1");
    assert.deepEqual(
      { code, stderr },
      { code: 1, stderr: "nlkt: one: the machine has no balloon: --balloon\n" },
    );
  });

  test("--console none has no SysRq", async () => {
    await start("one", scripted, "--console", "none", scriptKernel("wait"));
    assert.equal(nlkt("debug", "one", "-s", "t").stderr, "nlkt: one: the machine has no serial console\n");
  });

  test("console: types and shows what run shows; ends with the machine", async () => {
    const guest = await startScript("one", "echo 0x04", "print bye", POWER_OFF);
    let shown = "";
    guest.stdout!.on("data", (chunk: Buffer) => {
      shown += chunk.toString("latin1");
    });
    const attached = spawn(process.execPath, [NLKT, "console", "one"], { env: real });
    const over = Promise.all([ended(attached), ended(guest)]);
    let mirrored = "";
    attached.stdout.on("data", (chunk: Buffer) => {
      mirrored += chunk.toString("latin1");
    });
    attached.stdin.write("typed");
    await printed(attached, "typed");
    guest.stdin!.write(" both\u0004");
    assert.deepEqual(await over, [
      { code: 0, signal: null },
      { code: 0, signal: null },
    ]);
    assert.equal(mirrored, "typed bothbye\r\n");
    assert.equal(shown, mirrored);
  });

  test("console: a signal ends it and not the machine", async () => {
    await startScript("one", "echo 0x04", POWER_OFF);
    const attached = spawn(process.execPath, [NLKT, "console", "one"], { env: real });
    attached.stdin.write("x");
    await printed(attached, "x");
    attached.kill("SIGTERM");
    assert.deepEqual(await ended(attached), { code: 143, signal: null });
    assert.equal((await list()).length, 1);
  });

  test("a guest whose output nobody reads can be paused, dumped and stopped", async () => {
    const guest = await startScript("one", `print-times 9000 ${"z".repeat(60)}`, "wait");
    guest.stdout!.pause();
    let before = -1;
    for (let now = 0; now !== before; now = (await stat("one")).vcpus[0].exits.io) before = now;
    well("pause", "one");
    assert.match(well("debug", "one"), /^vCPU 0:\nRAX /);
    well("resume", "one");
    well("stop", "one");
  });

  test("without a place for sockets the guest runs, with a warning", () => {
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [NLKT, "run", "--name", "n".repeat(64), scriptKernel("print hello", POWER_OFF)],
      {
        encoding: "utf8",
        env: { ...scripted, XDG_RUNTIME_DIR: mkdtempSync(path.join(runtime, "l".repeat(60))) },
      },
    );
    assert.deepEqual({ status, stdout }, { status: 0, stdout: "hello\r\n" });
    assert.match(stderr, /^nlkt: no control socket: .*: the path of a socket has at most 107 bytes.*\n$/);
  });
});

const MISUSE: readonly (readonly [args: readonly string[], code: number, stderr: RegExp])[] = [
  [["stat"], 2, /^nlkt: name one instance, or give --all\n/],
  [["console"], 2, /^nlkt: name one instance\n/],
  [["stop", "a", "--all"], 2, /^nlkt: name one instance, or give --all\n/],
  [["pause", "a", "-n", "b"], 2, /^nlkt: name one instance/],
  [["pause", "../a"], 2, /'\.\.\/a' is invalid/],
  [["debug", "a", "--nmi", "x"], 2, /'-m, --nmi <CPU>' argument 'x' is invalid/],
  [["debug", "a", "--sysrq", "tt"], 2, /'-s, --sysrq <KEY>' argument 'tt' is invalid/],
  [["list", "x"], 2, /too many arguments/],
  [["balloon", "a"], 2, /^nlkt: give one of --inflate and --deflate\n/],
  [["balloon", "a", "-i", "1", "-d", "1"], 2, /^nlkt: give one of --inflate and --deflate\n/],
  [["balloon", "a", "-i", "-1"], 2, /'-i, --inflate <MiB>' argument '-1' is invalid/],
  [["balloon", "nobody", "-i", "1"], 1, /^nlkt: there is no running instance nobody/],
  [
    ["resume", "nobody"],
    1,
    /^nlkt: there is no running instance nobody: `nlkt list` shows those that run\n$/,
  ],
  [["stat", "nobody"], 1, /^nlkt: there is no running instance nobody/],
  [["console", "nobody"], 1, /^nlkt: there is no running instance nobody/],
  [["debug", "nobody", "--locks"], 1, /^nlkt: there is no running instance nobody/],
];

test("wrong usage and instances that are not there", () => {
  for (const [args, code, expected] of MISUSE) {
    const result = nlkt(...args);
    assert.match(result.stderr, expected);
    assert.deepEqual([result.code, result.stdout], [code, ""], args.join(" "));
  }
  for (const command of ["list", "stat", "pause", "resume", "stop", "debug", "balloon", "console"]) {
    assert.match(
      well(command, "--help"),
      new RegExp(`^Usage: nlkt ${command} [\\s\\S]*\nExamples:\n {2}nlkt ${command}`),
    );
  }
});

test("uptimes", () => {
  assert.deepEqual([0, 59.9, 60, 3599, 3600, 90061, 8 * 86400].map(formatUptime), [
    "0 s",
    "59 s",
    "1:00",
    "59:59",
    "1:00:00",
    "1 d 1:01:01",
    "8 d 0:00:00",
  ]);
});

/** What a guest may be busy with. */
const BUSY: readonly (readonly [what: string, code: readonly number[]])[] = [
  ["a loop", [0xeb, 0xfe]],
  // out %al, $0x80
  ["exits", [0xe6, 0x80, 0xeb, 0xfc]],
  // cli; hlt
  ["a halt for ever", [0xfa, 0xf4, 0xeb, 0xfc]],
  // mov $0x200000, %edi; mov $0x100000, %ecx; rep stosb
  ["string instructions", [0xbf, 0, 0, 0x20, 0, 0xb9, 0, 0, 0x10, 0, 0xf3, 0xaa, 0xeb, 0xf2]],
];

for (const accel of ["soft", "kvm"] as const) {
  describe(`busy guests on ${accel}`, () => {
    for (const [what, code] of BUSY) {
      test(what, async (t) => {
        const problem = accel === "kvm" ? await kvmProblem("/dev/kvm") : undefined;
        if (problem !== undefined) return t.skip(problem);
        const guest = await start("busy", real, "--accel", accel, "-m", "16", multibootKernel(runtime, code));
        well("pause", "busy");
        const still = (await stat("busy")).vcpus[0].exits;
        const first = well("debug", "busy");
        assert.match(first, /^vCPU 0:\nRAX [\s\S]*\nRIP {4}00000000001000[0-9a-f]{2} /);
        // It stands: dumps of it are of the same moment.
        assert.equal(well("debug", "busy"), first);
        assert.deepEqual((await stat("busy")).vcpus[0].exits, still);
        assert.equal((await stat("busy")).accel, accel);
        well("resume", "busy");
        assert.match(well("debug", "busy"), /^vCPU 0:\nRAX /);
        if (what === "exits") while ((await stat("busy")).vcpus[0].exits.io <= still.io);
        const over = ended(guest);
        well("stop", "busy");
        assert.deepEqual(await over, { code: 0, signal: null });
      });
    }
  });
}
