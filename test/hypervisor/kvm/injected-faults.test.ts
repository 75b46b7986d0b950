/**
 * What a KVM that is too old, or that gives up, leads to: a library laid over the C library's `ioctl` answers in KVM's
 * place, so that the whole way is tested, from the system call to the line on standard error.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, test } from "node:test";
import { NLKT } from "../../cli/nlkt.js";
import { kernel } from "../../lab/support.js";
import { noKvm } from "./support/kvm-machine.js";

const SOURCE = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static int is(const char *fault) {
  const char *wanted = getenv("NLKT_TEST_FAULT");
  return wanted && !strcmp(wanted, fault);
}

int ioctl(int fd, unsigned long request, ...) {
  static int (*real)(int, unsigned long, ...);
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  if (!real) real = dlsym(RTLD_NEXT, "ioctl");
  if (request == KVM_GET_API_VERSION && is("version")) return 11;
  if (request == KVM_CHECK_EXTENSION && (long)argument == KVM_CAP_SIGNAL_MSI && is("capability")) return 0;
  int result = real(fd, request, argument);
  if (request != KVM_RUN || result != 0) return result;
  struct kvm_run *run = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (is("fail-entry")) {
    run->exit_reason = KVM_EXIT_FAIL_ENTRY;
    run->fail_entry.hardware_entry_failure_reason = 0x80000021;
  } else if (is("internal-error")) {
    run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run->internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
  } else if (is("shutdown")) {
    run->exit_reason = KVM_EXIT_SHUTDOWN;
  } else if (is("unknown")) {
    run->exit_reason = KVM_EXIT_UNKNOWN;
    run->hw.hardware_exit_reason = 0x7b;
  }
  munmap(run, 4096);
  return 0;
}
`;

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-faults-"));
after(() => rmSync(directory, { recursive: true }));

function compiled(): string | undefined {
  const source = path.join(directory, "faults.c");
  const library = path.join(directory, "faults.so");
  writeFileSync(source, SOURCE);
  const { status, error, stderr } = spawnSync("gcc", ["-shared", "-fPIC", "-o", library, source, "-ldl"], {
    encoding: "utf8",
  });
  if (error !== undefined || !existsSync("/usr/include/linux/kvm.h")) return undefined;
  assert.equal(status, 0, stderr);
  return library;
}

const library = process.arch === "x64" ? compiled() : undefined;
const skip = noKvm !== false ? noKvm : library === undefined ? "no gcc, or no <linux/kvm.h>" : false;

/** `nlkt run` on KVM with that fault. */
function run(fault: string, ...args: string[]) {
  const { status, stderr } = spawnSync(
    process.execPath,
    [NLKT, "run", "--accel", "kvm", "--nodefaults", "-m", "16", "--timeout", "300", ...args],
    { encoding: "utf8", env: { ...process.env, LD_PRELOAD: library ?? "", NLKT_TEST_FAULT: fault } },
  );
  return { code: status, stderr };
}

describe("a KVM that is not what it should be", { skip }, () => {
  // mov ebx, 0x12345678; mov dx, 0x80; out dx, al; in al, 0x21, which is KVM's; jmp
  const file = kernel((code) => code.mov("bx", 0x12345678).mov("dx", 0x80).hex("ee e421 ebfb"));

  test("another API version: one line that says what to do", () => {
    assert.deepEqual(run("version", "-k", file), {
      code: 1,
      stderr:
        "nlkt: /dev/kvm: KVM API version 11 instead of 12: the host's kernel is too old; use --accel soft\n",
    });
  });

  test("a capability that is missing is named", () => {
    assert.deepEqual(run("capability", "-k", file), {
      code: 1,
      stderr: "nlkt: /dev/kvm: the host's KVM lacks KVM_CAP_SIGNAL_MSI; use --accel soft\n",
    });
  });

  for (const [fault, what] of [
    ["fail-entry", "the processor refused to enter the guest, reason 0x80000021"],
    ["internal-error", "internal error: an exit during event delivery"],
    ["shutdown", "triple fault"],
    ["unknown", "unexpected exit 0, reason 0x7b"],
  ]) {
    test(`${fault}: exit 1 and the dump`, () => {
      const { code, stderr } = run(fault, "-k", file);
      assert.equal(code, 1);
      assert.equal(stderr.split("\n", 1)[0], `nlkt: vCPU 0: ${what}`);
      assert.match(stderr, /^vCPU 0:\nRAX .*RBX {4}0000000012345678.*^Code {3}.*^Page tables for RIP/ms);
    });
  }
});

test("a device that must not be opened: one line that says what to do", (t) => {
  const file = path.join(directory, "device");
  writeFileSync(file, "");
  chmodSync(file, 0);
  chmodSync(directory, 0o711);
  // Root may open everything.
  const nobody = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  const node = (...args: string[]) =>
    spawnSync(process.execPath, [NLKT, ...args], { encoding: "utf8", cwd: "/", ...nobody });
  if (node("version").status !== 0) return t.skip("the project's directory is not everybody's");
  const image = path.join(directory, "kernel");
  copyFileSync(
    kernel((code) => code.hex("ebfe")),
    image,
  );
  chmodSync(image, 0o644);
  const options = ["--accel", "kvm", "--nodefaults", "-m", "16"];
  const { status, stderr } = node("run", ...options, "--dev", file, "-k", image);
  assert.deepEqual(
    { status, stderr },
    { status: 1, stderr: `nlkt: ${file}: permission denied: join the group kvm, or use --accel soft\n` },
  );
});
