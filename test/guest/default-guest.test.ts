/** The default guest, Debian's cloud kernel with busybox, on the software CPU: what the README promises. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { before, test } from "node:test";
import { fetchDefaultGuest } from "../../src/boot/default-guest.js";
import { NLKT } from "../cli/nlkt.js";

const PROVIDER = new URL("../../src/hypervisor/soft/provider.js", import.meta.url);

/** Far more than a boot takes on a slow host; a guest that hangs is ended by it. */
const TIMEOUT_SECONDS = "300";

let missing: string | undefined;

before(async () => {
  if (!existsSync(PROVIDER)) {
    missing = "the software CPU is not built yet";
    return;
  }
  try {
    await fetchDefaultGuest();
  } catch (error) {
    missing = `no default guest: ${(error as Error).message}`;
  }
});

function run(args: readonly string[], input = "") {
  const all = [NLKT, "run", "--timeout", TIMEOUT_SECONDS, ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, all, { encoding: "utf8", input });
  return { status, stdout, stderr };
}

test("a command's output and status are NLKT's", (t) => {
  if (missing !== undefined) return t.skip(missing);
  const { status, stdout, stderr } = run(["--", "sh", "-c", "uname -s; echo $((6 * 7)); exit 7"]);
  assert.equal(stdout, "Linux\n42\n");
  assert.equal(stderr, "");
  assert.equal(status, 7);
});

test("a command that a signal ends gives 128 + the signal", (t) => {
  if (missing !== undefined) return t.skip(missing);
  assert.equal(run(["--", "sh", "-c", "kill -9 $$"]).status, 137);
});

test("the shell takes typed commands, and poweroff ends with 0", (t) => {
  if (missing !== undefined) return t.skip(missing);
  const { status, stdout } = run(["-m", "128"], "echo result $((6 * 7))\npoweroff -f\n");
  assert.match(stdout, /result 42\r?$/m);
  assert.equal(status, 0);
});

test("a panic is a failure that says why", (t) => {
  if (missing !== undefined) return t.skip(missing);
  const { status, stderr } = run(["-p", "rdinit=/nonexistent root=/dev/nonexistent"]);
  assert.match(stderr, /^nlkt: the guest's kernel panicked: /m);
  assert.equal(status, 1);
});
