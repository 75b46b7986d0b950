/** Debian's cloud kernel on KVM with 1, 2 and 4 vCPUs, each boot's time beside that of QEMU with KVM on the same machine. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { before, describe, test } from "node:test";
import { kernelCommandLine } from "../../src/boot/command-line.js";
import { concatArchives } from "../../src/boot/cpio.js";
import { guestCommandArchive } from "../../src/boot/guest-command.js";
import { type Files, guestFiles, runGuest } from "../guest/guests.js";
import { noHardware, short, temporaryFile } from "./support.js";

const MIB = 2 ** 20;
const TIMEOUT_SECONDS = 300;

const QEMU = "qemu-system-x86_64";
const hasQemu = spawnSync(QEMU, ["--version"]).status === 0;

/** A line `== NAME` goes before each command's output. */
const SCRIPT = `
show() { echo "== $1"; shift; "$@"; }
show nproc nproc
show memory awk '/MemTotal/ { print $2 }' /proc/meminfo
show clocksource cat /sys/devices/system/clocksource/clocksource0/current_clocksource
show interrupts cat /proc/interrupts
show hypervisor sh -c "dmesg | grep Hypervisor"
show end
`;

/** What `--loglevel debug` says where all is well. */
const FIRST_INSTRUCTION = /first guest instruction (\d+) ms after the start/;
const EXPECTED = new RegExp(
  `^nlkt: (guest-\\d+: |64-bit kernel of |--accel |Ctrl-a x |the vCPUs stopped |${FIRST_INSTRUCTION.source})`,
);

interface Boot {
  readonly cpus: number;
  /** MiB, as an option. */
  readonly memory: number;
}

const BOOTS: readonly Boot[] = [
  { cpus: 1, memory: 256 },
  { cpus: 2, memory: 5 * 1024 },
  { cpus: 4, memory: 512 },
];

/** The seconds that QEMU with KVM takes for the same kernel and initrd. */
async function qemuSeconds({ cpus, memory }: Boot, kernel: string, initrd: string): Promise<number> {
  const from = performance.now();
  const child = spawn(
    QEMU,
    [
      ...["-accel", "kvm", "-machine", "pc", "-cpu", "host", "-smp", `${cpus}`, "-m", `${memory}`],
      ...["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"],
      ...["-kernel", kernel, "-initrd", initrd],
      ...["-append", kernelCommandLine({ console: "ttyS0", quiet: true })],
    ],
    { stdio: ["ignore", "pipe", "inherit"], timeout: TIMEOUT_SECONDS * 1000 },
  );
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString("latin1");
  });
  const code = await new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  assert.match(output, /^== end/m, `QEMU ended with ${code}: ${output.slice(-500)}`);
  return (performance.now() - from) / 1000;
}

describe("Debian's cloud kernel on KVM", { skip: noHardware }, () => {
  let files: Files | string;
  let initrd: string;
  before(async () => {
    files = await guestFiles();
    if (typeof files === "string") return;
    initrd = temporaryFile("initrd");
    const command = guestCommandArchive({ argv: ["sh", "-c", SCRIPT] });
    writeFileSync(initrd, concatArchives([readFileSync(files.initrd), command]));
  });

  for (const boot of BOOTS) {
    const { cpus, memory } = boot;
    test(`-c ${cpus} -m ${memory}`, async (t) => {
      if (typeof files === "string") return t.skip(files);
      const options = ["--accel", "kvm", "-c", `${cpus}`, "-m", `${memory}`, "-p", "quiet"];
      const { code, stdout, stderr, from, to } = await runGuest([
        ...options,
        "-k",
        files.kernel,
        "-i",
        initrd,
        "--loglevel",
        "debug",
      ]);
      const complaints = stderr.split("\n").filter((line) => line !== "" && !EXPECTED.test(line));
      assert.deepEqual({ code, complaints }, { code: 0, complaints: [] }, stdout.slice(-1000));
      const section = (name: string) =>
        new RegExp(`^== ${name}\\s+([^]*?)^== `, "m").exec(stdout.replaceAll("\r", ""))?.[1].trim() ?? "";
      assert.equal(section("nproc"), `${cpus}`);
      // The kernel keeps some for itself.
      const usable = Number(section("memory")) * 1024;
      assert.ok(usable > 0.8 * memory * MIB && usable <= memory * MIB, `${usable / MIB} MiB`);
      assert.match(section("clocksource"), /^(tsc|kvm-clock)$/);
      assert.match(section("hypervisor"), /Hypervisor detected: KVM$/m);
      const timer = /^ *LOC:((?: +\d+)+)/m.exec(section("interrupts"))?.[1].trim().split(/ +/) ?? [];
      assert.equal(timer.filter((count) => Number(count) > 0).length, cpus, "each vCPU's timer ticks");
      // Node, which takes most of it on the lab's processors, is no part of what QEMU is compared with.
      const start = Number(FIRST_INSTRUCTION.exec(stderr)?.[1]) / 1000;
      const ours = `nlkt ${(to - from).toFixed(1)} s, of which ${start.toFixed(1)} s before the guest's first instruction`;
      if (short && cpus > 1) return t.diagnostic(ours);
      if (!hasQemu) return t.diagnostic(`${ours}; no ${QEMU} here to compare with`);
      const theirs = await qemuSeconds(boot, files.kernel, initrd);
      t.diagnostic(`${ours}, QEMU with KVM ${theirs.toFixed(1)} s`);
    });
  }
});
