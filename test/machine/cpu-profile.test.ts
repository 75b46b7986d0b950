/** `--profile-cpu`: what is measured, and the file. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { PortBus } from "../../src/devices/bus.js";
import type { VcpuProfile } from "../../src/hypervisor/seam.js";
import { namedDevices, profileText } from "../../src/machine/cpu-profile.js";
import { nlkt } from "../cli/nlkt.js";
import { runGuest } from "../guest/guests.js";
import { multibootKernel } from "./multiboot-kernel.js";

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-profile-"));
after(() => rmSync(directory, { recursive: true, force: true }));

/** 32-bit code: 50 accesses to the RTC's index port, a loop, CPUID three times; ends with status 3. */
const CODE = [
  ...[0xb9, 50, 0, 0, 0], // mov $50, %ecx
  ...[0xe6, 0x70, 0xe2, 0xfc], // 1: out %al, $0x70; loop 1b
  ...[0xb9, 0x40, 0x42, 0x0f, 0x00], // mov $1000000, %ecx
  ...[0x01, 0xca, 0x49, 0x75, 0xfb], // 1: add %ecx, %edx; dec %ecx; jnz 1b
  ...[0x0f, 0xa2, 0x0f, 0xa2, 0x0f, 0xa2], // cpuid
  ...[0xb0, 1, 0xe6, 0xf4, 0xf4], // mov $1, %al; out %al, $0xf4; hlt
];

const kernel = multibootKernel(directory, CODE);
const options = ["-m", "8", "--nodefaults", "--accel", "soft", "--isa-debug-exit", kernel];
const rowsOf = ({ sections }: VcpuProfile, name: string) =>
  sections.find((section) => section.name === name)!.rows;

test("a JSON file has counts and times of one vCPU that add up", async () => {
  const file = path.join(directory, "profile.json");
  const { code, stderr } = await runGuest(["--profile-cpu", file, ...options]);
  assert.deepEqual({ code, stderr }, { code: 3, stderr: "" });
  const { vcpus } = JSON.parse(readFileSync(file, "utf8")) as { vcpus: VcpuProfile[] };
  assert.equal(vcpus.length, 1);
  const [profile] = vcpus;
  assert.equal(profile.vcpu, 0);
  const time = rowsOf(profile, "time");
  const sum = time.reduce((seconds, row) => seconds + row.seconds!, 0);
  assert.ok(Math.abs(sum - profile.seconds) < 1e-6, `${sum} of ${profile.seconds} s`);
  assert.ok(time.some(({ name }) => name === "guest code"));
  const operations = new Map(
    rowsOf(profile, "operations in TypeScript").map(({ name, count }) => [name, count]),
  );
  assert.equal(operations.get("cpuid"), 3);
  assert.equal(operations.get("out"), 51);
  const devices = new Map(rowsOf(profile, "devices").map(({ name, count }) => [name, count]));
  assert.equal(devices.get("rtc, port 0x70–0x71"), 50);
  const cold = rowsOf(profile, "cold tier").find(({ name }) => name === "instructions decoded")!;
  assert.ok(cold.count! >= 14 && cold.count! < 100, `${cold.count} instructions decoded`);
});

test("any other name gets a text", async () => {
  const file = path.join(directory, "profile");
  await runGuest(["--profile-cpu", file, ...options]);
  const text = readFileSync(file, "utf8");
  assert.match(text, /^vCPU 0: \d+\.\d{3} s\n\ntime, /);
  assert.match(text, /^ +\d+\.\d{3} s +\d+\.\d % +50 {2}rtc, port 0x70–0x71$/m);
});

test("a file that cannot be written is said before the machine runs", () => {
  const file = path.join(directory, "none", "profile");
  const { code, stderr } = nlkt(["run", "--profile-cpu", file, kernel]);
  assert.equal(code, 1);
  assert.match(stderr, /^nlkt: --profile-cpu: .*none.*\n$/);
});

test("KVM has no such profile", () => {
  const { NLKT_PROVIDER_MODULE: _, ...env } = process.env;
  assert.equal(env.NLKT_PROVIDER_MODULE, undefined);
  const { code, stderr } = nlkt([
    "run",
    "--accel",
    "kvm",
    "--profile-cpu",
    path.join(directory, "p"),
    kernel,
  ]);
  assert.deepEqual(
    { code, stderr },
    { code: 1, stderr: "nlkt: --profile-cpu: only the software CPU has a profile (--accel soft)\n" },
  );
});

test("accesses are put together by device; what nobody claims stays an address", () => {
  const ports = new PortBus();
  ports.register({
    owner: "dev",
    start: 0x10,
    size: 4,
    maxSize: 1,
    device: { read: () => 0, write: () => {} },
  });
  const access = (address: number) => ({ space: "port", address }) as const;
  const rows = [
    { name: "port 0x10", count: 2, seconds: 1, access: access(0x10) },
    { name: "port 0x13", count: 3, seconds: 0.5, access: access(0x13) },
    { name: "port 0x14", count: 1, seconds: 0.25, access: access(0x14) },
  ];
  const profile = { vcpu: 0, seconds: 2, sections: [{ name: "devices", rows }] };
  const named = namedDevices(profile, { ports, mmio: { ranges: [] } });
  assert.deepEqual(named.sections[0].rows, [
    { name: "dev, port 0x10–0x13", count: 5, seconds: 1.5 },
    { name: "port 0x14, nobody's", count: 1, seconds: 0.25 },
  ]);
});

test("the text has a line a row, with its share of the whole", () => {
  const text = profileText({
    vcpu: 1,
    seconds: 4,
    sections: [
      { name: "time", rows: [{ name: "a", count: 7, seconds: 1 }] },
      { name: "empty", rows: [] },
      { name: "counts", rows: [{ name: "b", count: 9 }] },
    ],
  });
  assert.deepEqual(
    text.split("\n").map((line) => line.replace(/ +/g, " ").trim()),
    ["vCPU 1: 4.000 s", "", "time, 1.000 s", "1.000 s 25.0 % 7 a", "", "counts", "9 b", ""],
  );
});
