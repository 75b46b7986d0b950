/**
 * Debian packages, found and fetched with the machine's own apt, without root: nothing is installed.
 *
 * Where the machine is Debian for amd64 and has the lists of the wanted suite, they are used. Otherwise apt runs
 * with lists of its own in a temporary directory (`PackageSource.open`), verified against Debian's keyring as ever.
 */
import { type ExecFileOptions, execFile, spawn } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { BootError } from "./boot-error.js";

/** Told what is going on: a sentence, and where it is known how much of how many bytes is done. */
export type Progress = (message: string, done?: number, total?: number) => void;

const run = promisify(execFile);

const DEBIAN_MIRROR = "http://deb.debian.org/debian";
const DEBIAN_SECURITY_MIRROR = "http://deb.debian.org/debian-security";
const DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";
/** The release whose packages are the default guest where the host is not Debian. */
const FALLBACK_SUITE = "bookworm";
const SUITE_NAME = /^[a-z]+(-backports)?$/;
const PACKAGE_NAME = /^[a-z0-9][a-z0-9+.-]+$/;
const PROGRESS_INTERVAL_MS = 200;
/** Of a tool's messages so much is kept. */
const MESSAGE_LIMIT = 65536;
/** apt-cache's answers are a few kB. */
const OUTPUT_LIMIT = 16 * 1024 * 1024;

/** Debian's names of what guests can run. */
export type Architecture = "amd64" | "i386";

/** A package as apt's lists describe it. */
export interface PackageRecord {
  name: string;
  version: string;
  /** Bytes of the .deb file. */
  size: number;
  /** Names of the packages that this one needs, for the unpacking too. */
  depends: string[];
}

/** The code name of the Debian release this machine runs, or undefined where it runs something else. */
async function hostSuite(): Promise<string | undefined> {
  const text = await readFile("/etc/os-release", "utf8").catch(() => "");
  const value = (key: string) => new RegExp(`^${key}="?([^"\n]*)"?$`, "m").exec(text)?.[1];
  return value("ID") === "debian" ? value("VERSION_CODENAME") : undefined;
}

/** The suite that packages come from where none is asked for: the host's, if it is Debian. */
export async function defaultSuite(): Promise<string> {
  return (await hostSuite()) ?? FALLBACK_SUITE;
}

/** Throws `BootError` for what is no name of a suite or package, and could be taken for a path or an option. */
export function checkNames(suite: string, packageName: string): void {
  if (!SUITE_NAME.test(suite)) throw new BootError(`not the name of a Debian suite: ${suite}`);
  if (!PACKAGE_NAME.test(packageName))
    throw new BootError(`not the name of a Debian package: ${packageName}`);
}

export class PackageSource {
  readonly #options: readonly string[];
  readonly #temporary: string | undefined;
  readonly #progress: Progress;

  private constructor(
    readonly suite: string,
    options: readonly string[],
    temporary: string | undefined,
    progress: Progress,
  ) {
    this.#options = options;
    this.#temporary = temporary;
    this.#progress = progress;
  }

  /**
   * Calls `action` with a source of packages of `suite` (such as `bookworm` or `bookworm-backports`) that has `wanted`:
   * with the machine's own lists, and if these are missing or so old that what they name is gone, with new ones.
   * Throws `BootError` where there is no apt, or no such suite or package.
   */
  static async use<T>(
    suite: string,
    wanted: string,
    progress: Progress,
    action: (source: PackageSource) => Promise<T>,
    architecture: Architecture = "amd64",
  ): Promise<T> {
    checkNames(suite, wanted);
    if (architecture === "amd64" && process.arch === "x64" && (await hostSuite()) === suite) {
      const own = new PackageSource(suite, [], undefined, progress);
      try {
        if ((await own.find(wanted)) !== undefined) return await action(own);
      } catch (error) {
        if (!(error instanceof ToolError)) throw error;
        progress(`${error.message}; trying again with new package lists`);
      }
    }
    const source = await PackageSource.#openPrivate(suite, architecture, progress);
    try {
      return await action(source);
    } finally {
      await source.#close();
    }
  }

  static async #openPrivate(
    suite: string,
    architecture: Architecture,
    progress: Progress,
  ): Promise<PackageSource> {
    const temporary = await mkdtemp(path.join(tmpdir(), "nlkt-apt-"));
    const options = Object.entries({
      "Dir::Etc::sourcelist": path.join(temporary, "sources.list"),
      "Dir::Etc::sourceparts": "-",
      "Dir::State::lists": path.join(temporary, "lists"),
      "Dir::State::status": path.join(temporary, "status"),
      "Dir::Cache": path.join(temporary, "cache"),
      "APT::Architecture": architecture,
      "APT::Architectures": architecture,
      "Acquire::Languages": "none",
    }).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
    const source = new PackageSource(suite, options, temporary, progress);
    try {
      await mkdir(path.join(temporary, "lists", "partial"), { recursive: true });
      await mkdir(path.join(temporary, "cache", "archives", "partial"), { recursive: true });
      await writeFile(path.join(temporary, "status"), "");
      const signed = `[arch=${architecture} signed-by=${DEBIAN_KEYRING}]`;
      const lines = [`deb ${signed} ${DEBIAN_MIRROR} ${suite} main`];
      // Guests of 32 bits are for tests, which can do without the newest packages.
      if (!suite.includes("-") && architecture === "amd64")
        lines.push(`deb ${signed} ${DEBIAN_SECURITY_MIRROR} ${suite}-security main`);
      await writeFile(path.join(temporary, "sources.list"), `${lines.join("\n")}\n`);
      progress(`fetching the package lists of Debian ${suite}`);
      await source.#apt("apt-get", ["update", "--error-on=any"]);
    } catch (error) {
      await source.#close();
      throw error;
    }
    return source;
  }

  async #close(): Promise<void> {
    if (this.#temporary !== undefined) await rm(this.#temporary, { recursive: true, force: true });
  }

  async #apt(program: string, args: readonly string[], options: ExecFileOptions = {}): Promise<string> {
    const { stdout } = await tool(program, [...this.#options, ...args], options);
    return stdout;
  }

  /** The newest version of `name`, or undefined where the lists have none to download. */
  async find(name: string): Promise<PackageRecord | undefined> {
    let text: string;
    try {
      text = await this.#apt("apt-cache", ["show", "--no-all-versions", name]);
    } catch (error) {
      if (error instanceof ToolError) return undefined;
      throw error;
    }
    const fields = new Map<string, string>();
    for (const line of text.split("\n\n", 1)[0].split("\n")) {
      const match = /^([A-Za-z0-9-]+): (.*)$/.exec(line);
      if (match !== null) fields.set(match[1], match[2]);
    }
    const version = fields.get("Version");
    // A package that is installed but in no list has no Filename and cannot be fetched.
    if (version === undefined || !fields.has("Filename")) return undefined;
    // Of alternatives the first, which is the one that Debian prefers.
    const depends = [fields.get("Pre-Depends"), fields.get("Depends")]
      .flatMap((list) => list?.split(",") ?? [])
      .map((item) => item.trim().split(/[ :|]/, 1)[0]);
    return { name, version, size: Number(fields.get("Size") ?? 0), depends };
  }

  /** As `find`, but throws `BootError` where the package is not there. */
  async get(name: string): Promise<PackageRecord> {
    const record = await this.find(name);
    if (record !== undefined) return record;
    throw new BootError(
      `Debian ${this.suite} has no package ${name}, as far as apt's lists here know (apt-get update)`,
    );
  }

  /** Fetches a package into `directory` and returns the .deb file's path. */
  async download(record: PackageRecord, directory: string): Promise<string> {
    const work = await mkdtemp(path.join(directory, "download-"));
    const label = `fetching ${record.name} ${record.version}`;
    this.#progress(label, 0, record.size);
    const timer = setInterval(async () => {
      const done = await directorySize(work).catch(() => 0);
      this.#progress(label, Math.min(done, record.size), record.size);
    }, PROGRESS_INTERVAL_MS);
    try {
      // apt's helper user cannot write into a private directory; the signature is checked all the same.
      const args = process.getuid?.() === 0 ? ["-o", "APT::Sandbox::User=root"] : [];
      await this.#apt("apt-get", [...args, "-q", "download", `${record.name}=${record.version}`], {
        cwd: work,
      });
    } finally {
      clearInterval(timer);
    }
    this.#progress(label, record.size, record.size);
    const file = (await readdir(work)).find((name) => name.endsWith(".deb"));
    if (file === undefined) throw new BootError(`apt-get download ${record.name} left no package behind`);
    return path.join(work, file);
  }
}

/** What GNU tar says where a pattern matches nothing. */
const NO_MATCH = /: Not found in archive$|: Exiting with failure status due to previous errors$/;

/**
 * Unpacks the files of the package file `deb` that match one of `patterns` (tar's wildcards, `./boot/*`) into
 * `directory`. `optional`: patterns may match nothing.
 */
export async function extractPackage(
  deb: string,
  directory: string,
  patterns: readonly string[],
  { optional = false } = {},
): Promise<void> {
  const unpack = spawn("dpkg-deb", ["--fsys-tarfile", deb], { stdio: ["ignore", "pipe", "pipe"] });
  const tar = spawn("tar", ["-x", "-C", directory, "--no-same-owner", "--wildcards", ...patterns], {
    stdio: ["pipe", "ignore", "pipe"],
    env: { ...process.env, LC_ALL: "C" },
  });
  let messages = "";
  for (const child of [unpack, tar]) {
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      messages = (messages + text).slice(0, MESSAGE_LIMIT);
    });
  }
  const ended = [unpack, tar].map(
    (child) =>
      new Promise<number | null>((resolve, reject) => {
        child.on("error", reject);
        child.on("close", resolve);
      }),
  );
  const piped = pipeline(unpack.stdout, tar.stdin).catch(() => undefined);
  const statuses = await Promise.all(ended).catch((error: Error) => {
    throw new BootError(`cannot unpack ${path.basename(deb)}: ${error.message}`);
  });
  await piped;
  const [unpacked, extracted] = statuses;
  const lines = messages.split("\n").filter((line) => line !== "");
  const complete = extracted === 0 || (optional && lines.every((line) => NO_MATCH.test(line)));
  if (unpacked !== 0 || !complete) {
    throw new BootError(`cannot unpack ${path.basename(deb)}: ${lastLine(messages)}`);
  }
}

/** A tool ran and failed. */
class ToolError extends BootError {}

async function tool(program: string, args: readonly string[], options: ExecFileOptions = {}) {
  try {
    return await run(program, [...args], {
      ...options,
      encoding: "utf8",
      maxBuffer: OUTPUT_LIMIT,
      env: { ...process.env, LC_ALL: "C.UTF-8", DEBIAN_FRONTEND: "noninteractive" },
    });
  } catch (error) {
    const { code, stderr } = error as { code?: string | number; stderr?: string };
    if (code === "ENOENT") {
      throw new BootError(
        `the default guest is fetched with ${program}, which this machine lacks: name a kernel with -k`,
      );
    }
    const verb = args.filter((word, index) => !word.startsWith("-") && args[index - 1] !== "-o");
    throw new ToolError(`${program} ${verb.join(" ")} failed: ${lastLine(stderr ?? String(error))}`);
  }
}

/** The last line of a tool's messages, its errors (`E: …`) before its warnings. */
function lastLine(text: string): string {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return (lines.findLast((line) => line.startsWith("E: ")) ?? lines.at(-1) ?? "no message").trim();
}

async function directorySize(directory: string): Promise<number> {
  const names = await readdir(directory, { recursive: true });
  const sizes = await Promise.all(names.map(async (name) => (await stat(path.join(directory, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}
