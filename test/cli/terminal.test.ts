/** `nlkt run` at a terminal: raw mode, the escape keys, and the terminal as it was afterwards. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { test } from "node:test";
import { EscapeKeys, RUN_KEYS } from "../../src/cli/escape-keys.js";
import { POWER_OFF, scriptKernel } from "../machine/script-kernel.js";
import { environment, NLKT } from "./nlkt.js";

const SCRIPT_MISSING =
  spawnSync("script", ["--version"]).status === 0
    ? false
    : "script (util-linux), which makes a terminal, is missing";

/** Type each of `keys` after the text before it was seen; resolves to all output, CR LF as LF. */
function atTerminal(
  command: string,
  keys: readonly (readonly [after: string, keys: string])[],
): Promise<string> {
  const child = spawn("script", ["-qec", command, "/dev/null"], { env: environment, timeout: 60_000 });
  const queue = [...keys];
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString("latin1");
    while (queue.length > 0 && output.includes(queue[0][0])) child.stdin.write(queue.shift()![1]);
  });
  return new Promise((resolve) => {
    child.on("close", () => {
      child.stdin.destroy();
      resolve(output.replaceAll("\r", ""));
    });
  });
}

/** A command line that says before and after `nlkt` what mode the terminal is in, and its exit code. */
function wrapped(...script: string[]): string {
  const run = `${process.execPath} ${NLKT} run ${scriptKernel(...script)}`;
  return `stty -g; ${run}; echo "exit $?"; stty -g`;
}

function assertRestored(output: string): void {
  const modes = output.match(/^[0-9a-f]+(:[0-9a-f]+){5,}$/gm);
  assert.equal(modes?.length, 2, output);
  assert.equal(modes[0], modes[1]);
}

test("Ctrl-a x ends the machine and the terminal is as before", { skip: SCRIPT_MISSING }, async () => {
  const output = await atTerminal(wrapped("print up", "wait"), [["up", "\u0001x"]]);
  assert.match(output, /^exit 0$/m);
  assertRestored(output);
});

test("Ctrl-a h lists the keys; the guest gets Ctrl-c and a doubled Ctrl-a", {
  skip: SCRIPT_MISSING,
}, async () => {
  const output = await atTerminal(wrapped("print up", "echo 0x04", POWER_OFF), [
    ["up", "\u0001h"],
    ["send Ctrl-a", "<\u0003\u0001\u0001>\u0004"],
  ]);
  assert.match(output, /Ctrl-a x +end the machine/);
  assert.ok(output.includes("<\u0003\u0001>"), output);
  assert.match(output, /^exit 0$/m);
  assertRestored(output);
});

test("a crash and a signal restore the terminal too", { skip: SCRIPT_MISSING }, async () => {
  const crash = await atTerminal(wrapped("exit 8"), []);
  assert.match(crash, /^exit 1$/m);
  assertRestored(crash);
  const killed = await atTerminal(`${wrapped("print up", "wait")} & sleep 0`.replace(" & sleep 0", ""), [
    ["up", "\u0001x"],
  ]);
  assertRestored(killed);
});

test("escape keys are found across reads", () => {
  const keys = new EscapeKeys(RUN_KEYS);
  const feed = (text: string) => {
    const { bytes, actions } = keys.feed(Buffer.from(text, "latin1"));
    return [Buffer.from(bytes).toString("latin1"), actions];
  };
  assert.deepEqual(feed("ab\u0001"), ["ab", []]);
  assert.deepEqual(feed("x"), ["", ["quit"]]);
  assert.deepEqual(feed("\u0001\u0001x\u0001hq"), ["\u0001xq", ["help"]]);
  assert.deepEqual(feed("\u0001q\u0001?"), ["", ["help"]]);
});
