/**
 * A small kernel, built from Debian's package of Linux's source with Debian's compiler, in a chroot and without root; kept in the
 * user's cache directory. `small-kernel.config` says what is in it.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFile, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { cacheDirectory, makeOnce } from "../src/boot/cache-directory.js";
import { chrootCommand } from "../test/userland/host-run.js";
import { hostTree } from "../test/userland/root-tree.js";

/** This file runs as dist/bench/small-kernel.js. */
const CONFIG = fileURLToPath(new URL("../../bench/small-kernel.config", import.meta.url));
const SOURCE = "linux-source-6.1";
const TOOLS = (
  "bash bc binutils bison coreutils dash diffutils findutils flex gcc grep gzip libc6-dev libelf-dev make mawk sed " +
  "tar xz-utils"
).split(" ");
/** Nothing of these is compiled; what configures them has to be there. */
const NOT_EXTRACTED = [
  "Documentation/*.rst",
  "Documentation/devicetree/bindings/*",
  "drivers/gpu/*.[chS]",
  "drivers/media/*.[chS]",
  "drivers/net/ethernet/*.[chS]",
  "drivers/net/wireless/*.[chS]",
  "drivers/infiniband/*.[chS]",
  "drivers/scsi/*.[chS]",
  "drivers/staging/*.[chS]",
  "sound/*.[chS]",
  "tools/testing/*",
  "tools/perf/*",
];
const OTHER_ARCHITECTURES =
  "alpha arc arm arm64 csky hexagon ia64 loongarch m68k microblaze mips nios2 openrisc parisc powerpc riscv s390 sh " +
  "sparc um xtensa";
const LARGEST_BYTES = 4 << 20;

/** In the chroot; /nlkt is a directory of the host's. */
const BUILD = `set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C KBUILD_BUILD_USER=nlkt KBUILD_BUILD_HOST=bench
export KBUILD_BUILD_TIMESTAMP=1970-01-01 KCONFIG_ALLCONFIG=/nlkt/config
cd /nlkt
tar -x --wildcards ${[
  ...NOT_EXTRACTED,
  ...OTHER_ARCHITECTURES.split(" ").flatMap((name) => [`arch/${name}/*.[chS]`, `arch/${name}/boot/*`]),
]
  .map((pattern) => `--exclude '${SOURCE}/${pattern}'`)
  .join(" ")} -f /usr/src/${SOURCE}.tar.xz
cd ${SOURCE}
make -s allnoconfig
# What an option needs may be missing: it is left out then, without a word.
grep ^CONFIG_ /nlkt/config | grep -vxFf .config >/nlkt/missing || true
[ ! -s /nlkt/missing ] || { echo "not possible together: $(echo $(cat /nlkt/missing))" >&2; exit 1; }
make -s -j$(nproc) bzImage
cp arch/x86/boot/bzImage /nlkt/bzImage
`;

/** The bzImage. Throws an `Error` where it cannot be built. */
export async function smallKernel(progress: (message: string) => void): Promise<string> {
  const config = await readFile(CONFIG, "utf8");
  const hash = createHash("sha256").update(config).update(BUILD).digest("hex").slice(0, 16);
  const directory = await makeOnce(
    path.join(cacheDirectory(), "bench", `kernel-${hash}`),
    async (temporary) => {
      const root = await hostTree({ name: "kernel-build", packages: [SOURCE, ...TOOLS] }, progress);
      // Not in `temporary`: that is kept.
      const work = await mkdtemp(path.join(path.dirname(temporary), "kernel-build.tmp-"));
      try {
        await writeFile(path.join(work, "config"), config);
        await writeFile(path.join(work, "run"), BUILD);
        progress(`building a small kernel of ${SOURCE}: once, some minutes`);
        await build(root, work);
        const { size } = await stat(path.join(work, "bzImage"));
        if (size > LARGEST_BYTES)
          throw new Error(`the small kernel has ${size} bytes, more than ${LARGEST_BYTES}`);
        await copyFile(path.join(work, "bzImage"), path.join(temporary, "bzImage"));
        await copyFile(path.join(work, SOURCE, ".config"), path.join(temporary, "config"));
      } finally {
        await rm(work, { recursive: true, force: true });
      }
    },
  );
  return path.join(directory, "bzImage");
}

async function build(root: string, work: string): Promise<void> {
  const { command, args } = chrootCommand(root, work, "/bin/sh");
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output = (output + text).slice(-2000);
    });
  }
  const status = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  if (status !== 0)
    throw new Error(`the small kernel cannot be built: ${output.trim() || `status ${status}`}`);
}
