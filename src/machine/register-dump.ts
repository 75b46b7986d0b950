/**
 * What is printed when a guest crashes: registers, the bytes of code around RIP and the page-table walk that leads
 * there. Goes through the seam only, so that it reads the same on every provider.
 */
import type { DescriptorTable, Regs, Segment, Sregs, Vcpu } from "../hypervisor/seam.js";
import { type GuestMemory, gpa } from "../memory/guest-memory.js";
import { walkPageTables } from "./page-walk.js";

const GENERAL: readonly (readonly (keyof Regs)[])[] = [
  ["rax", "rbx", "rcx", "rdx"],
  ["rsi", "rdi", "rsp", "rbp"],
  ["r8", "r9", "r10", "r11"],
  ["r12", "r13", "r14", "r15"],
  ["rip", "rflags"],
];
const SEGMENTS = ["cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt"] as const;
const CONTROL = ["cr0", "cr2", "cr3", "cr4", "cr8", "efer"] as const;

const CODE_BYTES_BEFORE = 16;
const CODE_BYTES_AFTER = 32;

/** The dump, lines without a last newline. */
export function registerDump(vcpu: Vcpu, guestMemory: GuestMemory): string {
  const regs = vcpu.getRegs();
  const sregs = vcpu.getSregs();
  const pc = linearAddress(regs, sregs);
  const lines = [
    `vCPU ${vcpu.id}:`,
    ...GENERAL.map((names) =>
      names.map((name) => `${name.toUpperCase().padEnd(6)} ${hex(regs[name], 16)}`).join("  "),
    ),
    ...SEGMENTS.map((name) => segmentLine(name, sregs[name])),
    tableLine("gdt", sregs.gdt),
    tableLine("idt", sregs.idt),
    CONTROL.slice(0, 3)
      .map((name) => `${name.toUpperCase().padEnd(4)} ${hex(sregs[name], 16)}`)
      .join("  "),
    CONTROL.slice(3)
      .map((name) => `${name.toUpperCase().padEnd(4)} ${hex(sregs[name], 16)}`)
      .join("  "),
    `Code   ${codeBytes(vcpu, guestMemory, pc)}`,
    `Page tables for RIP (linear ${hex(pc, 16)}):`,
    ...walkPageTables(guestMemory, sregs, pc).map((line) => `  ${line}`),
  ];
  if (sregs.cr2 !== 0n) {
    lines.push(
      `Page tables for CR2 (linear ${hex(sregs.cr2, 16)}):`,
      ...walkPageTables(guestMemory, sregs, sregs.cr2).map((line) => `  ${line}`),
    );
  }
  return lines.join("\n");
}

/** Linear address of the instruction pointer. */
export function linearAddress(regs: Regs, sregs: Sregs): bigint {
  // In 64-bit mode the base of CS counts as 0 (SDM vol. 1, 3.3.4).
  if (sregs.cs.l === 1) return regs.rip;
  return (sregs.cs.base + regs.rip) & 0xffff_ffffn;
}

function hex(value: bigint | number, digits: number): string {
  return value.toString(16).padStart(digits, "0");
}

function segmentLine(name: string, segment: Segment): string {
  const flags = [
    `type ${hex(segment.type, 1)}`,
    `dpl ${segment.dpl}`,
    ...(["present", "s", "db", "l", "g", "avl", "unusable"] as const).filter((flag) => segment[flag] !== 0),
  ];
  const selector = hex(segment.selector, 4);
  return `${name.toUpperCase().padEnd(6)} ${selector}  base ${hex(segment.base, 16)}  limit ${hex(segment.limit, 8)}  ${flags.join(" ")}`;
}

function tableLine(name: string, table: DescriptorTable): string {
  return `${name.toUpperCase().padEnd(6)}       base ${hex(table.base, 16)}  limit ${hex(table.limit, 4)}`;
}

/** The bytes around `pc` as Linux prints them: the one at `pc` in angle brackets, `??` where nothing is mapped. */
function codeBytes(vcpu: Vcpu, guestMemory: GuestMemory, pc: bigint): string {
  const bytes: string[] = [];
  for (let at = -CODE_BYTES_BEFORE; at < CODE_BYTES_AFTER; at++) {
    const physical = vcpu.translate(BigInt.asUintN(64, pc + BigInt(at)));
    const text =
      physical !== undefined && guestMemory.contains(physical, 1)
        ? hex(guestMemory.readU8(gpa(physical)), 2)
        : "??";
    bytes.push(at === 0 ? `<${text}>` : text);
  }
  return bytes.join(" ");
}
