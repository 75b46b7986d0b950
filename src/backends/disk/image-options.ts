/** The `-o` options of images, by the names that qemu-img has for them. */
import { DiskError } from "./disk.js";
import type { DiskFormat } from "./open-disk.js";
import { PREALLOCATIONS, type Preallocation, type Qcow2CreateOptions } from "./qcow2/create.js";

export type ImageOptions = Omit<Qcow2CreateOptions, "size" | "backingFile" | "backingFormat">;

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
  P: 2 ** 50,
};

/** `10G`, `1.5T`, `65536`: bytes. Throws `DiskError`. */
export function parseBytes(text: string, what: string): number {
  const match = /^(\d{1,16}(?:\.\d{1,9})?)([BKMGTP]?)$/i.exec(text);
  const bytes = match === null ? Number.NaN : Math.round(Number(match[1]) * UNITS[match[2].toUpperCase()]);
  if (!Number.isSafeInteger(bytes)) {
    throw new DiskError(
      `${what} ${JSON.stringify(text)}: not a size in bytes, or with a suffix K, M, G, T or P`,
    );
  }
  return bytes;
}

function parseSwitch(text: string, what: string): boolean {
  if (text !== "on" && text !== "off") throw new DiskError(`${what}=${text}: on or off`);
  return text === "on";
}

type Parse = (value: string) => ImageOptions;

function oneOf<T extends string>(values: readonly T[], value: string, what: string): T {
  const found = values.find((candidate) => candidate === value);
  if (found === undefined) throw new DiskError(`${what}=${value}: one of ${values.join(", ")}`);
  return found;
}

const preallocation: Parse = (value) => ({
  preallocation: oneOf<Preallocation>(PREALLOCATIONS, value, "preallocation"),
});

const OPTIONS: Readonly<Record<DiskFormat, Readonly<Record<string, Parse>>>> = {
  raw: { preallocation },
  qcow2: {
    preallocation,
    compat: (value) => {
      if (!["0.10", "v2", "1.1", "v3"].includes(value)) throw new DiskError(`compat=${value}: 0.10 or 1.1`);
      return { version: value === "0.10" || value === "v2" ? 2 : 3 };
    },
    cluster_size: (value) => ({ clusterSize: parseBytes(value, "cluster_size") }),
    refcount_bits: (value) => ({ refcountBits: parseBytes(value, "refcount_bits") }),
    lazy_refcounts: (value) => ({ lazyRefcounts: parseSwitch(value, "lazy_refcounts") }),
    extended_l2: (value) => ({ extendedL2: parseSwitch(value, "extended_l2") }),
    compression_type: (value) => {
      const type = oneOf(["zlib", "deflate", "zstd"], value, "compression_type");
      return { compression: type === "zstd" ? "zstd" : "deflate" };
    },
  },
};

/** `cluster_size=4K,lazy_refcounts=on`. Throws `DiskError`. */
export function parseImageOptions(format: DiskFormat, text: string): ImageOptions {
  let options: ImageOptions = {};
  for (const item of text.split(",").filter((part) => part !== "")) {
    const [name, value] = item.split(/=(.*)/s, 2);
    const parse = Object.hasOwn(OPTIONS[format], name) ? OPTIONS[format][name] : undefined;
    if (parse === undefined) {
      const known = Object.keys(OPTIONS[format]).join(", ");
      throw new DiskError(`${format} images have no option ${JSON.stringify(name)}: there are ${known}`);
    }
    options = { ...options, ...parse(value ?? "") };
  }
  return options;
}
