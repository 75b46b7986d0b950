/**
 * A Linux vmlinux: an ELF file entered at its own entry point by the rules of Linux's boot protocol, as its own
 * unpacker enters it (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; arch/x86/kernel/head_64.S, head_32.S).
 */
import { BootError, formatSize } from "./boot-error.js";
import { type ElfImage, elfExtent, loadElf, physicalEntry } from "./elf.js";
import { longModeEntry, protectedModeEntry } from "./entry-state.js";
import type { BootState, LoadContext } from "./kernel-image.js";
import { LINUX_COMMAND_LINE_LIMIT, loadInitrd, writeBootParams, writeCommandLine } from "./linux-params.js";

/** What a setup header tells about the kernel, where there is one. */
export interface SetupFacts {
  /** The bzImage, for its setup header. */
  setup: Uint8Array;
  commandLineLimit: number;
  initrdAddressMax: number;
}

/** Loads an ELF kernel and writes its boot parameters. Throws `BootError`. */
export function loadVmlinux(context: LoadContext, image: ElfImage, facts?: SetupFacts): BootState {
  const { memory, placement, name } = context;
  if (image.hasInterpreter) throw new BootError(`${name}: a program, not a kernel`);
  const entry = physicalEntry(image);
  if (entry === undefined) throw new BootError(`${name}: the entry point is outside of the kernel`);
  loadElf(image, memory, placement, name);
  const commandLineLimit = facts?.commandLineLimit ?? LINUX_COMMAND_LINE_LIMIT;
  const commandLine = writeCommandLine(memory, placement, context.commandLine, commandLineLimit);
  const initrd = loadInitrd(memory, placement, context.initrd, facts?.initrdAddressMax);
  const { rsdp, e820 } = context;
  const bootParams = BigInt(
    writeBootParams(memory, placement, {
      ...(facts && { setup: facts.setup }),
      commandLine,
      initrd,
      rsdp,
      e820,
    }),
  );
  const regs = { rip: BigInt(entry), rsi: bootParams };
  const { start, end } = elfExtent(image);
  return {
    ...(image.bits === 64
      ? longModeEntry(memory, placement, regs)
      : protectedModeEntry(memory, placement, regs)),
    format: facts === undefined ? "vmlinux" : "bzImage",
    description:
      `${image.bits}-bit kernel of ${formatSize(end - start)} at 0x${start.toString(16)}, ` +
      `entry 0x${entry.toString(16)}`,
  };
}
