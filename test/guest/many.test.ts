/**
 * Many machines: one after the other, several at once in one process and in several, and ended at any moment.
 * NLKT_TEST_BOOTS=N boots more of them.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Machine } from "../../src/api/index.js";
import { NLKT } from "../cli/nlkt.js";
import { guestFiles, runGuest, startGuest, TIMEOUT_SECONDS } from "./guests.js";

const BOOTS = Number(process.env.NLKT_TEST_BOOTS ?? 6);
const AT_ONCE = 3;
const SIGNALLED = 8;
/** A boot takes a few seconds; most signals are to come before its end. */
const SIGNAL_WITHIN_MILLISECONDS = 4000;

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(directory, { recursive: true, force: true }));

describe("many machines", () => {
  let missing: string | undefined;
  before(async () => {
    const files = await guestFiles();
    if (typeof files === "string") missing = files;
  });

  test(`${BOOTS} boots in a row`, async (t) => {
    if (missing !== undefined) return t.skip(missing);
    for (let n = 0; n < BOOTS; n++) {
      const { code, stdout, stderr } = await runGuest([
        "-m",
        "128",
        "--",
        "sh",
        "-c",
        `echo ${n}; exit ${n + 3}`,
      ]);
      assert.deepEqual({ code, stdout, stderr }, { code: n + 3, stdout: `${n}\n`, stderr: "" });
    }
  });

  test(`${AT_ONCE} machines at once in one process`, async (t) => {
    if (missing !== undefined) return t.skip(missing);
    const run = async (n: number) => {
      const machine = await Machine.create({
        name: `test-${n}`,
        command: ["sh", "-c", `sleep 1; echo machine ${n}; exit ${n}`],
        memoryMiB: 128,
        timeoutSeconds: TIMEOUT_SECONDS,
      });
      let output = "";
      machine.console.setEncoding("utf8").on("data", (text: string) => {
        output += text;
      });
      await machine.start();
      const { reason, code } = await machine.wait();
      assert.deepEqual({ reason, code, output }, { reason: "poweroff", code: n, output: `machine ${n}\n` });
    };
    await Promise.all(Array.from({ length: AT_ONCE }, (_, n) => run(n)));
  });

  test(`${AT_ONCE} processes at once`, async (t) => {
    if (missing !== undefined) return t.skip(missing);
    const run = async (n: number) => {
      const { code, stdout } = await runGuest([
        "-m",
        "128",
        "--",
        "sh",
        "-c",
        `echo process ${n}; exit ${n}`,
      ]);
      assert.deepEqual({ code, stdout }, { code: n, stdout: `process ${n}\n` });
    };
    await Promise.all(Array.from({ length: AT_ONCE }, (_, n) => run(n)));
  });

  test("SIGINT and SIGTERM at any moment end it at once, with their status", async (t) => {
    if (missing !== undefined) return t.skip(missing);
    const signals = { SIGINT: 130, SIGTERM: 143 } as const;
    for (let n = 0; n < SIGNALLED; n++) {
      const name = n % 2 === 0 ? "SIGINT" : "SIGTERM";
      const child = startGuest(["-m", "128"]);
      child.stdout!.resume();
      const closed = new Promise<[number | null, string | null]>((resolve) => {
        child.on("close", (code, signal) => resolve([code, signal]));
      });
      await sleep((SIGNAL_WITHIN_MILLISECONDS * n) / SIGNALLED);
      child.kill(name);
      const [code, signal] = await closed;
      // Before NLKT listens for it, the signal does what it does to any process.
      assert.ok(code === signals[name] || signal === name, `after ${name}: ${code}, ${signal}`);
    }
  });

  test("kill -9 leaves nothing behind but a socket, which the next list clears away", async (t) => {
    if (missing !== undefined) return t.skip(missing);
    const places = ["tmp", "run"].map((name) => path.join(directory, name));
    for (const place of places) mkdirSync(place);
    const child = spawn(process.execPath, [NLKT, "run", "-m", "128"], {
      env: { ...process.env, TMPDIR: places[0], XDG_RUNTIME_DIR: places[1] },
      stdio: ["pipe", "pipe", "inherit"],
    });
    const closed = new Promise((resolve) => child.on("close", resolve));
    await new Promise((resolve) => child.stdout.once("data", resolve));
    child.kill("SIGKILL");
    // Also that no other process holds its pipes.
    await closed;
    const left = () => places.flatMap((place) => readdirSync(place, { recursive: true }) as string[]);
    assert.deepEqual(left(), ["nlkt", `nlkt/guest-${child.pid}.sock`]);
    const { status } = spawnSync(process.execPath, [NLKT, "list"], {
      env: { ...process.env, XDG_RUNTIME_DIR: places[1] },
    });
    assert.equal(status, 0);
    assert.deepEqual(left(), ["nlkt"]);
  });
});
