import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { kernelCommandLine } from "../../src/boot/command-line.js";
import { defaultInitramfs } from "../../src/boot/default-guest.js";
import { parseElf } from "../../src/boot/elf.js";
import { guestCommandArchive, shellQuote } from "../../src/boot/guest-command.js";
import { GUEST_INIT } from "../../src/boot/guest-init.js";
import { STATUS_PROGRAM, statusProgram } from "../../src/boot/guest-status-program.js";
import { hasTool, pipe } from "./tools.js";

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(directory, { recursive: true, force: true }));

test("the status program's machine code is what its assembly says", (t) => {
  if (!hasTool("as") || !hasTool("objcopy")) return t.skip("no GNU assembler on this machine");
  const [source, object, binary] = ["s", "o", "bin"].map((suffix) =>
    path.join(directory, `status.${suffix}`),
  );
  writeFileSync(
    source,
    `.intel_syntax noprefix\n${STATUS_PROGRAM.map(([, assembly]) => `${assembly}\n`).join("")}`,
  );
  try {
    execFileSync("as", ["--64", "-o", object, source], { stdio: "ignore" });
    execFileSync("objcopy", ["-O", "binary", "-j", ".text", object, binary], { stdio: "ignore" });
  } catch {
    return t.skip("the assembler here is not for x86");
  }
  // The assembler may choose the other of two encodings of a move between registers, so disassembly is what is compared.
  const disassemble = (code: Uint8Array) => {
    const file = path.join(directory, "code");
    writeFileSync(file, code);
    const text = execFileSync("objdump", [
      "-D",
      "-b",
      "binary",
      "-m",
      "i386:x86-64",
      "-M",
      "intel",
      file,
    ]).toString();
    return text.split("\n").flatMap((line) => line.split("\t")[2]?.trim() ?? []);
  };
  const code = Buffer.from(STATUS_PROGRAM.flatMap(([bytes]) => bytes));
  assert.deepEqual(disassemble(code), disassemble(readFileSync(binary)));
  assert.equal(disassemble(code).length, STATUS_PROGRAM.length);
});

test("the status program is an ELF file whose entry point is its code", () => {
  const { bits, entry, segments } = parseElf(statusProgram(), "report-status");
  assert.equal(bits, 64);
  assert.equal(segments.length, 1);
  const code = segments[0].data.subarray(Number(entry - segments[0].virtual));
  assert.deepEqual(
    [...code],
    STATUS_PROGRAM.flatMap(([bytes]) => bytes),
  );
});

test("words are quoted for the shell", () => {
  const words = ["plain", "", "two words", "it's", '$HOME `id` \\ " * ~', "-n", "line\nbreak", "ü"];
  const script = `printf '%s\\0' ${words.map(shellQuote).join(" ")}`;
  assert.equal(execFileSync("sh", ["-c", script]).toString(), words.map((word) => `${word}\0`).join(""));
});

test("/init is a shell script without errors of syntax", () => {
  execFileSync("sh", ["-n"], { input: GUEST_INIT });
});

test("the command's archive: script and environment", (t) => {
  if (!hasTool("cpio")) return t.skip("no cpio on this machine");
  const archive = guestCommandArchive({
    argv: ["sh", "-c", "echo it's $A"],
    environment: { TERM: "xterm", A: "1 2", "not a name": "x" },
    terminal: { rows: 24, columns: 80 },
  });
  const file = (name: string) => pipe(["cpio", "-i", "--quiet", "--to-stdout", name], archive).toString();
  assert.equal(file("nlkt/command"), "#!/bin/sh\nexec 'sh' '-c' 'echo it'\\''s $A'\n");
  assert.equal(
    file("nlkt/environment"),
    "export TERM='xterm'\nexport A='1 2'\nNLKT_ROWS=24\nNLKT_COLUMNS=80\n",
  );
  assert.match(pipe(["cpio", "-itv", "--quiet"], archive).toString(), /^-rwxr-xr-x .* nlkt\/command$/m);
  const shell = pipe(["cpio", "-it", "--quiet"], guestCommandArchive({})).toString();
  assert.ok(!shell.includes("nlkt/command"), "no command: an interactive shell");
});

test("the default initramfs has what /init needs", (t) => {
  if (!hasTool("cpio")) return t.skip("no cpio on this machine");
  const archive = defaultInitramfs(Buffer.from("busybox"), ["bin/busybox", "bin/ls", "usr/bin/[", "linuxrc"]);
  const listing = pipe(["cpio", "-itv", "--quiet"], archive.toBytes()).toString();
  assert.match(listing, /^-rwxr-xr-x .* init$/m);
  assert.match(listing, /^-rwxr-xr-x .* bin\/busybox$/m);
  assert.match(listing, /^-rwxr-xr-x .* nlkt\/report-status$/m);
  assert.match(listing, /^lrwxrwxrwx .* bin\/sh -> \/bin\/busybox$/m);
  assert.match(listing, /^lrwxrwxrwx .* usr\/bin\/\[ -> \/bin\/busybox$/m);
  assert.match(listing, /^crw------- .* 5, +1 .* dev\/console$/m);
  assert.ok(!listing.includes("linuxrc"));
});

test("the command line: the console, our parameters, the user's last", () => {
  const line = kernelCommandLine({ console: "ttyS0", params: [" root=/dev/vda  ro ", "", "panic=5"] });
  assert.match(line, /^console=ttyS0 panic=-1 .* root=\/dev\/vda {2}ro panic=5$/);
  assert.ok(!line.includes("quiet"));
  assert.match(kernelCommandLine({ quiet: true }), / quiet$/);
  assert.equal(kernelCommandLine({ console: "hvc0", bare: true, params: ["x"] }), "console=hvc0 x");
  assert.equal(kernelCommandLine({ bare: true }), "");
});
