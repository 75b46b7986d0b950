/** `npm run test:disk-boot`: boots a Debian from a disk. The first run makes the disk (debootstrap, as root). */
import path from "node:path";
import { run } from "node:test";
import { build, install, ROOT } from "./lib/prepare.mjs";
import { TestReport } from "./lib/test-report.mjs";

const TIMEOUT_MILLISECONDS = 40 * 60 * 1000;

install();
await build();

const tests = path.join(ROOT, "dist/test");
const report = new TestReport(tests);
const files = [path.join(tests, "disk-boot/debian-boot.js")];
for await (const { type, data } of run({ files, timeout: TIMEOUT_MILLISECONDS })) report.event(type, data);
process.exit(report.finish());
