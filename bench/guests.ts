/** What is booted: Debian's cloud kernels and a small one, and initial RAM disks for each purpose, the same for every side. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { concatArchives } from "../src/boot/cpio.js";
import { fetchInitramfs, fetchKernel } from "../src/boot/default-guest.js";
import { guestCommandArchive } from "../src/boot/guest-command.js";
import { smallKernel } from "./small-kernel.js";
import { type BenchUserland, benchUserland } from "./userland.js";

/** What a row needs cannot be had on this machine. */
export class Unavailable extends Error {}

/** Each is made when it is first asked for; what cannot be rejects with `Unavailable`. */
export interface Guests {
  /** Bookworm's kernel, and its backport of a newer one. */
  kernel61(): Promise<string>;
  kernel612(): Promise<string>;
  /** Built for the bench. */
  smallKernel(): Promise<string>;
  /** busybox, to the shell. */
  shell(): Promise<string>;
  /** busybox; powers off at once. */
  powerOff(): Promise<string>;
  userland(): Promise<BenchUserland>;
}

export function makeGuests(progress: (message: string) => void): Guests {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-bench-"));
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
  const shell = once(() => fetchInitramfs(progress));
  return {
    kernel61: once(async () => (await fetchKernel({ suite: "bookworm" }, progress)).vmlinuz),
    kernel612: once(async () => (await fetchKernel({ suite: "bookworm-backports" }, progress)).vmlinuz),
    smallKernel: once(() => smallKernel(progress)),
    shell,
    powerOff: once(async () => {
      const file = path.join(directory, "power-off.cpio");
      const command = guestCommandArchive({ argv: ["true"] });
      writeFileSync(file, concatArchives([readFileSync(await shell()), command]));
      return file;
    }),
    userland: once(() => benchUserland(directory, progress)),
  };
}

function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make().catch((error: Error) => {
      throw new Unavailable(error.message.split("\n")[0]);
    });
    return made;
  };
}
