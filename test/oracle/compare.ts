/** Compares how two processors ended the same case, and tells about it legibly. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BREAKPOINT, type CpuCase, DATA_BASE, Fx, LOW_BASE, type Outcome, TIMED_OUT } from "./cpu-case.js";
import { CONDITION_CODES, type Undefined } from "./undefined.js";

const GPR_NAMES = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");
const SEGMENT_NAMES = ["es", "cs", "ss", "ds"] as const;
const PF = 14;
/** Page present (SDM vol. 3A, 4.7). */
const PF_PRESENT = 1;
/** Where the kernel half of the address space starts. */
const KERNEL_HALF = 1n << 63n;

export interface Difference {
  readonly what: string;
  readonly native: string;
  readonly soft: string;
}

const hex = (value: number | bigint, digits = 1) => `0x${value.toString(16).padStart(digits, "0")}`;

const FLAG_NAMES: readonly (readonly [number, string])[] = [
  [0x001, "CF"],
  [0x004, "PF"],
  [0x010, "AF"],
  [0x040, "ZF"],
  [0x080, "SF"],
  [0x100, "TF"],
  [0x200, "IF"],
  [0x400, "DF"],
  [0x800, "OF"],
  [0x4000, "NT"],
  [0x10000, "RF"],
  [0x40000, "AC"],
  [0x200000, "ID"],
];

export function flagNames(flags: number): string {
  return FLAG_NAMES.filter(([bit]) => (flags & bit) !== 0)
    .map(([, name]) => name)
    .join(" ");
}

export function vectorName(vector: number): string {
  if (vector === BREAKPOINT) return "end";
  if (vector === TIMED_OUT) return "time-out";
  const names: Record<number, string> = {
    0: "#DE",
    1: "#DB",
    4: "#OF",
    5: "#BR",
    6: "#UD",
    7: "#NM",
    11: "#NP",
    12: "#SS",
    13: "#GP",
    14: "#PF",
    16: "#MF",
    17: "#AC",
    19: "#XM",
  };
  return names[vector] ?? `vector ${vector}`;
}

export function differences(test: CpuCase, native: Outcome, soft: Outcome, masked: Undefined): Difference[] {
  const list: Difference[] = [];
  const add = (what: string, a: string, b: string) => {
    if (a !== b) list.push({ what, native: a, soft: b });
  };
  add("ended with", vectorName(native.vector), vectorName(soft.vector));
  if (masked.everything) return list;
  if (native.vector === soft.vector) {
    // Linux reports every fault in its own half as "present" (arch/x86/mm/fault.c, sanitize_error_code).
    const vague = masked.faultAddress || native.cr2 >= KERNEL_HALF;
    const hidden = native.vector === PF && vague ? PF_PRESENT : 0;
    add("error code", hex(native.errorCode | hidden), hex(soft.errorCode | hidden));
    if (!masked.faultAddress) add("CR2", hex(native.cr2), hex(soft.cr2));
  }
  add("rip", hex(native.rip), hex(soft.rip));
  const registers = test.bitness === 64 ? 16 : 8;
  for (let i = 0; i < registers; i++) {
    if (native.gpr[i] === soft.gpr[i]) continue;
    const care = ~(masked.gpr.get(i) ?? 0n);
    if ((native.gpr[i] & care) !== (soft.gpr[i] & care)) {
      add(GPR_NAMES[i], hex(native.gpr[i], 16), hex(soft.gpr[i], 16));
    }
  }
  const care = ~masked.flags;
  if (((native.rflags ^ soft.rflags) & care) !== 0) {
    add("flags", flagNames(native.rflags & care), flagNames(soft.rflags & care));
  }
  SEGMENT_NAMES.forEach((name, i) => {
    add(name, hex(seen(native.selectors[i])), hex(seen(soft.selectors[i])));
  });
  if (test.fx !== undefined) compareFx(native.fx, soft.fx, masked, add);
  const holes = masked.memory.map(
    ([offset, length]) => [Number(test.operand ?? 0n) + offset, length] as const,
  );
  if (masked.belowStack > 0) holes.push([Number(test.gpr[4]) - masked.belowStack, masked.belowStack]);
  compareData(DATA_BASE, native.data, soft.data, holes, add);
  if (test.usesLow) compareData(LOW_BASE, native.low, soft.low, holes, add);
  return list;
}

/** A null selector in its four forms: on its way back to a program the kernel's IRET makes it 0. */
const seen = (selector: number) => (selector <= 3 ? 0 : selector);

const word = (bytes: Uint8Array, at: number) => bytes[at] | (bytes[at + 1] << 8);
const bytesText = (bytes: Uint8Array) => Buffer.from(bytes.slice().reverse()).toString("hex");

/** FOP, FIP and FDP are not compared: AMD's processors save them only with an exception pending (APM vol. 2, 11.4.4). */
function compareFx(
  native: Uint8Array,
  soft: Uint8Array,
  masked: Undefined,
  add: (what: string, a: string, b: string) => void,
): void {
  add("FCW", hex(word(native, Fx.FCW)), hex(word(soft, Fx.FCW)));
  const fswCare = ~(masked.fsw & CONDITION_CODES);
  if (masked.x87) native = withX87Of(native, soft);
  add("FSW", hex(word(native, Fx.FSW) & fswCare & 0xffff), hex(word(soft, Fx.FSW) & fswCare & 0xffff));
  add("FTW", hex(native[Fx.FTW]), hex(soft[Fx.FTW]));
  add("MXCSR", hex(word(native, Fx.MXCSR)), hex(word(soft, Fx.MXCSR)));
  for (let i = 0; i < 8; i++) {
    const at = Fx.ST + 16 * i;
    const a = native.subarray(at, at + 10);
    const b = soft.subarray(at, at + 10);
    if (masked.tolerance === "ulp80" && near80(a, b)) continue;
    add(`st${i}`, bytesText(a), bytesText(b));
  }
  for (let i = 0; i < 16; i++) {
    const at = Fx.XMM + 16 * i;
    const a = native.subarray(at, at + 16);
    const b = soft.subarray(at, at + 16);
    if (masked.tolerance === "approximate" && nearSingles(a, b)) continue;
    add(`xmm${i}`, bytesText(a), bytesText(b));
  }
}

/** An image with the registers, tags and status word of another. */
function withX87Of(fx: Uint8Array, other: Uint8Array): Uint8Array {
  const copy = fx.slice();
  copy.set(other.subarray(Fx.FSW, Fx.FOP), Fx.FSW);
  copy.set(other.subarray(Fx.ST, Fx.XMM), Fx.ST);
  return copy;
}

/** Two units in the last place: each processor may be off by one. */
function near80(a: Uint8Array, b: Uint8Array): boolean {
  const value = (bytes: Uint8Array) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, 10);
    const exponent = view.getUint16(8, true);
    return (BigInt(exponent & 0x7fff) << 63n) + (view.getBigUint64(0, true) & ((1n << 63n) - 1n));
  };
  if ((a[9] ^ b[9]) & 0x80) return false;
  const distance = value(a) - value(b);
  return distance >= -2n && distance <= 2n;
}

const RCP_ERROR = 2 * 1.5 * 2 ** -12;

function nearSingles(a: Uint8Array, b: Uint8Array): boolean {
  const first = new Float32Array(a.slice().buffer);
  const second = new Float32Array(b.slice().buffer);
  return first.every((x, i) => {
    const y = second[i];
    return Object.is(x, y) || Math.abs(x - y) <= RCP_ERROR * Math.abs(x);
  });
}

function compareData(
  base: number,
  native: Uint8Array,
  soft: Uint8Array,
  holes: readonly (readonly [number, number])[],
  add: (what: string, a: string, b: string) => void,
): void {
  if (Buffer.compare(native, soft) === 0) return;
  if (holes.length > 0) {
    soft = soft.slice();
    for (const [address, length] of holes) {
      const from = Math.max(0, address - base);
      const to = Math.max(0, address - base + length);
      soft.set(native.subarray(from, to), from);
    }
    if (Buffer.compare(native, soft) === 0) return;
  }
  let first = 0;
  while (native[first] === soft[first]) first++;
  let last = native.length - 1;
  while (native[last] === soft[last]) last--;
  const end = Math.min(last + 1, first + 32);
  const text = (bytes: Uint8Array) => Buffer.from(bytes.subarray(first, end)).toString("hex");
  add(`memory at ${hex(base + first)}`, text(native), text(soft));
}

/** Disassembly through binutils' objdump, or undefined where the machine has none. */
export function disassemble(test: CpuCase): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), "nlkt-oracle-"));
  try {
    const file = join(folder, "code");
    writeFileSync(file, test.code);
    const machine = { 64: "i386:x86-64", 32: "i386", 16: "i8086" }[test.bitness];
    const text = execFileSync(
      "objdump",
      ["-D", "-b", "binary", "-m", machine, "-M", "intel", `--adjust-vma=${test.entry}`, file],
      { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] },
    );
    const lines = text.split("\n").filter((line) => /^\s*[0-9a-f]+:\t/.test(line));
    return lines.map((line) => `    ${line.trim()}`).join("\n");
  } catch {
    return undefined;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Everything one needs to see what went wrong. */
export function report(test: CpuCase, list: readonly Difference[]): string {
  const lines = [test.title];
  const code = Buffer.from(test.code)
    .toString("hex")
    .replace(/(..)(?=.)/g, "$1 ");
  lines.push(`  code at ${hex(test.entry)}: ${code}`);
  const disassembly = disassemble(test);
  if (disassembly !== undefined) lines.push(disassembly);
  const registers = test.bitness === 64 ? 16 : 8;
  lines.push("  before:");
  for (let i = 0; i < registers; i += 4) {
    const names = GPR_NAMES.slice(i, i + 4);
    lines.push(`    ${names.map((n, j) => `${n}=${hex(test.gpr[i + j], 16)}`).join(" ")}`);
  }
  lines.push(`    flags ${flagNames(test.rflags)}`);
  for (const { address, bytes } of test.patches) {
    const shown = Buffer.from(bytes.subarray(0, 32)).toString("hex");
    lines.push(`    memory ${hex(address)}: ${shown}${bytes.length > 32 ? "…" : ""}`);
  }
  if (test.fx !== undefined) lines.push(...fxText(test.fx));
  const wide = list.some((d) => d.native.length + d.soft.length > 60);
  lines.push("  differences (host's CPU, ours):");
  for (const { what, native, soft } of list) {
    if (wide) lines.push(`    ${what}:`, `      ${native}`, `      ${soft}`);
    else lines.push(`    ${what}: ${native || "none"}, ${soft || "none"}`);
  }
  return lines.join("\n");
}

function fxText(fx: Uint8Array): string[] {
  const lines = [
    `    fcw ${hex(word(fx, Fx.FCW))} fsw ${hex(word(fx, Fx.FSW))} ftw ${hex(fx[Fx.FTW])} mxcsr ${hex(word(fx, Fx.MXCSR))}`,
  ];
  for (let i = 0; i < 8; i += 4) {
    const parts = [];
    for (let j = i; j < i + 4; j++) {
      const at = Fx.ST + 16 * j;
      parts.push(`st${j}=${bytesText(fx.subarray(at, at + 10))}`);
    }
    lines.push(`    ${parts.join(" ")}`);
  }
  for (let i = 0; i < 16; i += 2) {
    const parts = [];
    for (let j = i; j < i + 2; j++) {
      const at = Fx.XMM + 16 * j;
      parts.push(`xmm${j}=${bytesText(fx.subarray(at, at + 16))}`);
    }
    lines.push(`    ${parts.join(" ")}`);
  }
  return lines;
}
