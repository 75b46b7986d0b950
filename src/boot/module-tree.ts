/**
 * The modules of a kernel: which there are, which are built into it, and in which order they are to be loaded.
 *
 * A directory as `make modules_install` makes it. Where depmod has been there, its modules.dep says what needs what
 * (kmod, depmod.d(5), modules.dep(5)); in a package that nobody installed, the modules say it themselves.
 */
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { BootError } from "./boot-error.js";
import { MODULE_FILE, moduleInfo, unpackModule } from "./kernel-module.js";

/** A module to load. */
export interface LoadableModule {
  readonly name: string;
  /** Unpacked. */
  readonly bytes: Uint8Array;
}

/** `-` and `_` are one in the names of modules. */
function normalize(name: string): string {
  return name.replaceAll("-", "_");
}

function nameOf(file: string): string {
  return normalize(path.basename(file).replace(MODULE_FILE, ""));
}

/**
 * The modules that a soft dependency may mean: one of that name, or those of an algorithm of the kernel's crypto API: `crypto-crc32c`
 * is in crc32c_generic, and faster in crc32c-intel; `xxhash64` in xxhash_generic.
 */
function algorithmModules(name: string): string[] {
  const algorithm = name.replace(/^crypto-/, "");
  const family = algorithm.replace(/-?\d+$/, "");
  return [name, algorithm, `${algorithm}_generic`, `${family}_generic`, `${algorithm}_intel`];
}

async function lines(file: string): Promise<string[] | undefined> {
  const text = await readFile(file, "utf8").catch(() => undefined);
  return text?.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}

export class ModuleTree {
  private constructor(
    readonly directory: string,
    readonly release: string,
    /** Name → file, relative to the directory. */
    private readonly files: ReadonlyMap<string, string>,
    private readonly builtin: ReadonlySet<string>,
    /** Name → what it needs, by modules.dep. */
    private readonly dependencies: ReadonlyMap<string, readonly string[]> | undefined,
  ) {}

  /** The tree in `directory`, /lib/modules/RELEASE. Throws `BootError` where there is none. */
  static async open(directory: string, release: string): Promise<ModuleTree> {
    const builtin = await lines(path.join(directory, "modules.builtin"));
    const files = new Map<string, string>();
    let dependencies: Map<string, string[]> | undefined;
    const dep = await lines(path.join(directory, "modules.dep"));
    if (dep !== undefined && dep.length > 0) {
      dependencies = new Map();
      for (const line of dep) {
        const [file, needs = ""] = line.split(":");
        files.set(nameOf(file), file);
        dependencies.set(
          nameOf(file),
          needs
            .split(" ")
            .filter((word) => word !== "")
            .map(nameOf),
        );
      }
    } else {
      const names = await readdir(directory, { recursive: true }).catch(() => []);
      for (const file of names) if (MODULE_FILE.test(file)) files.set(nameOf(file), file);
    }
    if (builtin === undefined && files.size === 0) {
      throw new BootError(`${directory}: no kernel modules there`);
    }
    const known = new Set((builtin ?? []).map(nameOf));
    return new ModuleTree(directory, release, files, known, dependencies);
  }

  /** Whether the kernel has it without a module. */
  isBuiltin(name: string): boolean {
    return this.builtin.has(normalize(name));
  }

  has(name: string): boolean {
    return this.files.has(normalize(name));
  }

  /**
   * The modules `names` and all that they need, in an order in which each finds what it needs. What is built in is left
   * out, and what there is not. Throws `BootError` for a module that cannot be read.
   */
  async load(names: readonly string[]): Promise<LoadableModule[]> {
    const modules = new Map<string, LoadableModule>();
    const begun = new Set<string>();
    const add = async (wanted: string): Promise<void> => {
      const name = normalize(wanted);
      if (begun.has(name)) return;
      begun.add(name);
      const file = this.files.get(name);
      if (file === undefined || this.builtin.has(name)) return;
      const bytes = await this.#read(file);
      const info = moduleInfo(bytes, file);
      const depends =
        this.dependencies?.get(name)?.toReversed() ??
        (info.get("depends") ?? []).flatMap((list) => list.split(",").filter((word) => word !== ""));
      for (const other of [...this.#before(info), ...depends]) await add(other);
      modules.set(name, { name, bytes });
    };
    for (const name of names) await add(name);
    return [...modules.values()];
  }

  async #read(file: string): Promise<Uint8Array> {
    const full = path.join(this.directory, file);
    const data = await readFile(full).catch((error: Error) => {
      throw new BootError(`cannot read the kernel module ${full}: ${error.message}`);
    });
    return await unpackModule(data, full);
  }

  /**
   * Soft dependencies: what a module asks for by name while it runs, which nobody would load for it in an initramfs
   * (modprobe.d(5), softdep).
   */
  #before(info: ReadonlyMap<string, readonly string[]>): string[] {
    const names: string[] = [];
    for (const text of info.get("softdep") ?? []) {
      let before = false;
      for (const word of text.split(/\s+/)) {
        if (word.endsWith(":")) before = word === "pre:";
        else if (before) names.push(...algorithmModules(word));
      }
    }
    return names;
  }
}
