/** Generates single-instruction cases from the opcode tables: every row in every form, with operands of all kinds. */
import type { OpcodeRow } from "../../src/hypervisor/soft/isa/opcode-table.js";
import { type EncodedOperand, encodeMemory } from "./addressing.js";
import { CODE_BASE, CODE_SIZE, type CpuCase, PAGE, type Random } from "./cpu-case.js";
import { Draft } from "./draft.js";
import { chooseRex, encode, LONGEST } from "./encoder.js";
import { describeForm, type Form, otherAddressSize } from "./forms.js";
import type { Hint } from "./hint.js";
import { HINTS, vectorKind, vectorOperand } from "./hints.js";
import { farPointer } from "./hints-control.js";
import { fxImage, integer } from "./values.js";

const FP_MNEMONICS = /^(EMMS|FXSAVE|FXRSTOR|LDMXCSR|STMXCSR|FWAIT)$/;

export function usesFx(row: OpcodeRow): boolean {
  const x87 = row.map === "" && (row.opcodes[0] & 0xf8) === 0xd8;
  return x87 || row.operands.some((o) => "VWUPQNT".includes(o.method)) || FP_MNEMONICS.test(row.mnemonic);
}

const usesMmx = (row: OpcodeRow) =>
  row.operands.some((o) => "PQN".includes(o.method)) || row.mnemonic === "EMMS";

/** Where the code goes: mostly inside a page, now and then across two, or off the end of the code pages. */
function entryAddress({ row, bitness }: Form, random: Random): number {
  const kind = random.below(100);
  // Processors differ in how much of UD0 and UD1 they fetch before they refuse it.
  if (kind < 88 || /^UD[01]$/.test(row.mnemonic)) return CODE_BASE + PAGE + 0x700 + random.below(0x100);
  // A conditional branch that ends at the segment's limit is #GP on AMD's processors, taken or not.
  const branches = bitness === 16 && row.operands[0]?.method === "J";
  if (kind < 98 || branches) return CODE_BASE + 2 * PAGE - 1 - random.below(LONGEST);
  return CODE_BASE + CODE_SIZE - 1 - random.below(4);
}

/** Numbers that ModRM.reg may have for special registers; what is left out has its reason beside it. */
const SPECIAL_REGISTERS: Record<string, readonly number[]> = {
  // CR4 to CR15 but 8 do not exist; DR4 and DR5 depend on CR4.DE.
  C: [0, 2, 3, 4, 8],
  D: [0, 1, 2, 3, 6, 7],
};
/** FS and GS are the host thread's own; CS cannot be loaded; 6 and 7 do not exist. */
const LOADABLE_SEGMENTS = [0, 3, 2, 1, 6, 7] as const;
const READABLE_SEGMENTS = [0, 1, 2, 3, 4, 5] as const;

export function chooseRegisters(d: Draft): void {
  const { row, bitness } = d.form;
  const long = bitness === 64;
  for (const operand of row.operands) {
    const { method } = operand;
    if (method in SPECIAL_REGISTERS) {
      d.reg = d.random.pick(SPECIAL_REGISTERS[method].filter((n) => long || n < 8));
    } else if (method === "S") {
      const loads = row.operands[0].method === "S";
      d.reg = d.random.pick(loads ? LOADABLE_SEGMENTS : READABLE_SEGMENTS);
    } else if (method === "T") {
      d.rm = d.random.below(8);
    }
  }
  if (row.digit !== undefined) d.reg = row.digit;
}

function applies(hint: Hint, row: OpcodeRow): boolean {
  return hint.mnemonics.test(row.mnemonic) && (hint.map === undefined || hint.map === row.map);
}

export function chooseImmediates(d: Draft): void {
  d.form.row.operands.forEach((operand, i) => {
    if (operand.method === "I") d.immediates.set(i, integer(d.random));
    if (operand.method === "A") d.immediates.set(i, farPointer(d));
  });
}

/** What the memory operand holds. */
function fillMemory(d: Draft): void {
  const { row, size } = d.form;
  if (row.operands.some((o) => "WQ".includes(o.method) || (o.method === "M" && usesFx(row)))) {
    d.patch(d.target, vectorOperand(d).subarray(0, Math.min(16, d.targetBytes)));
  } else if (d.random.chance(0.6)) {
    d.patchInteger(d.target, integer(d.random), Math.max(size, Math.min(d.targetBytes, 8)));
  }
}

/** MOV to and POP into a segment register, loads of far pointers, and far transfers, which may come back with others. */
function loadsSegments(row: OpcodeRow): boolean {
  if (row.operands[0]?.method === "S" || /^(L[DES]S|IRET)$/.test(row.mnemonic)) return true;
  return row.mnemonic === "POP" && row.operands.length === 0;
}

/** Now and then the other address size, where that is not a form of its own. */
function varyAddressSize(form: Form, random: Random): Form {
  const { row, mod, bitness } = form;
  // Most of the memory is beyond 16-bit addresses.
  const often = bitness === 16 ? 0.5 : 0.08;
  if (mod !== "mem" || row.addressed === true || !random.chance(often)) return form;
  return { ...form, addressSize: otherAddressSize(bitness) };
}

/** One case of a form. */
export function generate(variant: Form, random: Random, lowMemory: boolean): CpuCase {
  const form = varyAddressSize(variant, random);
  const { row, bitness } = form;
  const entry = entryAddress(form, random);
  const d = new Draft(form, random, entry, lowMemory);
  d.rexW = bitness === 64 && form.size === 8 && row.operand64 === undefined;
  chooseRegisters(d);
  chooseImmediates(d);
  if (usesFx(row)) d.fx = fxImage(random, { vectors: vectorKind(row.mnemonic), mmx: usesMmx(row) });
  const hints = HINTS.filter((hint) => applies(hint, row));
  if (row.noSegment === true) d.target = integer(random);
  for (const hint of hints) hint.before?.(d);
  d.bias += d.segmentBase;
  if (bitness !== 64) for (let i = 0; i < 16; i++) d.gpr[i] &= i < 8 ? 0xffffffffn : 0n;

  let memory: EncodedOperand | undefined;
  if (form.mod === "mem") {
    const { operand, used } = encodeMemory({
      random,
      bitness,
      addressSize: form.addressSize,
      target: BigInt.asUintN(64, d.target - d.bias),
      gpr: d.gpr,
      keep: d.keep,
    });
    memory = operand;
    d.addressing = used;
  }
  chooseRex(d, memory);
  if (form.mod === "mem" || row.operands.some((o) => o.method === "O")) fillMemory(d);
  for (const hint of hints) hint.after?.(d);
  if (bitness !== 64) for (let i = 0; i < 16; i++) d.gpr[i] &= i < 8 ? 0xffffffffn : 0n;
  let code = encode(d, memory);
  if (entry + code.length > CODE_BASE + CODE_SIZE) code = code.subarray(0, CODE_BASE + CODE_SIZE - entry);
  return {
    title: describeForm(form),
    bitness,
    entry,
    code,
    gpr: d.gpr,
    rflags: d.rflags,
    fx: d.fx,
    patches: d.patches,
    usesLow: lowMemory && form.addressSize === 2,
    segments: loadsSegments(row),
    operand: memory === undefined ? undefined : d.target,
  };
}
