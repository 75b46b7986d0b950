/** `--accel` and `--dev`: what is said where KVM cannot be had, and what `auto` takes. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { Cap } from "../../src/hypervisor/kvm/abi/constants.js";
import { abiProblem, KvmDevice, KvmUnavailable, openMessage } from "../../src/hypervisor/kvm/device.js";
import { Errno, HostError } from "../../src/hypervisor/kvm/host.js";
import { hardwareVirtualization } from "../../src/hypervisor/kvm/host-cpu.js";
import { chooseAccel } from "../../src/machine/accel.js";
import { scriptKernel } from "../machine/script-kernel.js";
import { environment, NLKT } from "./nlkt.js";

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-accel-"));
after(() => rmSync(directory, { recursive: true }));
const kernel = scriptKernel("wait");

/** With the providers of a user, not the one of the tests. */
function nlkt(...args: string[]) {
  const { NLKT_PROVIDER_MODULE: _, ...env } = environment as NodeJS.ProcessEnv;
  const { status, stderr, stdout } = spawnSync(process.execPath, [NLKT, ...args], { encoding: "utf8", env });
  return { code: status, stderr, stdout };
}

test("a device that is not there: one line that says what to do", () => {
  const { code, stderr } = nlkt("run", "--accel", "kvm", "--dev", "/dev/no-kvm", "-k", kernel);
  assert.match(stderr, /^nlkt: \/dev\/no-kvm: no such device: .*kvm_intel.*--accel soft\n$/);
  assert.equal(code, 1);
});

test("a device that is another", () => {
  const { code, stderr } = nlkt("run", "--accel", "kvm", "--dev", "/dev/null", "-k", kernel);
  assert.match(stderr, /^nlkt: \/dev\/null: not the KVM device; .*--accel soft\n$/);
  assert.equal(code, 1);
});

test("a file that is no device", () => {
  const file = path.join(directory, "file");
  writeFileSync(file, "x");
  assert.throws(() => KvmDevice.open(file), KvmUnavailable);
});

test("a device that must not be opened: the group that may", () => {
  const denied = openMessage("/dev/kvm", new HostError("/dev/kvm", Errno.EACCES));
  assert.equal(denied, "/dev/kvm: permission denied: join the group kvm, or use --accel soft");
});

test("a KVM of another version, or without what is needed: what it is", () => {
  const all = () => 1;
  assert.equal(abiProblem("/dev/kvm", 12, all), undefined);
  assert.equal(
    abiProblem("/dev/kvm", 11, all),
    "/dev/kvm: KVM API version 11 instead of 12: the host's kernel is too old; use --accel soft",
  );
  const { KVM_CAP_IRQCHIP, KVM_CAP_IOEVENTFD } = Cap;
  assert.equal(
    abiProblem("/dev/kvm", 12, (cap) => (cap === KVM_CAP_IRQCHIP || cap === KVM_CAP_IOEVENTFD ? 0 : 1)),
    "/dev/kvm: the host's KVM lacks KVM_CAP_IRQCHIP, KVM_CAP_IOEVENTFD; use --accel soft",
  );
});

test("auto takes soft where the CPU has no hardware virtualization or KVM cannot be used, and says why", async () => {
  const { accel, why, missed } = await chooseAccel("/dev/no-kvm");
  assert.equal(accel, "soft");
  const flag = hardwareVirtualization();
  assert.match(why, flag === undefined ? /neither vmx nor svm/ : /^\/dev\/no-kvm: no such device/);
  assert.equal(missed, flag !== undefined);
});

test("nlkt version says what auto takes, of the device that is named", () => {
  const { stdout, code } = nlkt("version", "--dev", "/dev/no-kvm");
  assert.match(stdout, /\n--accel auto takes soft: .+\n$/);
  assert.equal(code, 0);
});
