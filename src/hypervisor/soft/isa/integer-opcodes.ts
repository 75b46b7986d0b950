/** Opcode table of the general-purpose instructions (SDM vol. 1, 7.3), in the form of opcode-table. */
import { Seg } from "../vcpu-state.js";
import * as a from "./arithmetic.js";
import type { Definition } from "./context.js";
import * as c from "./control.js";
import { type OpcodeOptions, type OpcodeRow, op } from "./opcode-table.js";
import * as s from "./shift.js";
import * as str from "./string.js";
import * as t from "./transfer.js";

const hex = (value: number) => value.toString(16).toUpperCase().padStart(2, "0");
const CONDITIONS = ["O", "NO", "B", "AE", "E", "NE", "BE", "A", "S", "NS", "P", "NP", "L", "GE", "LE", "G"];

const LOCK: OpcodeOptions = { lock: true };
const LEGACY: OpcodeOptions = { only: "legacy" };
/** Pushes, pops and near branches: 64-bit operands in 64-bit mode. */
const STACK: OpcodeOptions = { operand64: "default", modal: true };
const BRANCH: OpcodeOptions = { operand64: "force", modal: true };

/** The eight instructions of one-byte opcodes 00–3F and of group 1: the same six forms each. */
const GROUP1: readonly [string, Definition][] = [
  ["ADD", a.add],
  ["OR", a.or],
  ["ADC", a.adc],
  ["SBB", a.sbb],
  ["AND", a.and],
  ["SUB", a.sub],
  ["XOR", a.xor],
  ["CMP", a.cmp],
];
const group1 = GROUP1.flatMap(([name, definition], i) => {
  const options = name === "CMP" ? {} : LOCK;
  return [
    op(hex(8 * i), name, "Eb,Gb", definition, options),
    op(hex(8 * i + 1), name, "Ev,Gv", definition, options),
    op(hex(8 * i + 2), name, "Gb,Eb", definition),
    op(hex(8 * i + 3), name, "Gv,Ev", definition),
    op(hex(8 * i + 4), name, "AL,Ib", definition),
    op(hex(8 * i + 5), name, "AX,Iz", definition),
    op(`80 /${i}`, name, "Eb,Ib", definition, options),
    op(`81 /${i}`, name, "Ev,Iz", definition, options),
    op(`82 /${i}`, name, "Eb,Ib", definition, { ...options, ...LEGACY }),
    op(`83 /${i}`, name, "Ev,Ib", definition, options),
  ];
});

/** Group 2: shifts and rotates by an immediate, by 1, by CL. /6 is SHL again. */
const GROUP2: readonly [string, Definition][] = [
  ["ROL", s.rol],
  ["ROR", s.ror],
  ["RCL", s.rcl],
  ["RCR", s.rcr],
  ["SHL", s.shl],
  ["SHR", s.shr],
  ["SAL", s.shl],
  ["SAR", s.sar],
];
const group2 = GROUP2.flatMap(([name, definition], i) => [
  op(`C0 /${i}`, name, "Eb,Ib", definition),
  op(`C1 /${i}`, name, "Ev,Ib", definition),
  op(`D0 /${i}`, name, "Eb,1", definition),
  op(`D1 /${i}`, name, "Ev,1", definition),
  op(`D2 /${i}`, name, "Eb,CL", definition),
  op(`D3 /${i}`, name, "Ev,CL", definition),
]);

const conditional = CONDITIONS.flatMap((cc, i) => [
  op(hex(0x70 + i), `J${cc}`, "Jb", c.jcc, { ...BRANCH, args: [i] }),
  op(`0F ${hex(0x80 + i)}`, `J${cc}`, "Jz", c.jcc, { ...BRANCH, args: [i] }),
  op(`0F ${hex(0x90 + i)}`, `SET${cc}`, "Eb", t.setcc, { args: [i] }),
  op(`0F ${hex(0x40 + i)}`, `CMOV${cc}`, "Gv,Ev", t.cmov, { args: [i] }),
]);

const SEGMENT_PUSHES: readonly [string, number, OpcodeOptions][] = [
  ["06", Seg.ES, LEGACY],
  ["0E", Seg.CS, LEGACY],
  ["16", Seg.SS, LEGACY],
  ["1E", Seg.DS, LEGACY],
  ["0F A0", Seg.FS, {}],
  ["0F A8", Seg.GS, {}],
];
const segmentPushes = SEGMENT_PUSHES.map(([encoding, seg, options]) =>
  op(encoding, "PUSH", "", t.pushSegment, { ...STACK, ...options, sized: true, args: [seg] }),
);

export const INTEGER_OPCODES: readonly OpcodeRow[] = [
  ...group1,
  ...group2,
  ...conditional,
  ...segmentPushes,

  op("27", "DAA", "", a.daa, LEGACY),
  op("2F", "DAS", "", a.das, LEGACY),
  op("37", "AAA", "", a.aaa, LEGACY),
  op("3F", "AAS", "", a.aas, LEGACY),
  op("D4", "AAM", "Ib", a.aam, LEGACY),
  op("D5", "AAD", "Ib", a.aad, LEGACY),
  op("D6", "SALC", "", t.salc, LEGACY),
  op("40+r", "INC", "Zv", a.inc, LEGACY),
  op("48+r", "DEC", "Zv", a.dec, LEGACY),

  op("50+r", "PUSH", "Zv", t.push, STACK),
  op("58+r", "POP", "Zv", t.pop, STACK),
  op("60", "PUSHA", "", t.pusha, { ...LEGACY, modal: true, sized: true }),
  op("61", "POPA", "", t.popa, { ...LEGACY, modal: true, sized: true }),
  op("63", "MOVSXD", "Gv,Ed", t.movsx, { only: "long" }),
  op("68", "PUSH", "Iz", t.push, STACK),
  op("6A", "PUSH", "Ib", t.push, { ...STACK, sized: true }),
  op("69", "IMUL", "Gv,Ev,Iz", a.imul),
  op("6B", "IMUL", "Gv,Ev,Ib", a.imul),

  op("84", "TEST", "Eb,Gb", a.test),
  op("85", "TEST", "Ev,Gv", a.test),
  op("86", "XCHG", "Eb,Gb", t.xchg, LOCK),
  op("87", "XCHG", "Ev,Gv", t.xchg, LOCK),
  op("88", "MOV", "Eb,Gb", t.mov),
  op("89", "MOV", "Ev,Gv", t.mov),
  op("8A", "MOV", "Gb,Eb", t.mov),
  op("8B", "MOV", "Gv,Ev", t.mov),
  op("8C", "MOV", "Mw,Sw", t.movFromSegment),
  op("8C reg", "MOV", "Ev,Sw", t.movFromSegment),
  op("8D", "LEA", "Gv,M", t.lea, { noSegment: true }),
  op("8F /0", "POP", "Ev", t.pop, STACK),
  op("90+r", "XCHG", "Zv,AX", t.xchg),
  op("98", "CBW/CWDE/CDQE", "", a.convertAccumulator, { sized: true }),
  op("99", "CWD/CDQ/CQO", "", a.signAccumulator, { sized: true }),
  op("9C", "PUSHF", "", t.pushf, { ...STACK, sized: true }),
  op("9D", "POPF", "", t.popf, { ...STACK, sized: true }),
  op("9E", "SAHF", "", t.sahf),
  op("9F", "LAHF", "", t.lahf),
  op("A0", "MOV", "AL,Ob", t.mov),
  op("A1", "MOV", "AX,Ov", t.mov),
  op("A2", "MOV", "Ob,AL", t.mov),
  op("A3", "MOV", "Ov,AX", t.mov),
  op("A8", "TEST", "AL,Ib", a.test),
  op("A9", "TEST", "AX,Iz", a.test),
  op("B0+r", "MOV", "Zb,Ib", t.mov),
  op("B8+r", "MOV", "Zv,Iv", t.mov),
  op("C6 /0", "MOV", "Eb,Ib", t.mov),
  op("C7 /0", "MOV", "Ev,Iz", t.mov),
  op("C9", "LEAVE", "", t.leave, { ...STACK, sized: true }),
  op("D7", "XLAT", "Xb", t.xlat, { addressed: true, modal: true }),
  op("F5", "CMC", "", t.cmc),
  op("F8", "CLC", "", t.clc),
  op("F9", "STC", "", t.stc),
  op("FC", "CLD", "", t.cld),
  op("FD", "STD", "", t.std),
  op("F6 /0", "TEST", "Eb,Ib", a.test),
  op("F6 /1", "TEST", "Eb,Ib", a.test),
  op("F7 /0", "TEST", "Ev,Iz", a.test),
  op("F7 /1", "TEST", "Ev,Iz", a.test),
  op("F6 /2", "NOT", "Eb", a.not, LOCK),
  op("F7 /2", "NOT", "Ev", a.not, LOCK),
  op("F6 /3", "NEG", "Eb", a.neg, LOCK),
  op("F7 /3", "NEG", "Ev", a.neg, LOCK),
  op("F6 /4", "MUL", "Eb", a.mul),
  op("F7 /4", "MUL", "Ev", a.mul),
  op("F6 /5", "IMUL", "Eb", a.imul1),
  op("F7 /5", "IMUL", "Ev", a.imul1),
  op("F6 /6", "DIV", "Eb", a.div),
  op("F7 /6", "DIV", "Ev", a.div),
  op("F6 /7", "IDIV", "Eb", a.idiv),
  op("F7 /7", "IDIV", "Ev", a.idiv),
  op("FE /0", "INC", "Eb", a.inc, LOCK),
  op("FF /0", "INC", "Ev", a.inc, LOCK),
  op("FE /1", "DEC", "Eb", a.dec, LOCK),
  op("FF /1", "DEC", "Ev", a.dec, LOCK),
  op("FF /6", "PUSH", "Ev", t.push, STACK),

  // Strings
  op("A4", "MOVS", "Yb,Xb", str.movs, { rep: true, addressed: true, modal: true }),
  op("A5", "MOVS", "Yv,Xv", str.movs, { rep: true, addressed: true, modal: true }),
  op("A6", "CMPS", "Xb,Yb", str.cmps, { rep: true, addressed: true, modal: true }),
  op("A7", "CMPS", "Xv,Yv", str.cmps, { rep: true, addressed: true, modal: true }),
  op("AA", "STOS", "Yb", str.stos, { rep: true, addressed: true, modal: true }),
  op("AB", "STOS", "Yv", str.stos, { rep: true, addressed: true, modal: true }),
  op("AC", "LODS", "Xb", str.lods, { rep: true, addressed: true, modal: true }),
  op("AD", "LODS", "Xv", str.lods, { rep: true, addressed: true, modal: true }),
  op("AE", "SCAS", "Yb", str.scas, { rep: true, addressed: true, modal: true }),
  op("AF", "SCAS", "Yv", str.scas, { rep: true, addressed: true, modal: true }),

  // Control transfer
  op("C2", "RET", "Iw", c.ret, { ...BRANCH, ends: true, sized: true }),
  op("C3", "RET", "", c.ret, { ...BRANCH, ends: true, sized: true }),
  op("E0", "LOOPNE", "Jb", c.loopne, { ...BRANCH, addressed: true }),
  op("E1", "LOOPE", "Jb", c.loope, { ...BRANCH, addressed: true }),
  op("E2", "LOOP", "Jb", c.loop, { ...BRANCH, addressed: true }),
  op("E3", "JCXZ", "Jb", c.jcxz, { ...BRANCH, addressed: true }),
  op("E8", "CALL", "Jz", c.call, BRANCH),
  op("E9", "JMP", "Jz", c.jmp, { ...BRANCH, ends: true }),
  op("EB", "JMP", "Jb", c.jmp, { ...BRANCH, ends: true }),
  op("FF /2", "CALL", "Ev", c.callIndirect, BRANCH),
  op("FF /4", "JMP", "Ev", c.jmpIndirect, { ...BRANCH, ends: true }),

  // Two-byte opcodes
  op("0F 0D", "PREFETCHW", "Mb", t.nop, { noSegment: true }),
  op("0F 0B", "UD2", "", c.undefinedOpcode, { ends: true }),
  op("0F B9", "UD1", "Gv,Ev", c.undefinedOpcode, { ends: true, noSegment: true }),
  op("0F FF", "UD0", "Gv,Ev", c.undefinedOpcode, { ends: true, noSegment: true }),
  op("0F 18", "PREFETCH/NOP", "Ev", t.nop, { noSegment: true }),
  ...["19", "1A", "1B", "1C", "1D", "1E", "1F"].map((byte) =>
    op(`0F ${byte}`, "NOP", "Ev", t.nop, { noSegment: true }),
  ),
  op("0F 31", "RDTSC", "", c.rdtsc),
  op("0F 01 =F9", "RDTSCP", "", c.rdtscp),
  op("F3 0F C7 /7 reg", "RDPID", "Rv", c.rdpid, { operand64: "force" }),
  op("0F A3", "BT", "Ev,Gv", s.bt, { bitOffset: true }),
  op("0F AB", "BTS", "Ev,Gv", s.bts, { ...LOCK, bitOffset: true }),
  op("0F B3", "BTR", "Ev,Gv", s.btr, { ...LOCK, bitOffset: true }),
  op("0F BB", "BTC", "Ev,Gv", s.btc, { ...LOCK, bitOffset: true }),
  op("0F BA /4", "BT", "Ev,Ib", s.bt),
  op("0F BA /5", "BTS", "Ev,Ib", s.bts, LOCK),
  op("0F BA /6", "BTR", "Ev,Ib", s.btr, LOCK),
  op("0F BA /7", "BTC", "Ev,Ib", s.btc, LOCK),
  op("0F A4", "SHLD", "Ev,Gv,Ib", s.shld),
  op("0F A5", "SHLD", "Ev,Gv,CL", s.shld),
  op("0F AC", "SHRD", "Ev,Gv,Ib", s.shrd),
  op("0F AD", "SHRD", "Ev,Gv,CL", s.shrd),
  op("0F AF", "IMUL", "Gv,Ev", a.imul),
  op("0F B0", "CMPXCHG", "Eb,Gb", a.cmpxchg, LOCK),
  op("0F B1", "CMPXCHG", "Ev,Gv", a.cmpxchg, LOCK),
  op("0F B6", "MOVZX", "Gv,Eb", t.movzx),
  op("0F B7", "MOVZX", "Gv,Ew", t.movzx),
  op("0F BE", "MOVSX", "Gv,Eb", t.movsx),
  op("0F BF", "MOVSX", "Gv,Ew", t.movsx),
  op("0F BC", "BSF", "Gv,Ev", s.bsf),
  op("0F BD", "BSR", "Gv,Ev", s.bsr),
  op("F3 0F B8", "POPCNT", "Gv,Ev", s.popcnt),
  op("0F C0", "XADD", "Eb,Gb", a.xadd, LOCK),
  op("0F C1", "XADD", "Ev,Gv", a.xadd, LOCK),
  op("0F C7 /1", "CMPXCHG8B", "Mq", a.cmpxchg8b, LOCK),
  op("0F C8+r", "BSWAP", "Zv", t.bswap),
];

/** CMPXCHG16B is CMPXCHG8B's encoding with REX.W: the decoder takes this row where the operand size is 8. */
export const CMPXCHG16B = op("0F C7 /1", "CMPXCHG16B", "Mx", a.cmpxchg16b, { ...LOCK, only: "long" });
