/**
 * Root file systems made of Debian packages, unpacked without root and without their maintainer scripts, as trees
 * that the host can chroot into and as initramfs images of the same files. Kept in the user's cache directory:
 *
 *   userland/SUITE/NAME-HASH/root/       the tree
 *   userland/SUITE/NAME-HASH/packages    what it is made of, a package and its version a line
 *   userland/SUITE/NAME-HASH/root.cpio   the image, plain: unpacking a compressed one is the guest's work
 */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, readlink, rm, stat, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { cacheDirectory, exists, makeOnce } from "../../src/boot/cache-directory.js";
import { CpioArchive } from "../../src/boot/cpio.js";
import {
  type Architecture,
  defaultSuite,
  extractPackage,
  type PackageRecord,
  PackageSource,
  type Progress,
} from "../../src/boot/debian-package.js";

/** What a root file system consists of. */
export interface Userland {
  readonly name: string;
  readonly architecture?: Architecture;
  /** Packages; what they depend on comes with them. */
  readonly packages: readonly string[];
  /** Files left out to keep the image small: regular expressions on paths such as `usr/lib/locale/`. */
  readonly without?: readonly RegExp[];
}

/** Where a userland is on the host. */
export interface RootTree {
  readonly root: string;
  readonly image: string;
}

/** Nothing in a guest that lives for minutes reads these, or they come with maintainer scripts, which do not run. */
const LEFT_OUT = [/^usr\/share\/(doc|man|info|locale|lintian|bug|bash-completion)\//, /^var\/lib\/dpkg\//];
const PACKAGES_LEFT_OUT = new Set([
  "debconf",
  "dpkg",
  "install-info",
  "perl-openssl-defaults",
  "media-types",
]);

/** Links that the packages' maintainer scripts would make (update-alternatives, base-files). */
const LINKS: readonly (readonly [file: string, target: string, onlyWith: string])[] = [
  ["bin/sh", "dash", "bin/dash"],
  ["usr/bin/awk", "mawk", "usr/bin/mawk"],
  ["usr/bin/cc", "gcc", "usr/bin/gcc"],
];

const DIRECTORIES = ["nlkt", "dev", "proc", "sys", "root", "tmp", "run", "etc", "var/tmp"];
const CONCURRENT_DOWNLOADS = 4;

/** Dependencies of what `names` need, with themselves. Virtual packages are passed over. */
async function closure(source: PackageSource, names: readonly string[]): Promise<PackageRecord[]> {
  const seen = new Set<string>(names);
  const records: PackageRecord[] = [];
  let wanted = [...names];
  while (wanted.length > 0) {
    const found = await Promise.all(wanted.map((name) => source.find(name)));
    const next = new Set<string>();
    for (const record of found) {
      if (record === undefined) continue;
      records.push(record);
      for (const name of record.depends) if (!seen.has(name) && !PACKAGES_LEFT_OUT.has(name)) next.add(name);
    }
    wanted = [...next];
    for (const name of wanted) seen.add(name);
  }
  for (const name of names) {
    if (!records.some((record) => record.name === name)) await source.get(name);
  }
  return records.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The tree and image of `userland`, from the cache or made. Throws `BootError` where packages cannot be fetched. */
export async function rootTree(userland: Userland, progress?: Progress): Promise<RootTree> {
  const target = await make(userland, true, progress);
  return { root: path.join(target, "root"), image: path.join(target, "root.cpio") };
}

/** As `rootTree`, the tree only. */
export async function hostTree(userland: Userland, progress?: Progress): Promise<string> {
  return path.join(await make(userland, false, progress), "root");
}

async function make(userland: Userland, withImage: boolean, progress: Progress = () => {}): Promise<string> {
  const suite = await defaultSuite();
  const { name, packages, without = [], architecture = "amd64" } = userland;
  const recipe = JSON.stringify([
    architecture,
    packages,
    [...LEFT_OUT, ...without].map(String),
    LINKS,
    DIRECTORIES,
    ...(withImage ? [] : ["no image"]),
  ]);
  const hash = createHash("sha256").update(recipe).digest("hex").slice(0, 8);
  const target = path.join(cacheDirectory(), "userland", suite, `${name}-${hash}`);
  return makeOnce(target, async (temporary) => {
    const root = path.join(temporary, "root");
    const fill = async (source: PackageSource) => {
      // A second attempt, with new package lists, starts from nothing.
      await rm(root, { recursive: true, force: true });
      await mkdir(root);
      const records = await closure(source, packages);
      await unpackAll(source, records, temporary, root);
      const lines = records.map((record) => `${record.name} ${record.version}\n`);
      await writeFile(path.join(temporary, "packages"), lines.join(""));
    };
    await PackageSource.use(suite, packages[0], progress, fill, architecture);
    await complete(root);
    if (!withImage) return;
    progress(`making the image of userland ${name}`);
    const archive = new CpioArchive();
    await addTree(archive, root, "", [...LEFT_OUT, ...without]);
    archive.device("dev/console", "character", 5, 1);
    await writeFile(path.join(temporary, "root.cpio"), archive.toBytes());
  });
}

async function unpackAll(
  source: PackageSource,
  records: readonly PackageRecord[],
  temporary: string,
  root: string,
): Promise<void> {
  const queue = [...records];
  const worker = async () => {
    for (let record = queue.shift(); record !== undefined; record = queue.shift()) {
      const deb = await source.download(record, temporary);
      await extractPackage(deb, root, ["./*"]);
      await rm(path.dirname(deb), { recursive: true });
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT_DOWNLOADS }, worker));
}

/** What maintainer scripts would have done, as far as programs need it. */
async function complete(root: string): Promise<void> {
  for (const directory of DIRECTORIES) await mkdir(path.join(root, directory), { recursive: true });
  for (const [file, to, onlyWith] of LINKS) {
    if ((await exists(path.join(root, onlyWith))) && !(await exists(path.join(root, file)))) {
      await symlink(to, path.join(root, file));
    }
  }
  await writeFile(path.join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  await writeFile(path.join(root, "etc/group"), "root:x:0:\n");
  await writeFile(path.join(root, "etc/hosts"), "127.0.0.1 localhost\n");
}

async function addTree(archive: CpioArchive, root: string, name: string, without: readonly RegExp[]) {
  const entries = await readdir(path.join(root, name), { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const inner = path.join(name, entry.name);
    const file = path.join(root, inner);
    if (without.some((pattern) => pattern.test(entry.isDirectory() ? `${inner}/` : inner))) continue;
    if (entry.isSymbolicLink()) archive.symlink(inner, await readlink(file));
    else if (entry.isDirectory()) {
      archive.directory(inner, (await stat(file)).mode & 0o7777);
      await addTree(archive, root, inner, without);
    } else if (entry.isFile()) archive.file(inner, await readFile(file), (await stat(file)).mode & 0o7777);
  }
}
