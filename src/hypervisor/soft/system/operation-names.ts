/**
 * Names of the operations that instructions leave to TypeScript (`InstrContext.system`), numbered by their place here.
 * They are implemented in the other files of this folder.
 */
const SYSTEM_OPERATIONS = [
  "hlt",
  "cpuid",
  "rdmsr",
  "wrmsr",
  "movFromCr",
  "movToCr",
  "movFromDr",
  "movToDr",
  "clts",
  "lmsw",
  "lgdt",
  "lidt",
  "lldt",
  "ltr",
  "lar",
  "lsl",
  "verr",
  "verw",
  "arpl",
  "bound",
  "invlpg",
  "invpcid",
  "writeBackCaches",
  "loadSegment",
  "popSegment",
  "loadFarPointer",
  "farJump",
  "farCall",
  "farReturn",
  "interrupt",
  "int1",
  "int3",
  "into",
  "iret",
  "sysenter",
  "sysexit",
  "syscall",
  "sysret",
  "flagsChanged",
  "in",
  "out",
  "ins",
  "outs",
  "fxsave",
  "fxrstor",
  "enter",
  "rdrand",
  "rdseed",
  "rdpmc",
  "monitor",
  "mwait",
  "vmcall",
  "fldenv",
  "fnstenv",
  "frstor",
  "fnsave",
] as const;

export type SystemOperation = (typeof SYSTEM_OPERATIONS)[number];
export const SYSTEM_OPERATION_NAMES: readonly SystemOperation[] = SYSTEM_OPERATIONS;

export function systemOperationNumber(name: string): number {
  const number = SYSTEM_OPERATIONS.indexOf(name as SystemOperation);
  if (number < 0) throw new Error(`no system operation is called ${name}`);
  return number;
}

/** Bit positions in `leaveDetail`: operation number, operand and address size in bytes, 0 none, 1 REP, 2 REPNE. */
export const SystemDetail = { number: 0, size: 8, addressSize: 12, rep: 16 } as const;
