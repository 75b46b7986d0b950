/** Starting further processors from a 32-bit kernel: INIT and SIPI in x2APIC mode (SDM vol. 3A, 9.4, 11.12). */
import { Asm } from "../guests/support/asm.js";

const Msr = { APIC_BASE: 0x1b, X2APIC_EOI: 0x80b, X2APIC_SVR: 0x80f, X2APIC_ICR: 0x830 } as const;
/** IA32_APIC_BASE: APIC on, x2APIC mode. */
const X2APIC = 0xc00;
/** Spurious-interrupt vector register: APIC on, vector 0xFF. */
const SVR = 0x1ff;
/** Interrupt command: to all but self, level assert; INIT, start-up at page 8, or a vector. */
const Icr = { INIT: 0xc4500, STARTUP: 0xc4608, FIXED: 0xc4000 } as const;
const VECTOR = 0x40;

/** Where the processors meet: words in low memory. */
export const Word = {
  /** Processors other than the first that are done counting and wait for the interrupt. */
  READY: 0x7000,
  /** A bit for the APIC ID of each of them. */
  IDS: 0x7004,
  /** What all of them count up together. */
  COUNT: 0x7008,
  /** Interrupts that they took. */
  INTERRUPTS: 0x700c,
} as const;
const TRAMPOLINE = 0x8000;
export const ROUNDS = 2000;

function x2apic(code: Asm): Asm {
  code.rdmsr(Msr.APIC_BASE);
  // or eax, X2APIC
  code.hex(code.bits === 16 ? "66 0d" : "0d").value(X2APIC, 4);
  return code.hex("0f30").wrmsr(Msr.X2APIC_SVR, SVR);
}

/** Real mode, at TRAMPOLINE: what the further processors run. */
function trampoline(): { bytes: Uint8Array; handler: number } {
  const code = new Asm(16, 0);
  code.hex("fa");
  x2apic(code);
  // mov eax, 1; cpuid; shr ebx, 24; lock bts [IDS], ebx
  code.mov32("ax", 1).hex("0fa2 66c1eb18 66f00fab1e").value(Word.IDS, 2);
  // mov cx, ROUNDS; lock inc dword [COUNT]; loop
  code.mov("cx", ROUNDS).hex("66f0ff06").value(Word.COUNT, 2).hex("e2f8");
  // mov ax, bx; shl ax, 8; mov sp, 0x6000; sub sp, ax: a stack for each
  code.hex("89d8 c1e008 bc0060 29c4");
  // lock inc dword [READY]; sti; hlt; jmp to the hlt
  code.hex("66f0ff06").value(Word.READY, 2).hex("fb f4 ebfd");
  code.label("handler");
  code.hex("66f0ff06").value(Word.INTERRUPTS, 2);
  code.wrmsr(Msr.X2APIC_EOI, 0).hex("cf");
  return { bytes: code.bytes(), handler: code.at("handler") };
}

/**
 * Start all further processors, count with them, and wait until `others` of them are ready. Then interrupt them all and wait
 * until each took it. AL: 0 where the count is right, else 0x7F.
 */
export function meet(code: Asm, others: number): Asm {
  const { bytes, handler } = trampoline();
  code.jmp("begin");
  code.label("trampoline").db(...bytes);
  code.label("begin").hex("fc");
  // mov esi, trampoline; mov edi, TRAMPOLINE; mov ecx, length; rep movsb
  code.movLabel("si", "trampoline").mov("di", TRAMPOLINE).mov("cx", bytes.length).hex("f3a4");
  // The real-mode vector: CS TRAMPOLINE >> 4.
  code.store32(4 * VECTOR, ((TRAMPOLINE >> 4) << 16) | handler);
  for (const word of Object.values(Word)) code.store32(word, 0);
  x2apic(code);
  for (const command of [Icr.INIT, Icr.STARTUP, Icr.STARTUP]) code.wrmsr(Msr.X2APIC_ICR, command);
  // mov ecx, ROUNDS; lock inc dword [COUNT]; loop
  code.mov("cx", ROUNDS).hex("f0ff05").value(Word.COUNT, 4).hex("e2f7");
  waitFor(code, "ready", Word.READY, others);
  code.wrmsr(Msr.X2APIC_ICR, Icr.FIXED | VECTOR);
  waitFor(code, "interrupted", Word.INTERRUPTS, others);
  // cmp dword [COUNT], …; mov eax, 0x7f; jne; xor eax, eax
  code
    .hex("813d")
    .value(Word.COUNT, 4)
    .value((others + 1) * ROUNDS, 4);
  return code.mov("ax", 0x7f).jcc("nz", "met").hex("31c0").label("met");
}

/** Until [`word`] is `value`. */
function waitFor(code: Asm, label: string, word: number, value: number): void {
  // pause; cmp dword [word], value
  code.label(label).hex("f390 813d").value(word, 4).value(value, 4).jcc("nz", label);
}
