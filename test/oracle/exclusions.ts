/** Rows of the opcode tables, and forms of them, that are not compared with the host's CPU, each with its reason. */
import type { Form } from "./forms.js";

interface Exclusion {
  readonly mnemonics: RegExp;
  readonly reason: string;
  /** Only these forms; all where left out. */
  readonly when?: (form: Form) => boolean;
}

const HOST = "its result is the host's, not the instruction's";

/** Instructions with a far pointer in memory. */
const FAR_POINTER = /^(FF \/[35]|0F B[245])$/;

export const EXCLUSIONS: readonly Exclusion[] = [
  { mnemonics: /^(RDTSCP?|RDPMC|RDRAND|RDSEED|RDPID)$/, reason: HOST },
  { mnemonics: /^(CPUID|XGETBV)$/, reason: HOST },
  { mnemonics: /^SERIALIZE$/, reason: "not every host has it" },
  {
    mnemonics: /^(SYSCALL|SYSENTER)$/,
    reason: "enters the host's kernel; guests test them in test/hypervisor",
  },
  {
    mnemonics: /^(SGDT|SIDT|SLDT|STR|SMSW)$/,
    reason: "Linux emulates them for user programs under UMIP, with made-up values",
  },
  { mnemonics: /^(RD|WR)(FS|GS)BASE$/, reason: "FS holds the host thread's own data" },
  { mnemonics: /^(POP FS|POP GS|LFS|LGS)$/, reason: "FS and GS hold the host thread's own data" },
  {
    mnemonics: /^POP$/,
    when: ({ row }) => /^(0F A1|0F A9)$/.test(row.encoding),
    reason: "FS and GS hold the host thread's own data",
  },
  {
    mnemonics: /^(CALL|JMP|L[SFG]S)$/,
    when: ({ row, size }) => FAR_POINTER.test(row.encoding) && size === 8,
    reason: "Intel's processors take a 64-bit offset in a far pointer, AMD's do not",
  },
  { mnemonics: /^INT3$/, reason: "INT3 is how every case ends" },
  { mnemonics: /^(INT1|ICEBP)$/, reason: "Linux takes its #DB for a debugger's" },
  { mnemonics: /^(XSAVE\w*|XRSTOR\w*|XSETBV)$/, reason: "the host's extended state is not the guest's" },
  { mnemonics: /^(MONITOR|MWAIT)X?$/, reason: "whether they are allowed in user mode is the host's setting" },
  { mnemonics: /^(VMCALL|VMMCALL)$/, reason: "goes to the host's hypervisor" },
];

/** Why a form is not compared, or undefined. */
export function exclusion(form: Form): string | undefined {
  for (const { mnemonics, reason, when } of EXCLUSIONS) {
    if (mnemonics.test(form.row.mnemonic) && (when === undefined || when(form))) return reason;
  }
  return undefined;
}
