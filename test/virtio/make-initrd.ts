/** For use by hand: node dist/test/virtio/make-initrd.js SUITE OUTPUT SCRIPT [PROGRAM...] */
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { virtioGuest } from "./guest.js";

const [suite, output, script, ...files] = process.argv.slice(2);
const programs: Record<string, Uint8Array> = {};
for (const file of files) programs[path.basename(file)] = await readFile(file);
const guest = await virtioGuest(suite as "bookworm", script, programs);
await writeFile(output, guest.initrd);
console.log(guest.kernel);
