/** Guest programs of test/smp/guest: C without a library, for 64-bit mode, compiled by the host's gcc. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { HEADER_BYTES, LOAD_ADDRESS, multibootKernel } from "../../machine/multiboot-kernel.js";

const SOURCES = fileURLToPath(new URL("../../../../test/smp/guest/", import.meta.url));

/** Where programs start. Their code and data go up to `RESULTS`. */
export const PROGRAM_START = 0x20_0000;

const FLAGS = [
  "-O2",
  "-Wall",
  "-Werror",
  "-std=gnu11",
  "-ffreestanding",
  "-fno-pic",
  "-fno-pie",
  "-no-pie",
  "-fno-stack-protector",
  "-fno-asynchronous-unwind-tables",
  "-fcf-protection=none",
  "-mno-red-zone",
  "-mgeneral-regs-only",
  "-mcx16",
  "-nostdlib",
  "-static",
  "-Wl,--build-id=none",
  "-Wl,-z,noexecstack",
  "-Wl,--no-warn-rwx-segments",
  "-Wl,-N",
  "-Wl,-e,_start",
];

/** Why programs cannot be built here, or undefined. */
export function noCompiler(): string | undefined {
  const found = (tool: string) => spawnSync(tool, ["--version"], { stdio: "ignore" }).status === 0;
  return found("gcc") && found("objcopy") ? undefined : "gcc and objcopy are not there";
}

export interface Program {
  readonly bytes: Uint8Array;
  readonly entry: number;
}

const built = new Map<string, Program>();
/** A near jump, with room after it. */
const JUMP_BYTES = 16;
const JMP_REL32 = 0xe9;
/** Offset of e_entry in an ELF64 header (System V ABI, 4). */
const ELF_ENTRY = 24;

/** test/smp/guest/NAME.c, for `start`. */
export function buildProgram(name: string, start = PROGRAM_START): Program {
  const known = built.get(name);
  if (known !== undefined) return known;
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-smp-"));
  try {
    const elf = path.join(directory, "guest.elf");
    const flat = path.join(directory, "guest.bin");
    execFileSync("gcc", [
      ...FLAGS,
      `-Wl,-Ttext=0x${start.toString(16)}`,
      path.join(SOURCES, `${name}.c`),
      "-o",
      elf,
    ]);
    execFileSync("objcopy", ["-O", "binary", elf, flat]);
    const entry = Number(readFileSync(elf).readBigUInt64LE(ELF_ENTRY));
    const program = { bytes: Uint8Array.from(readFileSync(flat)), entry };
    built.set(name, program);
    return program;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** test/smp/guest/NAME.c, a program with machine.h, as a multiboot kernel in `directory`. */
export function buildKernel(name: string, directory: string): string {
  const start = LOAD_ADDRESS + HEADER_BYTES + JUMP_BYTES;
  const { bytes, entry } = buildProgram(name, start);
  const jump = Buffer.alloc(JUMP_BYTES);
  jump[0] = JMP_REL32;
  jump.writeInt32LE(entry - (LOAD_ADDRESS + HEADER_BYTES + 5), 1);
  return multibootKernel(directory, [...jump, ...bytes]);
}
