/** An x87 state as FNSAVE's 32-bit image, which the host's CPU and the software CPU's state are both turned into. */
import type { VcpuState } from "../../../src/hypervisor/soft/vcpu-state.js";
import { compileNative } from "./native.js";

/** Offsets in the image (SDM vol. 1, figures 8-9 and 8-10). */
const FCW = 0;
const FSW = 4;
const FTW = 8;
const REGISTERS = 28;
export const IMAGE_BYTES = 108;

export interface F80 {
  readonly m: bigint;
  readonly se: number;
}

export const showF80 = ({ m, se }: F80) =>
  `${se.toString(16).padStart(4, "0")}:${m.toString(16).padStart(16, "0")}`;

export interface X87 {
  fcw: number;
  /** With TOP. */
  fsw: number;
  /** A bit a physical register: not empty. */
  tags: number;
  /** ST(0)–ST(7). */
  st: F80[];
}

export const topOf = (x: X87) => (x.fsw >> 11) & 7;

export function writeImage(view: DataView, at: number, x: X87): void {
  view.setUint32(at + FCW, x.fcw, true);
  view.setUint32(at + FSW, x.fsw, true);
  let ftw = 0;
  // Not empty: "valid"; the processor finds out about zero and special itself.
  for (let i = 0; i < 8; i++) if ((x.tags & (1 << i)) === 0) ftw |= 3 << (2 * i);
  view.setUint32(at + FTW, ftw, true);
  for (const offset of [12, 16, 20, 24]) view.setUint32(at + offset, 0, true);
  x.st.forEach(({ m, se }, i) => {
    view.setBigUint64(at + REGISTERS + 10 * i, m, true);
    view.setUint16(at + REGISTERS + 10 * i + 8, se, true);
  });
}

export function readImage(view: DataView, at: number): X87 {
  const ftw = view.getUint32(at + FTW, true);
  let tags = 0;
  for (let i = 0; i < 8; i++) if (((ftw >> (2 * i)) & 3) !== 3) tags |= 1 << i;
  return {
    fcw: view.getUint16(at + FCW, true),
    fsw: view.getUint16(at + FSW, true),
    tags,
    st: Array.from({ length: 8 }, (_, i) => ({
      m: view.getBigUint64(at + REGISTERS + 10 * i, true),
      se: view.getUint16(at + REGISTERS + 10 * i + 8, true),
    })),
  };
}

/** RDI → image to load; RDI+OUT ← image after; RDI+MEMORY: the instruction's operand, as `[rdi + disp32]`. */
export const OUT = 128;
export const MEMORY = 256;
/** RAX before and after the instruction, for FNSTSW AX and LAHF. */
export const RAX = 384;
export const BLOCK_BYTES = 512;

export function x87Stub(code: readonly number[]) {
  return compileNative([
    ...[0x48, 0x8b, 0x87, RAX & 0xff, RAX >> 8, 0, 0], // mov rax, [rdi+RAX]
    ...[0xdd, 0x27], // frstor [rdi]
    ...code,
    ...[0xdd, 0xb7, OUT & 0xff, OUT >> 8, 0, 0], // fnsave [rdi+OUT]
    ...[0x48, 0x89, 0x87, RAX & 0xff, RAX >> 8, 0, 0],
    0xc3,
  ]);
}

const EXCEPTIONS = 0x3f;
const ES_AND_B = 0x8080;

/** Make the vCPU's x87 state this one. */
export function setState(state: VcpuState, x: X87): void {
  const top = topOf(x);
  state.fcw = x.fcw;
  state.fsw = x.fsw & ~(7 << 11);
  state.ftop = top;
  state.ftag = x.tags;
  state.fpuPending = (x.fsw & ~x.fcw & EXCEPTIONS) !== 0 ? 1 : 0;
  x.st.forEach(({ m, se }, i) => {
    const physical = (top + i) & 7;
    state.fpr[2 * physical] = m;
    state.fpr[2 * physical + 1] = BigInt(se);
  });
}

export function getState(state: VcpuState): X87 {
  return {
    fcw: state.fcw,
    fsw: state.fsw | (state.ftop << 11),
    tags: state.ftag,
    st: Array.from({ length: 8 }, (_, i) => {
      const physical = (state.ftop + i) & 7;
      return { m: state.fpr[2 * physical], se: Number(state.fpr[2 * physical + 1] & 0xffffn) };
    }),
  };
}

/** The state as text; `undefinedCodes`: condition code bits of the status word to leave out. Empty registers count too. */
export function show(x: X87, undefinedCodes = 0): string {
  const st = x.st.map((v, i) => `${(x.tags >> ((topOf(x) + i) & 7)) & 1 ? "" : "e"}${showF80(v)}`);
  const fsw = (x.fsw & ~undefinedCodes).toString(16).padStart(4, "0");
  return `fsw ${fsw} fcw ${x.fcw.toString(16)} tags ${x.tags.toString(2).padStart(8, "0")}\n${st.join(" ")}`;
}

/** FRSTOR recomputes ES and B. */
export function normalized(x: X87): X87 {
  const pending = (x.fsw & ~x.fcw & EXCEPTIONS) !== 0;
  return { ...x, fsw: pending ? x.fsw | ES_AND_B : x.fsw & ~ES_AND_B };
}
