/**
 * Puts the compiled program into a few files: a machine has four threads and more, and each would look up, read and compile
 * some hundred modules before it does anything. `bin/nlkt.js` takes the bundle where it is not older than the compiled files.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { build as esbuild } from "esbuild";

/** As deep as the folders of dist/src, so that what is above the package's own files is found from both. */
const BUNDLE = "dist/bundle/nlkt";
/** The compiler writes it whenever it has written others. */
const COMPILED = "dist/.tsbuildinfo";
/** Written last. */
const STAMP = "stamp";

/** The program, and what its threads run. */
const ENTRIES = [
  "cli/program",
  "machine/vcpu-thread",
  "machine/timer-thread",
  "machine/disk-thread",
  "machine/io-thread",
  "hypervisor/kvm/doorbell-thread",
];

export async function bundle(root) {
  const outdir = path.join(root, BUNDLE);
  const stamp = path.join(outdir, STAMP);
  if (existsSync(stamp) && statSync(stamp).mtimeMs >= statSync(path.join(root, COMPILED)).mtimeMs) return;
  const { outputFiles } = await esbuild({
    entryPoints: ENTRIES.map((entry) => path.join(root, "dist/src", `${entry}.js`)),
    outdir,
    entryNames: "[name]",
    chunkNames: "[name]-[hash]",
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20",
    packages: "external",
    write: false,
    logLevel: "warning",
  });
  mkdirSync(outdir, { recursive: true });
  const names = new Set(outputFiles.map((file) => path.basename(file.path)));
  // A file that stays the same keeps its time: the cold tier's module is made anew for changed ones (engine-file.ts).
  for (const { path: file, contents } of outputFiles) {
    if (!existsSync(file) || !readFileSync(file).equals(contents)) writeFileSync(file, contents);
  }
  for (const name of readdirSync(outdir)) if (!names.has(name)) rmSync(path.join(outdir, name));
  writeFileSync(stamp, "");
}
