/** What is booted: Debian's cloud kernels, and initial RAM disks for each purpose, the same for NLKT and for QEMU. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { concatArchives } from "../src/boot/cpio.js";
import { fetchInitramfs, fetchKernel } from "../src/boot/default-guest.js";
import { guestCommandArchive } from "../src/boot/guest-command.js";

export interface Guests {
  /** Bookworm's kernel, and its backport of a newer one. */
  readonly kernel61: string;
  readonly kernel612: string;
  /** Goes to the shell. */
  readonly shell: string;
  /** Runs a shell script, then powers off. */
  script(text: string): string;
}

export async function makeGuests(): Promise<Guests> {
  const progress = (message: string) => process.stderr.write(`bench: ${message}\n`);
  const shell = await fetchInitramfs(progress);
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-bench-"));
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
  const made = new Map<string, string>();
  return {
    kernel61: (await fetchKernel({ suite: "bookworm" }, progress)).vmlinuz,
    kernel612: (await fetchKernel({ suite: "bookworm-backports" }, progress)).vmlinuz,
    shell,
    script(text) {
      const known = made.get(text);
      if (known !== undefined) return known;
      const file = path.join(directory, `initrd-${made.size}`);
      const command = guestCommandArchive({ argv: ["sh", "-c", text] });
      writeFileSync(file, concatArchives([readFileSync(shell), command]));
      made.set(text, file);
      return file;
    },
  };
}
