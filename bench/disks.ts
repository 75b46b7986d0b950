/** What disks cost: the same program in the same guest on the same image, as fio's libaio engine would measure it. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { CpioArchive, concatArchives } from "../src/boot/cpio.js";
import { findModules } from "../src/boot/find-modules.js";
import { guestCommandArchive } from "../src/boot/guest-command.js";
import { kernelRelease } from "../src/boot/kernel-release.js";
import { MODULE_DIRECTORY, MODULE_ORDER } from "../src/boot/root-init.js";
import type { Guests } from "./guests.js";
import type { Line, Row } from "./rows.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const IMAGE_MIB = 256;
const MARK = "disk-bench";

/** Arguments of `programs/disk.c` behind the device. */
const JOBS: readonly { readonly name: string; readonly arguments: string }[] = [
  { name: "4,000 random 4 KiB reads, depth 1", arguments: "read random 4096 1 4000" },
  { name: "4,000 random 4 KiB writes, depth 1", arguments: "write random 4096 1 4000" },
  { name: "20,000 random 4 KiB reads, depth 32", arguments: "read random 4096 32 20000" },
  { name: "20,000 random 4 KiB writes, depth 32", arguments: "write random 4096 32 20000" },
  { name: "2,000 sequential 1 MiB reads", arguments: "read sequential 1048576 4 2000" },
  { name: "2,000 sequential 1 MiB writes", arguments: "write sequential 1048576 4 2000" },
];

export const DISK_ROWS: readonly Row[] = (["raw", "qcow2"] as const).map((format) => {
  const lines = JOBS.map(
    ({ name }): Line => ({ name: `${format}: ${name}`, unit: "s", reach: { ratio: 1 } }),
  );
  return {
    name: `${format} disk`,
    lines,
    hasPeer: true,
    async measure(start, guests, chosen) {
      const directory = mkdtempSync(path.join(tmpdir(), "nlkt-bench-disk-"));
      try {
        const jobs = JOBS.filter((_, i) => chosen.includes(lines[i]));
        const script = jobs
          .map(({ arguments: words }) => `echo "${MARK} $(/bin/disk /dev/vda ${words})"`)
          .join("\n");
        const initrd = path.join(directory, "initrd");
        writeFileSync(initrd, await diskInitrd(directory, guests, script));
        const file = makeImage(directory, format);
        const guest = start({ kernel: await guests.kernel61(), initrd, disk: { file, format } });
        const seconds: number[] = [];
        guest.onLine((line) => {
          const match = new RegExp(`^${MARK} ([\\d.]+)`).exec(line.trim());
          if (match !== null) seconds.push(Number(match[1]));
        });
        await guest.ended;
        if (seconds.length !== jobs.length) throw new Error("the guest powered off before its work was done");
        return jobs.map(({ name }, i) => ({ name: `${format}: ${name}`, value: seconds[i] }));
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
  };
});

/** An image that has all of its blocks. */
function makeImage(directory: string, format: "raw" | "qcow2"): string {
  const raw = path.join(directory, "image.raw");
  writeFileSync(raw, Buffer.alloc(IMAGE_MIB << 20, "nlkt"));
  if (format === "raw") return raw;
  const file = path.join(directory, "image.qcow2");
  execFileSync(process.execPath, [
    path.join(ROOT, "bin/nlkt.js"),
    "image",
    "convert",
    "-O",
    "qcow2",
    raw,
    file,
  ]);
  return file;
}

/** The default guest with the modules for disks and the program; it runs `script`. */
async function diskInitrd(directory: string, guests: Guests, script: string): Promise<Uint8Array> {
  const kernel = await guests.kernel61();
  const release = kernelRelease(readFileSync(kernel));
  const tree = release === undefined ? undefined : await findModules(kernel, release, () => {});
  if (tree === undefined) throw new Error("the kernel's modules are not there");
  const program = path.join(directory, "disk");
  const source = path.join(ROOT, "bench/programs/disk.c");
  execFileSync("cc", ["-O2", "-static", "-o", program, source]);
  const archive = new CpioArchive();
  const modules = await tree.load(["virtio_pci", "virtio_blk"]);
  for (const { name, bytes } of modules) archive.file(`${MODULE_DIRECTORY}/${name}.ko`, bytes);
  archive.file(MODULE_ORDER, modules.map(({ name }) => `${name}.ko\n`).join(""));
  archive.file("bin/disk", readFileSync(program), 0o755);
  const command = guestCommandArchive({ argv: ["sh", "-c", script] });
  return concatArchives([readFileSync(await guests.shell()), command, archive.toBytes()]);
}
