/** Kernel images for the fake provider: a script (fake-provider.ts) in a flat multiboot image. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { SCRIPT_ADDRESS } from "./fake-provider.js";

export const FAKE_PROVIDER = new URL("./fake-provider.js", import.meta.url).href;

const LOAD_ADDRESS = 0x100000;
/** Multiboot Specification 0.6.96, 3.1.1: bit 16 says that the address fields are valid. */
const MULTIBOOT_MAGIC = 0x1badb002;
const MULTIBOOT_ADDRESS_FIELDS = 0x10000;

/** The bytes of an image that is loaded so that `script` starts at SCRIPT_ADDRESS. */
export function scriptImage(script: string): Uint8Array {
  const text = new TextEncoder().encode(script);
  const image = new Uint8Array(SCRIPT_ADDRESS - LOAD_ADDRESS + text.length + 1);
  const header = new DataView(image.buffer);
  const end = LOAD_ADDRESS + image.length;
  const checksum = -(MULTIBOOT_MAGIC + MULTIBOOT_ADDRESS_FIELDS);
  const fields = [
    MULTIBOOT_MAGIC,
    MULTIBOOT_ADDRESS_FIELDS,
    checksum,
    LOAD_ADDRESS,
    LOAD_ADDRESS,
    end,
    end,
    SCRIPT_ADDRESS,
  ];
  fields.forEach((value, index) => {
    header.setUint32(index * 4, value >>> 0, true);
  });
  image.set(text, SCRIPT_ADDRESS - LOAD_ADDRESS);
  return image;
}

/** A file of `scriptImage(lines)` in a directory that goes away with the process. */
export function scriptKernel(...lines: string[]): string {
  directory ??= makeDirectory();
  const file = path.join(directory, `script-${count++}`);
  writeFileSync(file, scriptImage(lines.join("\n")));
  return file;
}

let directory: string | undefined;
let count = 0;

function makeDirectory(): string {
  const made = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
  process.on("exit", () => rmSync(made, { recursive: true, force: true }));
  return made;
}

/** Script lines that power the machine off: SLP_EN with SLP_TYP 5 in PM1_CNT (ACPI 6.5, 4.8.3.2). */
export const POWER_OFF = "out 0x604 2 0x3400";
/** Script line that resets the machine: port 0xCF9, full reset. */
export const RESET = "out 0xcf9 1 0x06";
