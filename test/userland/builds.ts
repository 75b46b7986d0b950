/** The compiled test programs, made on the host from the userland with the compilers, and kept in the cache. */
import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { cacheDirectory, makeOnce } from "../../src/boot/cache-directory.js";
import { runOnHost } from "./host-run.js";
import { JobsError, PROGRAMS } from "./job.js";
import { type RootTree, rootTree } from "./root-tree.js";
import { USERLANDS } from "./userlands.js";

const QUADMATH = "-Wl,-Bstatic -lquadmath -Wl,-Bdynamic -lm";

/** How each program is compiled: its sources, and what the compiler is told. */
export const BUILDS = {
  libm: { sources: ["libm.c", "libm-body.h"], command: `gcc -O2 libm.c ${QUADMATH}` },
  "libm-387": { sources: ["libm.c", "libm-body.h"], command: `gcc -O2 -mfpmath=387 libm.c ${QUADMATH}` },
  fenv: { sources: ["fenv.c"], command: "gcc -O2 -w -frounding-math fenv.c -lm" },
  simd: { sources: ["simd.c"], command: "gcc -O2 -msse4.2 -mpopcnt simd.c" },
  "simd-O0": { sources: ["simd.c"], command: "gcc -O0 -msse4.2 -mpopcnt simd.c" },
  integers: { sources: ["integers.c"], command: "gcc -O2 -fwrapv integers.c" },
  "integers-O0": { sources: ["integers.c"], command: "gcc -O0 -fwrapv integers.c" },
  "integers-O3": { sources: ["integers.c"], command: "gcc -O3 -fwrapv -march=x86-64-v2 integers.c" },
  system: { sources: ["system.c"], command: "gcc -O2 -w system.c" },
  objects: { sources: ["objects.cc"], command: "g++ -O2 -static-libstdc++ -static-libgcc objects.cc" },
  "libm-32": { sources: ["libm.c", "libm-body.h"], command: `gcc -m32 -O2 libm.c ${QUADMATH}` },
  "fenv-32": { sources: ["fenv.c"], command: "gcc -m32 -O2 -w -frounding-math -msse2 fenv.c -lm" },
  "simd-32": { sources: ["simd.c"], command: "gcc -m32 -O2 -msse4.2 -mpopcnt simd.c" },
  "integers-32": { sources: ["integers.c"], command: "gcc -m32 -O2 -fwrapv integers.c" },
  "system-32": { sources: ["system.c"], command: "gcc -m32 -msse2 -O2 -w system.c" },
} as const satisfies Record<string, { sources: readonly string[]; command: string }>;

export type BuildName = keyof typeof BUILDS;

/** The programs `names`. Throws `JobsError` or `BootError` where they cannot be made. */
export async function builtPrograms(names: readonly BuildName[]): Promise<Map<BuildName, Uint8Array>> {
  const sources = new Map<string, Uint8Array>();
  for (const name of await readdir(fileURLToPath(PROGRAMS))) {
    if (/\.(c|cc|h)$/.test(name)) sources.set(name, await readFile(fileURLToPath(new URL(name, PROGRAMS))));
  }
  const made = new Map<BuildName, Uint8Array>();
  for (const name of names) made.set(name, await build(name, sources));
  return made;
}

let compilers: Promise<RootTree> | undefined;

async function build(name: BuildName, sources: ReadonlyMap<string, Uint8Array>): Promise<Uint8Array> {
  const { sources: used, command } = BUILDS[name];
  const hash = createHash("sha256").update(command);
  const files: Record<string, Uint8Array> = {};
  for (const file of used) {
    files[file] = sources.get(file)!;
    hash.update(file).update(files[file]);
  }
  const target = path.join(
    cacheDirectory(),
    "userland",
    "programs",
    `${name}-${hash.digest("hex").slice(0, 8)}`,
  );
  await makeOnce(target, async (temporary) => {
    compilers ??= rootTree(USERLANDS.compilers);
    const { root } = await compilers;
    const out = `${name}.out`;
    const collect = new Map<string, Uint8Array>([[out, new Uint8Array()]]);
    const job = { name, script: `cd /nlkt && ${command} -o ${out}`, files };
    const { output, status } = (await runOnHost([job], root, { collect })).get(name)!;
    if (status !== 0) throw new JobsError(`${command}: ${output}`);
    await writeFile(path.join(temporary, name), collect.get(out)!);
  });
  return readFile(path.join(target, name));
}
