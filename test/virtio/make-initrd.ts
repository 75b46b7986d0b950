/** For use by hand: node dist/test/virtio/make-initrd.js SUITE OUTPUT SCRIPT */
import { writeFile } from "node:fs/promises";
import { virtioGuest } from "./guest.js";

const [suite, output, script] = process.argv.slice(2);
const guest = await virtioGuest(suite as "bookworm", script);
await writeFile(output, guest.initrd);
console.log(guest.kernel);
