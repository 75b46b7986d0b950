/**
 * The row of port exits on KVM: NLKT's loop beside the same loop in C, which the bench compiles. In processor time of the vCPU's
 * thread, kernel included: on an idle machine that is what the clock shows, on a busy one it stays comparable.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { cacheDirectory, makeOnce } from "../src/boot/cache-directory.js";
import { kvmProblem } from "../src/machine/accel.js";
import { DEFAULT_KVM_DEVICE } from "../src/machine/config.js";
import type { Row } from "./rows.js";

const run = promisify(execFile);

/** This file runs as dist/bench/kvm-exits.js. */
const SOURCE = fileURLToPath(new URL("../../bench/host/kvm-exits.c", import.meta.url));
const NAME = "port exit on KVM";
const SECONDS = 1;

/** The program in C, compiled. */
async function compiled(): Promise<string> {
  const hash = createHash("sha256")
    .update(await readFile(SOURCE))
    .digest("hex");
  const directory = path.join(cacheDirectory(), "bench", `kvm-exits-${hash.slice(0, 16)}`);
  await makeOnce(directory, async (temporary) => {
    await run("gcc", ["-O2", "-Wall", "-o", path.join(temporary, "kvm-exits"), SOURCE]);
  });
  return path.join(directory, "kvm-exits");
}

/** None where the host has no KVM, which is said. */
export async function kvmExitRows(): Promise<Row[]> {
  const problem = await kvmProblem(DEFAULT_KVM_DEVICE);
  if (problem !== undefined) {
    process.stderr.write(`bench: no ${NAME}: ${problem}\n`);
    return [];
  }
  return [
    {
      name: NAME,
      lines: [{ name: NAME, unit: "µs" }],
      hasPeer: false,
      async measure() {
        const worker = new Worker(new URL("./kvm-exit-loop.js", import.meta.url), {
          workerData: { seconds: SECONDS },
        });
        const { exits, seconds } = await new Promise<{ exits: number; seconds: number }>(
          (resolve, reject) => {
            worker.on("message", resolve);
            worker.on("error", reject);
            worker.on("exit", () => reject(new Error("ended without a result")));
          },
        );
        return [{ name: NAME, value: (seconds * 1e6) / exits }];
      },
      async native() {
        const { stdout } = await run(await compiled(), [DEFAULT_KVM_DEVICE, `${SECONDS}`]);
        const match = /^(\d+) exits ([\d.]+) seconds$/m.exec(stdout);
        if (match === null) throw new Error(`no result: ${stdout}`);
        return [{ name: NAME, value: (Number(match[2]) * 1e6) / Number(match[1]) }];
      },
    },
  ];
}
