/** What the tests run: groups of jobs, each group in one guest. */
import { type BuildName, builtPrograms } from "./builds.js";
import type { Job } from "./job.js";
import type { USERLANDS } from "./userlands.js";

export interface Group {
  readonly name: string;
  readonly userland: keyof typeof USERLANDS;
  readonly memoryMiB: number;
  /** Part of `npm test`; the others are run by `npm run test:userland`. */
  readonly quick: boolean;
  /** Programs of `programs/`: shell scripts, Perl, Python. */
  readonly scripts?: readonly string[];
  readonly builds?: readonly BuildName[];
  /** Modules of Python's own test suite. Their status says whether they are right, so the host does not run them. */
  readonly pythonTests?: readonly string[];
  /** Names of Debian's kernels for i386, where the group is to run on these. */
  readonly kernel?: string;
}

export const GROUPS: readonly Group[] = [
  {
    name: "tools",
    userland: "tools",
    memoryMiB: 512,
    quick: true,
    scripts: ["shell.sh", "storm.sh", "text.pl", "database.sh", "crypto.sh"],
    builds: ["libm", "libm-387", "fenv", "simd", "integers", "system", "objects"],
  },
  {
    name: "python",
    userland: "python",
    memoryMiB: 512,
    quick: true,
    scripts: ["values.py"],
    pythonTests: ["test_float", "test_struct"],
  },
  {
    name: "tools, longer",
    userland: "tools",
    memoryMiB: 512,
    quick: false,
    scripts: ["numbers.pl", "text.sh", "packers.sh", "speed.sh"],
    builds: ["simd-O0", "integers-O0", "integers-O3"],
  },
  {
    name: "compilers",
    userland: "compilers",
    memoryMiB: 1024,
    quick: false,
    scripts: ["compile.sh"],
  },
  {
    name: "python's tests",
    userland: "python",
    memoryMiB: 512,
    quick: false,
    pythonTests: [
      "test_math",
      "test_decimal",
      "test_zlib",
      "test_hashlib",
      "test_re",
      "test_cmath",
      "test_long",
      "test_json",
      "test_random",
    ],
  },
  {
    name: "32-bit programs",
    userland: "tools32",
    memoryMiB: 512,
    quick: true,
    scripts: ["shell.sh"],
    builds: ["libm-32", "fenv-32", "simd-32", "integers-32", "system-32"],
  },
  {
    name: "32-bit programs, longer",
    userland: "tools32",
    memoryMiB: 512,
    quick: false,
    scripts: ["numbers.pl", "text.pl", "database.sh", "crypto.sh", "storm.sh"],
  },
  {
    name: "32-bit kernel with PAE",
    userland: "tools32",
    memoryMiB: 1024,
    quick: false,
    kernel: "linux-image-686-pae",
    scripts: ["shell.sh", "storm.sh", "database.sh"],
    builds: ["libm-32", "fenv-32", "simd-32", "integers-32", "system-32"],
  },
  {
    name: "32-bit kernel without PAE",
    userland: "tools32",
    memoryMiB: 1024,
    quick: false,
    kernel: "linux-image-686",
    scripts: ["shell.sh", "storm.sh", "database.sh"],
    builds: ["libm-32", "fenv-32", "simd-32", "integers-32", "system-32"],
  },
];

/** Extra files for a script: what its name says it uses. */
const KEYS = ["rsa.pem", "ed25519.pem", "x25519.pem", "p256.pem"];
const SOURCES = ["integers.c", "objects.cc", "libm.c", "libm-body.h", "fenv.c"];
const FILES: Readonly<Record<string, readonly string[]>> = { "crypto.sh": KEYS, "compile.sh": SOURCES };

const INTERPRETERS: Readonly<Record<string, string>> = { sh: "sh", pl: "perl", py: "python3.11" };

/** The jobs of `group` whose results are compared with the host's, and those that check themselves. */
export async function groupJobs(group: Group): Promise<{ compared: Job[]; checked: Job[] }> {
  const scripts = (group.scripts ?? []).map((script): Job => {
    const interpreter = script === "shell.sh" ? "bash" : INTERPRETERS[script.split(".")[1]];
    return {
      name: script,
      script: `${interpreter} /nlkt/${script}`,
      programs: [script, ...(FILES[script] ?? [])],
    };
  });
  const programs = await builtPrograms(group.builds ?? []);
  const built = [...programs].map(
    ([name, bytes]): Job => ({ name, script: `/nlkt/${name}`, files: { [name]: bytes } }),
  );
  const checked = (group.pythonTests ?? []).map(
    (name): Job => ({ name, script: `python3.11 -m test ${name}` }),
  );
  return { compared: [...built, ...scripts], checked };
}
