/**
 * bzImages: Linux x86 kernels with a setup header. The compressed kernel inside is unpacked here and entered directly,
 * which spares the guest the work; an image whose kernel cannot be got at this way is loaded as it is and entered at
 * its own 64-bit or 32-bit entry point.
 *
 * Document: Linux, Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header", "Details of Header Fields").
 */
import { gpa } from "../memory/guest-memory.js";
import { BootError, formatSize } from "./boot-error.js";
import { isElf, parseElf } from "./elf.js";
import { longModeEntry, protectedModeEntry } from "./entry-state.js";
import type { BootState, LoadContext } from "./kernel-image.js";
import { loadInitrd, writeBootParams, writeCommandLine } from "./linux-params.js";
import { compressionOf, UNPACKED_LIMIT, unpackPayload } from "./payload.js";
import { loadVmlinux, type SetupFacts } from "./vmlinux.js";

const SECTOR = 512;
/** Of the setup code where the header says 0. */
const DEFAULT_SETUP_SECTORS = 4;
const HEADER_MAGIC = 0x53726448;
/** cmdline_size came with 2.06 (Linux 2.6.22). */
const OLDEST_PROTOCOL = 0x0206;
const PROTOCOL_PAYLOAD = 0x0208;
const PROTOCOL_INIT_SIZE = 0x020a;
const PROTOCOL_XLOADFLAGS = 0x020c;
const LOADED_HIGH = 1 << 0;
const XLF_KERNEL_64 = 1 << 0;
const ENTRY_64_OFFSET = 0x200;
/** Where a kernel that cannot be moved is loaded. */
const DEFAULT_LOAD_ADDRESS = 0x100000;
/** The header ends at 0x26c in the newest protocol; every field used here is below. */
const HEADER_LIMIT = 0x268;

/** The setup header's fields that a loader reads. */
interface SetupHeader {
  version: number;
  /** The protected-mode code. */
  code: Uint8Array;
  payloadOffset: number;
  payloadLength: number;
  relocatable: boolean;
  kernel64: boolean;
  commandLineLimit: number;
  initrdAddressMax: number;
  preferredAddress: number;
  initSize: number;
}

/** Whether the file has Linux's setup header, whatever else may be wrong with it. */
export function isBzImage(file: Uint8Array): boolean {
  if (file.length < 0x206) return false;
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  return view.getUint32(0x202, true) === HEADER_MAGIC;
}

function parseHeader(file: Uint8Array, name: string): SetupHeader {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < HEADER_LIMIT)
    throw new BootError(`${name}: truncated kernel: the setup header is cut off`);
  const u32 = (at: number) => view.getUint32(at, true);
  const version = view.getUint16(0x206, true);
  const loadflags = file[0x211];
  if (version < OLDEST_PROTOCOL || (loadflags & LOADED_HIGH) === 0) {
    const text = `${version >> 8}.${String(version & 0xff).padStart(2, "0")}`;
    throw new BootError(
      `${name}: too old a kernel: boot protocol ${text}, at least 2.06 and a bzImage is needed`,
    );
  }
  const setupSize = ((file[0x1f1] || DEFAULT_SETUP_SECTORS) + 1) * SECTOR;
  const codeSize = u32(0x1f4) * 16;
  if (setupSize + codeSize > file.length) {
    throw new BootError(
      `${name}: truncated kernel: ${formatSize(file.length)} of ${formatSize(setupSize + codeSize)} are there`,
    );
  }
  const missing = signatureEnd(view) - file.length;
  if (missing > 0) {
    const bytes = missing === 1 ? "byte is" : `${missing} bytes are`;
    throw new BootError(`${name}: truncated kernel: its last ${bytes} missing`);
  }
  if (codeSize === 0) throw new BootError(`${name}: broken kernel: no protected-mode code`);
  const has = (protocol: number) => version >= protocol;
  const preferred = has(PROTOCOL_INIT_SIZE) ? view.getBigUint64(0x258, true) : 0n;
  return {
    version,
    code: file.subarray(setupSize, setupSize + codeSize),
    payloadOffset: has(PROTOCOL_PAYLOAD) ? u32(0x248) : 0,
    payloadLength: has(PROTOCOL_PAYLOAD) ? u32(0x24c) : 0,
    relocatable: file[0x234] !== 0,
    kernel64: has(PROTOCOL_XLOADFLAGS) && (view.getUint16(0x236, true) & XLF_KERNEL_64) !== 0,
    commandLineLimit: u32(0x238),
    initrdAddressMax: u32(0x22c),
    // An address past 4 GiB is none that a kernel can be loaded at by this protocol.
    preferredAddress: preferred < 2n ** 32n ? Number(preferred) : 0,
    initSize: has(PROTOCOL_INIT_SIZE) ? u32(0x260) : 0,
  };
}

// PE Format (Microsoft, "MS-DOS Stub", "COFF File Header", "Optional Header"): a bzImage with an EFI stub is a PE32+ file, too.
const PE_OFFSET = 0x3c;
const PE_MAGIC = 0x4550;
const PE_OPTIONAL_HEADER = 24;
const PE32_PLUS_MAGIC = 0x20b;
const PE_CERTIFICATE_TABLE = PE_OPTIONAL_HEADER + 144;

/** Where the signature ends that distributions put behind the kernel: the end of the file. 0 where there is none. */
function signatureEnd(view: DataView): number {
  const pe = view.getUint32(PE_OFFSET, true);
  if (pe + PE_CERTIFICATE_TABLE + 8 > view.byteLength || view.getUint32(pe, true) !== PE_MAGIC) return 0;
  if (view.getUint16(pe + PE_OPTIONAL_HEADER, true) !== PE32_PLUS_MAGIC) return 0;
  // The one table whose address is an offset in the file.
  const offset = view.getUint32(pe + PE_CERTIFICATE_TABLE, true);
  const size = view.getUint32(pe + PE_CERTIFICATE_TABLE + 4, true);
  return size === 0 ? 0 : offset + size;
}

/** Loads a bzImage. Throws `BootError`. */
export async function loadBzImage(context: LoadContext): Promise<BootState> {
  const { name, entry } = context;
  const header = parseHeader(context.kernel, name);
  if (entry === undefined || entry === "kernel") {
    const vmlinux = await unpackKernel(header, name);
    if (vmlinux !== undefined) {
      const facts: SetupFacts = {
        setup: context.kernel,
        commandLineLimit: header.commandLineLimit,
        initrdAddressMax: header.initrdAddressMax,
      };
      return loadVmlinux(context, parseElf(vmlinux, name), facts);
    }
    if (entry !== undefined) throw new BootError(`${name}: the kernel inside the bzImage cannot be unpacked`);
  }
  return loadWhole(context, header);
}

/** The kernel inside a bzImage, an ELF file; undefined where it cannot be got at. Throws `BootError`. */
export async function kernelInside(file: Uint8Array, name: string): Promise<Uint8Array | undefined> {
  return await unpackKernel(parseHeader(file, name), name);
}

/**
 * The ELF file inside, or undefined where the header or the payload is of no form known here: the image's own code
 * will know. A payload that is damaged is an error, because that code would only fail in the guest.
 */
async function unpackKernel(header: SetupHeader, name: string): Promise<Uint8Array | undefined> {
  const { code, payloadOffset, payloadLength } = header;
  if (payloadOffset === 0 || payloadLength === 0) return undefined;
  if (payloadOffset + payloadLength > code.length) {
    throw new BootError(`${name}: broken kernel: its payload is outside of the file`);
  }
  const payload = code.subarray(payloadOffset, payloadOffset + payloadLength);
  if (isElf(payload)) return payload;
  const compression = compressionOf(payload);
  if (compression === undefined) return undefined;
  let unpacked: Uint8Array;
  try {
    unpacked = await unpackPayload(payload, UNPACKED_LIMIT);
  } catch (error) {
    throw new BootError(`${name}: broken kernel: the ${compression} data in it: ${(error as Error).message}`);
  }
  return isElf(unpacked) ? unpacked : undefined;
}

/** Loads the protected-mode code and lets it unpack the kernel. */
function loadWhole(context: LoadContext, header: SetupHeader): BootState {
  const { memory, placement, name, entry, rsdp, e820 } = context;
  const { code } = header;
  const use64 = entry === "64-bit" || (entry === undefined && header.kernel64);
  if (use64 && !header.kernel64) throw new BootError(`${name}: this kernel has no 64-bit entry point`);

  const load =
    header.relocatable && header.preferredAddress !== 0 ? header.preferredAddress : DEFAULT_LOAD_ADDRESS;
  // From init_size on, that much is the kernel's to unpack itself into, from where it will run (boot.rst, init_size).
  const runtime = header.relocatable || header.preferredAddress === 0 ? load : header.preferredAddress;
  const end = Math.max(load + code.length, runtime + header.initSize);
  if (!placement.take(load, end - load)) {
    throw new BootError(`${name}: ${placement.whyNot(load, end - load)}`);
  }
  memory.write(gpa(load), code);

  const commandLine = writeCommandLine(memory, placement, context.commandLine, header.commandLineLimit);
  const initrd = loadInitrd(memory, placement, context.initrd, header.initrdAddressMax);
  const bootParams = BigInt(
    writeBootParams(memory, placement, {
      setup: context.kernel,
      commandLine,
      initrd,
      rsdp,
      e820,
      code32Start: load,
    }),
  );
  const rip = load + (use64 ? ENTRY_64_OFFSET : 0);
  const regs = { rip: BigInt(rip), rsi: bootParams };
  return {
    ...(use64 ? longModeEntry(memory, placement, regs) : protectedModeEntry(memory, placement, regs)),
    format: "bzImage",
    description:
      `bzImage of ${formatSize(code.length)} at 0x${load.toString(16)}, ` +
      `own ${use64 ? "64" : "32"}-bit entry 0x${rip.toString(16)}`,
  };
}
