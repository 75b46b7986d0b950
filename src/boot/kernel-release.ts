/** Which kernel a file is: its release, as `uname -r` says it. */
import { isBzImage } from "./bzimage.js";
import { isElf } from "./elf.js";

/** Offset of kernel_version in the setup header, itself an offset from 0x200 (Linux, Documentation/arch/x86/boot.rst). */
const KERNEL_VERSION = 0x20e;
const SETUP_START = 0x200;
const MAX_RELEASE = 128;
/** What ends up in file names. */
const RELEASE = /^[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}$/;

/** Undefined where the file does not say, as kernels other than Linux. */
export function kernelRelease(file: Uint8Array): string | undefined {
  const found = isBzImage(file) ? fromHeader(file) : isElf(file) ? fromBanner(file) : undefined;
  return found !== undefined && RELEASE.test(found) ? found : undefined;
}

function fromHeader(file: Uint8Array): string | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const offset = view.getUint16(KERNEL_VERSION, true);
  if (offset === 0) return undefined;
  return firstWord(file.subarray(SETUP_START + offset));
}

const BANNER = Buffer.from("Linux version ");

function fromBanner(file: Uint8Array): string | undefined {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  const at = bytes.indexOf(BANNER);
  return at < 0 ? undefined : firstWord(file.subarray(at + BANNER.length));
}

function firstWord(bytes: Uint8Array): string | undefined {
  return /^[^\s\0]+/.exec(Buffer.from(bytes.subarray(0, MAX_RELEASE)).toString("latin1"))?.[0];
}
