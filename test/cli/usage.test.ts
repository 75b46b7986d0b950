/** Wrong usage exits 2, what cannot be done exits 1 with one line: docs/cli.md, "Exit codes". */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { findKernel } from "../../src/cli/find-kernel.js";
import { nlkt } from "./nlkt.js";

const USAGE: readonly (readonly [what: string, args: readonly string[], stderr: RegExp])[] = [
  ["no command", [], /Usage: nlkt/],
  ["an unknown command", ["frobnicate"], /nlkt: unknown command 'frobnicate'/],
  ["help for an unknown command", ["help", "frob"], /nlkt: unknown command 'frob'/],
  ["an unknown option", ["run", "--frobnicate"], /nlkt: unknown option '--frobnicate'/],
  ["an option of a later version", ["run", "--9p", "x"], /nlkt: unknown option '--9p'/],
  ["a missing value", ["run", "-k"], /'-k, --kernel <FILE>' argument missing/],
  ["memory that is no number", ["run", "-m", "lots"], /'-m, --mem <SIZE>' argument 'lots' is invalid/],
  ["negative memory", ["run", "--mem=-5"], /--mem <SIZE>' argument '-5' is invalid/],
  ["no vCPUs", ["run", "-c", "0"], /'-c, --cpus <N>' argument '0' is invalid/],
  ["a bad choice", ["run", "--accel", "tcg"], /'--accel <NAME>' argument 'tcg' is invalid.*auto, kvm, soft/],
  ["a bad timeout", ["run", "--timeout", "soon"], /'--timeout <SECONDS>' argument 'soon' is invalid/],
  ["a bad name", ["run", "--name", "../x"], /'--name <NAME>' argument '..\/x' is invalid/],
  ["two kernels", ["run", "-k", "a", "b"], /KERNEL and --kernel exclude each other/],
  ["too many arguments", ["run", "a", "b"], /too many arguments/],
  ["an empty command", ["run", "--"], /no COMMAND after/],
  ["a command elsewhere", ["version", "--", "ls"], /only `nlkt run` takes a command/],
  ["initrd and command", ["run", "-i", "x", "--", "ls"], /--initrd and COMMAND exclude each other/],
  ["kernel rm of nothing", ["kernel", "rm"], /name a PACKAGE/],
  ["a missing suite", ["kernel", "pull", "--suite"], /'--suite <NAME>' argument missing/],
  ["an unknown kernel command", ["kernel", "frob"], /unknown command 'frob'/],
];

for (const [what, args, expected] of USAGE) {
  test(`usage: ${what}`, () => {
    const { code, stdout, stderr } = nlkt(args);
    assert.match(stderr, expected);
    assert.equal(code, 2);
    assert.equal(stdout, "");
  });
}

const FAILURES: readonly (readonly [what: string, args: readonly string[], line: string | RegExp])[] = [
  ["kernel that is not there", ["run", "/nonexistent"], "nlkt: kernel /nonexistent: no such file\n"],
  ["kernel that is a directory", ["run", "-k", "/"], "nlkt: kernel /: is a directory\n"],
  ["too little memory", ["run", "-m", "1"], "nlkt: --mem: 1 MiB is too small: at least 4 MiB\n"],
  ["too much memory", ["run", "-m", "64G"], /^nlkt: --mem: 65536 MiB is too large: at most \d+ MiB\n$/],
  ["nothing to boot", ["run", "--nodefaults"], /^nlkt: no kernel: .*\n$/],
  [
    "kernel rm of one that is not there",
    ["kernel", "rm", "linux-image-0"],
    /^nlkt: no kernel linux-image-0 .*\n$/,
  ],
];

for (const [what, args, line] of FAILURES) {
  test(`failure: ${what}`, () => {
    const { code, stdout, stderr } = nlkt(args);
    if (typeof line === "string") assert.equal(stderr, line);
    else assert.match(stderr, line);
    assert.equal(code, 1);
    assert.equal(stdout, "");
  });
}

test("version, and help for everything", () => {
  assert.match(
    nlkt(["version"]).stdout,
    /^nlkt \d+\.\d+\.\d+ \(Node \d+\.\d+\.\d+\)\n--accel auto takes (kvm|soft): .*\n$/,
  );
  for (const args of [["--help"], ["help"], ["run", "--help"], ["help", "run"], ["kernel", "--help"]]) {
    const { code, stdout, stderr } = nlkt(args);
    assert.equal(code, 0);
    assert.match(stdout, /^Usage: nlkt/);
    assert.equal(stderr, "");
  }
  assert.match(nlkt(["run", "--help"]).stdout, /Examples:\n {2}nlkt run\n/);
});

test("the kernel is looked for in the working directory, in lkvm's order", async (t) => {
  const before = process.cwd();
  t.after(() => process.chdir(before));
  process.chdir(mkdtempSync(path.join(tmpdir(), "nlkt-search-")));
  assert.equal(await findKernel(), undefined);
  mkdirSync("bzImage");
  writeFileSync("vmlinux", "");
  assert.equal(await findKernel(), "./vmlinux");
  mkdirSync("arch/x86/boot", { recursive: true });
  writeFileSync("arch/x86/boot/bzImage", "");
  assert.equal(await findKernel(), "./arch/x86/boot/bzImage");
  rmdirSync("bzImage");
  writeFileSync("bzImage", "");
  assert.equal(await findKernel(), "./bzImage");
});
