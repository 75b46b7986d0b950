import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { cacheDirectory } from "../../src/boot/cache-directory.js";
import { kernelCommandLine } from "../../src/boot/command-line.js";
import { concatArchives } from "../../src/boot/cpio.js";
import { defaultInitramfs, fetchBusybox, fetchKernel, listKernels } from "../../src/boot/default-guest.js";
import { guestCommandArchive } from "../../src/boot/guest-command.js";
import { unpackPayload } from "../../src/boot/payload.js";
import { load, makeMemory } from "./images.js";
import { bootInQemu, missingTool } from "./qemu.js";

const directory = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(directory, { recursive: true, force: true }));

const PACKAGE = "linux-image-cloud-amd64";
const SUITE = "bookworm";
const STATUS = 67;

async function defaultGuest(): Promise<{ kernel: Buffer; initrd: Uint8Array } | string> {
  const tool = missingTool();
  if (tool !== undefined) return `no ${tool} on this machine`;
  const cached = (await listKernels()).some((kernel) => kernel.suite === SUITE && kernel.package === PACKAGE);
  if (!cached || !existsSync(path.join(cacheDirectory(), "busybox", SUITE))) {
    return "the default guest is not in the cache";
  }
  const { vmlinuz } = await fetchKernel({ suite: SUITE, package: PACKAGE });
  const { busybox, applets } = await fetchBusybox(undefined, SUITE);
  const command = ["sh", "-c", `cat /proc/cmdline; echo "$GREETING"; exit ${STATUS}`];
  const initrd = concatArchives([
    defaultInitramfs(readFileSync(busybox), applets).toGzip(),
    guestCommandArchive({ argv: command, environment: { GREETING: "it's the guest" } }),
  ]);
  return { kernel: readFileSync(vmlinuz), initrd };
}

/** The payload of Debian's kernel: a vmlinux with a PVH note. */
function unpackVmlinux(kernel: Buffer): Promise<Uint8Array> {
  const start = (kernel[0x1f1] + 1) * 512 + kernel.readUInt32LE(0x248);
  return unpackPayload(kernel.subarray(start, start + kernel.readUInt32LE(0x24c)), 2 ** 28);
}

for (const [how, format, options] of [
  ["unpacked, at its 64-bit entry", "bzImage", {}],
  ["through the bzImage's own 32-bit entry", "bzImage", { entry: "32-bit" }],
  ["as a PVH kernel", "PVH", {}],
] as const) {
  test(`Debian's kernel starts in QEMU's CPU ${how}, and its command's status arrives`, async (t) => {
    const guest = await defaultGuest();
    if (typeof guest === "string") return t.skip(guest);
    const memory = makeMemory(128);
    const commandLine = kernelCommandLine({ console: "ttyS0", quiet: true, params: ["some=thing"] });
    const kernel = format === "PVH" ? await unpackVmlinux(guest.kernel) : guest.kernel;
    const state = await load(memory, kernel, { initrd: guest.initrd, commandLine, rsdp: 0, ...options });
    assert.equal(state.format, format);
    const { console, status } = bootInQemu(directory, memory, state);
    assert.ok(console.includes(`${commandLine}\nit's the guest\n`), console);
    assert.equal(status, STATUS, console);
  });
}
