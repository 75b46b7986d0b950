/** The initial RAM disk of the stress guest: the default guest, and test/smp/linux/stress.c compiled. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { CpioArchive, concatArchives } from "../../src/boot/cpio.js";
import { fetchInitramfs } from "../../src/boot/default-guest.js";
import { guestCommandArchive } from "../../src/boot/guest-command.js";

const SOURCE = fileURLToPath(new URL("../../../test/smp/linux/stress.c", import.meta.url));

/** Its last line where nothing was wrong. */
export const STRESS_OK = "stress: ok";

/** A file that goes with this process; the guest runs `seconds` and powers off. Needs gcc and libc's static library. */
export async function stressImage(seconds: number): Promise<string> {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-stress-"));
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
  const program = path.join(directory, "stress");
  execFileSync("gcc", ["-O2", "-Wall", "-Wextra", "-static", "-pthread", SOURCE, "-o", program]);
  const archive = new CpioArchive().file("bin/stress", readFileSync(program), 0o755).toBytes();
  const command = guestCommandArchive({ argv: ["/bin/stress", String(seconds)] });
  const file = path.join(directory, "stress.cpio");
  writeFileSync(file, concatArchives([readFileSync(await fetchInitramfs()), archive, command]));
  return file;
}
