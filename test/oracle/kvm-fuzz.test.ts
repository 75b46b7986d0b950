/**
 * Random user-mode code on both providers: KVM, where the host has it, against the software CPU. Every form of every opcode
 * table's row, then blocks and loops. `NLKT_FUZZ_CASES` sets the cases a form (2), `NLKT_FUZZ_SEED` the seed (1).
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { hardwareVirtualization } from "../../src/hypervisor/kvm/host-cpu.js";
import { onQemu } from "../guests/support/limits.js";
import { noKvm } from "../hypervisor/kvm/support/kvm-machine.js";
import { reportAll } from "./campaign.js";
import { BREAKPOINT } from "./cpu-case.js";
import { Fuzzer, type FuzzerOptions } from "./fuzzer.js";
import { KvmCpu } from "./kvm-cpu.js";

const CASES = Number(process.env.NLKT_FUZZ_CASES ?? 2);
const SEED = Number(process.env.NLKT_FUZZ_SEED ?? 1);
const BLOCKS = 250 * CASES;
/** Failures told of in full. */
const TOLD = 10;

/** MOV from and to segment registers. */
const SEGMENT_MOVES = /^8[CE]\b/;

/**
 * Without hardware virtualization (kvm_pvm) KVM runs 64-bit user mode on the host's processor, and everything that faults, and
 * other modes, in its instruction emulator, which does not know half of the instructions, nor all that others refuse:
 * LOCK on a NOP with an operand is done. Descriptors there are the host's.
 */
const EMULATING: Omit<FuzzerOptions, "oracle"> = {
  only64: true,
  excluded: ({ row }) =>
    /^(LSL|LAR|VERR|VERW|FXSAVE|FXRSTOR|[LMS]FENCE|NOP)$/.test(row.mnemonic) ||
    SEGMENT_MOVES.test(row.encoding),
  comparable: ({ vector }) => vector === BREAKPOINT,
};

/**
 * Why there is nothing to compare with, or false. QEMU's processor (7.2) is none: CRC32 in 16-bit code, RET with a large operand, REX
 * before other prefixes and flags of SHLD come out wrong there, and random code ends QEMU itself ("tcg fatal error").
 */
const skip = noKvm !== false ? noKvm : onQemu && "QEMU's processor runs random code wrong, or ends at it";

const limits = hardwareVirtualization() === undefined ? EMULATING : {};
const cpu = skip === false ? new KvmCpu({ lowMemory: true, code16: true }) : undefined;
const fuzzer = cpu === undefined ? undefined : new Fuzzer(SEED, undefined, { oracle: cpu, ...limits });
after(() => cpu?.close());

test("single instructions on KVM and on the software CPU", { skip }, (t) => {
  const failures = fuzzer!.forms.flatMap((form) => fuzzer!.form(form, CASES));
  const { cases, completed } = fuzzer!.campaign;
  t.diagnostic(`${cases} cases compared, ${completed} without an exception`);
  assert.equal(failures.length, 0, reportAll(failures.slice(0, TOLD)));
  assert.ok(cases > fuzzer!.forms.length * CASES * 0.5, "most are compared");
});

test("random blocks and loops on KVM and on the software CPU", { skip }, (t) => {
  const before = fuzzer!.campaign.cases;
  const failures = fuzzer!.blocks(BLOCKS, TOLD);
  t.diagnostic(`${fuzzer!.campaign.cases - before} of ${BLOCKS} blocks compared`);
  assert.equal(failures.length, 0, reportAll(failures));
});
