/** The userlands that the tests run programs from. */
import type { Userland } from "./root-tree.js";

export const USERLANDS = {
  /** Shell tools, perl, openssl, packers. */
  tools: {
    name: "tools",
    packages: [
      "bash",
      "bc",
      "bzip2",
      "coreutils",
      "dash",
      "diffutils",
      "findutils",
      "grep",
      "gzip",
      "libc-bin",
      "mawk",
      "openssl",
      "perl",
      "sed",
      "sqlite3",
      "tar",
      "util-linux",
      "xz-utils",
      "zstd",
    ],
    without: [
      /^usr\/lib\/x86_64-linux-gnu\/gconv\//,
      /^usr\/share\/(zoneinfo|perl\/[^/]*\/(pod|unicore\/lib)|i18n)\//,
    ],
  },
  /** Programs of 32 bits, for compatibility mode and for kernels of 32 bits. */
  tools32: {
    name: "tools32",
    architecture: "i386",
    packages: [
      "bash",
      "bc",
      "busybox-static",
      "coreutils",
      "dash",
      "findutils",
      "gzip",
      "libc-bin",
      "mawk",
      "openssl",
      "perl",
      "sqlite3",
      "xz-utils",
    ],
    without: [/\/gconv\//, /^usr\/share\/(zoneinfo|perl\/[^/]*\/(pod|unicore\/lib)|i18n)\//],
  },
  /** Python and its own test suite. */
  python: {
    name: "python",
    packages: ["coreutils", "dash", "libc-bin", "libpython3.11-testsuite", "python3.11"],
    without: [
      /^usr\/lib\/x86_64-linux-gnu\/gconv\//,
      /^usr\/lib\/python3.11\/(idlelib|lib2to3|ensurepip|pydoc_data|tkinter|distutils)\//,
    ],
  },
  /** C and C++ compilers. */
  compilers: {
    name: "compilers",
    packages: ["coreutils", "dash", "g++", "gcc-multilib", "libc-bin", "libc6-dev", "make"],
    without: [
      /\/gconv\//,
      /\/lto1$/,
      /^usr\/libx?32\//,
      /^libx32\//,
      /\/(x32|32)\//,
      /\/lib[alt]san/,
      /\/libubsan/,
      /\/libasan/,
    ],
  },
} as const satisfies Record<string, Userland>;
