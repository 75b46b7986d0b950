/** Small kernels for machines on KVM, and NLKT started as a user starts it. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { hardwareVirtualization } from "../../src/hypervisor/kvm/host-cpu.js";
import { type Result, runGuest } from "../guest/guests.js";
import { Asm } from "../guests/support/asm.js";
import { noKvm } from "../hypervisor/kvm/support/kvm-machine.js";

export { noKvm };

/** `npm run lab -- --short`: one case of each kind. */
export const short = process.env.NLKT_LAB_SHORT === "1";
/** For `skip` of the others. */
export const notShort: string | false = short ? "the lab runs it without --short" : false;

/** Why Linux cannot be booted on this host's KVM, or false. */
export const noHardware: string | false =
  noKvm !== false
    ? noKvm
    : hardwareVirtualization() === undefined
      ? "the CPU has no hardware virtualization: `npm run lab` runs this where there is"
      : false;

/** Multiboot Specification 0.6.96, 3.1.1: bit 16 says that the address fields are valid. */
const MAGIC = 0x1badb002;
const ADDRESS_FIELDS = 0x10000;
const LOAD_ADDRESS = 0x100000;
const HEADER_BYTES = 32;
/** Port of `--isa-debug-exit`. */
const DEBUG_EXIT = 0xf4;

let directory: string | undefined;
let count = 0;

/** A file for this process's tests. */
export function temporaryFile(name: string): string {
  if (directory === undefined) {
    const made = mkdtempSync(path.join(tmpdir(), "nlkt-lab-test-"));
    process.on("exit", () => rmSync(made, { recursive: true, force: true }));
    directory = made;
  }
  return path.join(directory, `${count++}-${name}`);
}

/** A multiboot image of what `write` writes: 32-bit protected mode, flat segments, interrupts off, ESP undefined. */
export function kernel(write: (code: Asm) => void): string {
  const code = new Asm(32, LOAD_ADDRESS + HEADER_BYTES);
  write(code);
  const bytes = code.bytes();
  const end = LOAD_ADDRESS + HEADER_BYTES + bytes.length;
  const image = Buffer.alloc(HEADER_BYTES + bytes.length);
  const fields = [
    ...[MAGIC, ADDRESS_FIELDS, -(MAGIC + ADDRESS_FIELDS)],
    ...[LOAD_ADDRESS, LOAD_ADDRESS, end, end, LOAD_ADDRESS + HEADER_BYTES],
  ];
  fields.forEach((field, index) => {
    image.writeUInt32LE(field >>> 0, 4 * index);
  });
  image.set(bytes, HEADER_BYTES);
  const file = temporaryFile("kernel");
  writeFileSync(file, image);
  return file;
}

/** End the machine with status (AL << 1) | 1. */
export function exit(code: Asm): Asm {
  return code.out(DEBUG_EXIT).hex("fa f4 ebfd");
}

/** End the machine with status (`value` << 1) | 1. */
export function exitWith(code: Asm, value: number): Asm {
  return exit(code.mov("ax", value));
}

/** Run `file` on KVM. */
export function run(file: string, ...args: string[]): Promise<Result> {
  return runGuest(["--accel", "kvm", "--nodefaults", "--isa-debug-exit", "-m", "16", "-k", file, ...args]);
}
