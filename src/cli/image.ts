/** nlkt image create, info, convert and check: disk images. */
import { lstatSync, rmSync } from "node:fs";
import { Command, Option } from "commander";
import { convertImage } from "../backends/disk/convert.js";
import { createImage } from "../backends/disk/create-image.js";
import { checkImage, type ImageInfo, imageChain, imageInfo } from "../backends/disk/image-info.js";
import { parseBytes, parseImageOptions } from "../backends/disk/image-options.js";
import { DISK_FORMATS, type DiskFormat } from "../backends/disk/open-disk.js";
import type { CheckResult, Repair } from "../backends/disk/qcow2/check.js";
import { ExitCode } from "../machine/exit-status.js";
import { endProgress, say, showProgress } from "./messages.js";

/** `image check`: nothing but leaks. As qemu-img. */
const EXIT_LEAKS = 3;

const EXAMPLES = `
Examples:
  nlkt image create disk.qcow2 20G
  nlkt image create -b debian.qcow2 overlay.qcow2
  nlkt image info --json disk.qcow2
  nlkt image convert -c disk.qcow2 small.qcow2
  nlkt image convert -O raw disk.qcow2 disk.img
  nlkt image check --repair all disk.qcow2

nlkt image COMMAND --help has more.`;

const OPTIONS_HELP = `
Options of qcow2 images (-o NAME=VALUE,...):
  cluster_size=64K        512 bytes to 2 MiB
  compat=1.1              0.10: version 2, for programs of before 2012
  compression_type=zlib   or zstd
  extended_l2=off         on: allocate parts of clusters; with large clusters
  lazy_refcounts=off      on: mark the image so that QEMU postpones refcounts
  preallocation=off       metadata, falloc, full; the last two for raw images too
  refcount_bits=16        1 to 64`;

/** `finish` gets the exit code where it is not 0. */
export function imageCommand(finish: (code: number) => void): Command {
  const command = new Command("image").description("disk images").addHelpText("after", EXAMPLES);
  command.addCommand(createCommand());
  command.addCommand(infoCommand());
  command.addCommand(convertCommand());
  command.addCommand(checkCommand(finish));
  return command;
}

const formatOption = (flags: string, text: string) => new Option(flags, text).choices(DISK_FORMATS);

interface CreateOptions {
  format: DiskFormat;
  backing?: string;
  backingFormat?: DiskFormat;
  options?: string;
}

function createCommand(): Command {
  return new Command("create")
    .description("make an empty image, or an overlay of another")
    .usage("[options] FILE [SIZE]")
    .argument("<FILE>", "the image; a file that is there is replaced")
    .argument("[SIZE]", "of the disk: bytes, or with a suffix K, M, G, T; default: the backing file's")
    .addOption(formatOption("-f, --format <FORMAT>", "the image's format").default("qcow2"))
    .option(
      "-b, --backing <FILE>",
      "what is below: its contents show where nothing was written; relative to FILE's directory",
    )
    .addOption(formatOption("-F, --backing-format <FORMAT>", "its format; default: as its first bytes say"))
    .option("-o, --options <LIST>", "NAME=VALUE,...: see below")
    .addHelpText(
      "after",
      `${OPTIONS_HELP}

Examples:
  nlkt image create disk.qcow2 20G
  nlkt image create -f raw disk.img 500M
  nlkt image create -b debian.qcow2 overlay.qcow2
  nlkt image create -o cluster_size=2M,preallocation=metadata fast.qcow2 100G`,
    )
    .action(async (file: string, size: string | undefined, options: CreateOptions, self: Command) => {
      if (size === undefined && options.backing === undefined) self.error("error: no SIZE");
      await createImage({
        ...parseImageOptions(options.format, options.options ?? ""),
        file,
        format: options.format,
        size: size === undefined ? undefined : parseBytes(size, "size"),
        backing: options.backing,
        backingFormat: options.backingFormat,
      });
    });
}

function infoCommand(): Command {
  return new Command("info")
    .description("what an image is: format, sizes, backing files, snapshots")
    .argument("<FILE>", "the image; it may be in use")
    .addOption(formatOption("-f, --format <FORMAT>", "the image's format; default: as its first bytes say"))
    .option("--backing-chain", "the backing files too")
    .option("--json", "as JSON, in the words of qemu-img info --output=json")
    .addHelpText(
      "after",
      `
Examples:
  nlkt image info disk.qcow2
  nlkt image info --json --backing-chain overlay.qcow2`,
    )
    .action((file: string, options: { format?: DiskFormat; backingChain?: boolean; json?: boolean }) => {
      const images = options.backingChain
        ? imageChain(file, options.format)
        : [imageInfo(file, options.format)];
      if (options.json) {
        print(JSON.stringify(options.backingChain ? images : images[0], null, 2));
      } else {
        print(images.map(describe).join("\n\n"));
      }
    });
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

function size(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number(value.toPrecision(value >= 1000 ? 4 : 3))} ${UNITS[unit]}`;
}

/** Names in images are anybody's: what a terminal would obey is not shown as it is. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about.
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

function describe(info: ImageInfo): string {
  const lines: (readonly [string, string])[] = [
    ["image", info.filename],
    ["format", info.format],
    ["disk size", `${size(info["virtual-size"])} (${info["virtual-size"]} bytes)`],
    ["space taken", size(info["actual-size"])],
  ];
  const qcow2 = info["format-specific"]?.data;
  if (info["cluster-size"] !== undefined) lines.push(["cluster size", size(info["cluster-size"])]);
  const backing = info["backing-filename"];
  if (backing !== undefined) {
    const full = info["full-backing-filename"];
    lines.push(["backing file", full === backing || full === undefined ? backing : `${backing} (${full})`]);
    if (info["backing-filename-format"] !== undefined) {
      lines.push(["backing format", info["backing-filename-format"]]);
    }
  }
  if (qcow2 !== undefined) {
    lines.push(["version", qcow2.compat === "0.10" ? "2" : "3"]);
    lines.push(["compression", qcow2["compression-type"]]);
    lines.push(["refcount bits", String(qcow2["refcount-bits"])]);
    if (qcow2["lazy-refcounts"]) lines.push(["lazy refcounts", "yes"]);
    if (qcow2["extended-l2"]) lines.push(["extended L2", "yes"]);
    if (info["dirty-flag"])
      lines.push(["dirty", "yes: refcounts are repaired when it is opened for writing"]);
    if (qcow2.corrupt) lines.push(["corrupt", "yes"]);
  }
  const text = lines.map(([name, value]) => `${`${name}:`.padEnd(16)}${printable(value)}`);
  if (info.snapshots !== undefined) {
    text.push("snapshots:");
    for (const snapshot of info.snapshots) {
      const date = new Date(snapshot["date-sec"] * 1000).toISOString().replace(/\.\d+Z$/, "Z");
      const state =
        snapshot["vm-state-size"] > 0 ? `, ${size(snapshot["vm-state-size"])} of machine state` : "";
      text.push(printable(`  ${snapshot.id.padEnd(4)} ${snapshot.name.padEnd(24)} ${date}${state}`));
    }
  }
  return text.join("\n");
}

interface ConvertOptions {
  format?: DiskFormat;
  outputFormat: DiskFormat;
  compress?: boolean;
  snapshot?: string;
  backing?: string;
  backingFormat?: DiskFormat;
  options?: string;
}

function convertCommand(): Command {
  return new Command("convert")
    .description("copy an image into a new one of any format, without what is empty")
    .argument("<SOURCE>", "the image to copy")
    .argument("<TARGET>", "the new image; a file that is there is replaced")
    .addOption(formatOption("-f, --format <FORMAT>", "SOURCE's format; default: as its first bytes say"))
    .addOption(formatOption("-O, --output-format <FORMAT>", "TARGET's format").default("qcow2"))
    .option("-c, --compress", "compress the clusters (qcow2)")
    .option("-s, --snapshot <NAME>", "copy this internal snapshot of SOURCE (id or name)")
    .option("-b, --backing <FILE>", "make TARGET an overlay of FILE, with what is different only")
    .addOption(formatOption("-F, --backing-format <FORMAT>", "its format; default: as its first bytes say"))
    .option("-o, --options <LIST>", "NAME=VALUE,...: see below")
    .addHelpText(
      "after",
      `${OPTIONS_HELP}

Examples:
  nlkt image convert -O raw disk.qcow2 disk.img
  nlkt image convert -c -o compression_type=zstd disk.qcow2 small.qcow2
  nlkt image convert -s before-upgrade disk.qcow2 old.qcow2`,
    )
    .action(async (source: string, target: string, options: ConvertOptions) => {
      const interrupted = () => {
        endProgress();
        // What is there is not complete. A device stays.
        if (lstatSync(target, { throwIfNoEntry: false })?.isFile()) rmSync(target);
        say("error", `interrupted: ${target} is removed`);
        process.exit(128 + 2);
      };
      process.once("SIGINT", interrupted);
      const report = process.stderr.isTTY
        ? (done: number, total: number) => showProgress(`copying ${source}`, done, total)
        : undefined;
      try {
        await convertImage({
          source,
          sourceFormat: options.format,
          snapshot: options.snapshot,
          target,
          format: options.outputFormat,
          compressed: options.compress === true,
          backing: options.backing,
          backingFormat: options.backingFormat,
          options: parseImageOptions(options.outputFormat, options.options ?? ""),
          ...(report === undefined ? {} : { progress: report }),
        });
      } finally {
        process.off("SIGINT", interrupted);
        endProgress();
      }
    });
}

function checkCommand(finish: (code: number) => void): Command {
  return new Command("check")
    .description("check the tables of a qcow2 image, and repair them")
    .argument("<FILE>", "the image; not in use")
    .addOption(formatOption("-f, --format <FORMAT>", "the image's format; default: as its first bytes say"))
    .addOption(
      new Option(
        "-r, --repair <WHAT>",
        "leaks: give space back that nothing uses; all: refcounts and flags too",
      ).choices(["leaks", "all"]),
    )
    .option("--json", "as JSON, in the words of qemu-img check --output=json")
    .addHelpText(
      "after",
      `
Exit codes: 0 nothing is wrong, or all of it was repaired; 3 only leaks (space is wasted, data is safe);
1 errors, or the image cannot be checked.

Examples:
  nlkt image check disk.qcow2
  nlkt image check --repair leaks disk.qcow2`,
    )
    .action((file: string, options: { format?: DiskFormat; repair?: Repair; json?: boolean }) => {
      const result = checkImage(file, options.repair ?? "none", options.format);
      const errors = result.corruptions - result.corruptionsFixed;
      const leaks = result.leaks - result.leaksFixed;
      if (options.json) print(JSON.stringify(checkReport(file, result), null, 2));
      else printCheck(result);
      finish(errors > 0 ? ExitCode.FAILED : leaks > 0 ? EXIT_LEAKS : ExitCode.OK);
    });
}

function checkReport(file: string, result: CheckResult) {
  return {
    filename: file,
    format: "qcow2",
    "check-errors": 0,
    corruptions: result.corruptions - result.corruptionsFixed,
    "corruptions-fixed": result.corruptionsFixed,
    leaks: result.leaks - result.leaksFixed,
    "leaks-fixed": result.leaksFixed,
    "total-clusters": result.totalClusters,
    "allocated-clusters": result.allocatedClusters,
    "compressed-clusters": result.compressedClusters,
    "fragmented-clusters": result.fragmentedClusters,
    "image-end-offset": result.imageEnd,
  };
}

function printCheck(result: CheckResult): void {
  for (const message of result.messages) print(message);
  const more = result.corruptions + result.leaks - result.messages.length;
  if (more > 0) print(`… and ${more} more`);
  const count = (number: number, what: string) => `${number} ${what}${number === 1 ? "" : "s"}`;
  if (result.corruptionsFixed + result.leaksFixed > 0) {
    print(`repaired: ${count(result.corruptionsFixed, "error")}, ${count(result.leaksFixed, "leak")}`);
  }
  const errors = result.corruptions - result.corruptionsFixed;
  const leaks = result.leaks - result.leaksFixed;
  print(
    errors + leaks === 0
      ? "no errors"
      : `${count(errors, "error")}, ${count(leaks, "leaked cluster")}${errors === 0 ? ": wasted space, no harm to data" : ""}`,
  );
  const { totalClusters, allocatedClusters, compressedClusters } = result;
  print(`${allocatedClusters} of ${totalClusters} clusters allocated, ${compressedClusters} compressed`);
}
