/**
 * Compare and exchange of 16 bytes, which WebAssembly has not: the host's own CMPXCHG16B, in a few bytes of machine code. Several
 * vCPUs run on x86-64 hosts only. Measured: a boot of Debian executes some 6,000 of them with LOCK, and each program that
 * it starts 35 more, so that taking the bus for each would be slow, and very slow where there are more vCPUs than cores.
 *
 * Where the host does not let a program have such code, or its processor has no CMPXCHG16B, the bus is taken (bus-lock.ts).
 */
import { readFileSync } from "node:fs";
import koffi from "koffi";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { VcpuState } from "../vcpu-state.js";

export const WideOutcome = {
  /** Memory was not as expected. */
  CHANGED: 0,
  DONE: 1,
  /** The host cannot do it. */
  UNABLE: 2,
} as const;
export type WideOutcome = (typeof WideOutcome)[keyof typeof WideOutcome];

/** (place of 16 bytes, expected and new value): 1 where it was as expected. System V calling convention: RDI, RSI. */
const CODE = [
  ...[0x53], // push rbx
  ...[0x48, 0x8b, 0x06], // mov rax, [rsi]
  ...[0x48, 0x8b, 0x56, 0x08], // mov rdx, [rsi + 8]
  ...[0x48, 0x8b, 0x5e, 0x10], // mov rbx, [rsi + 16]
  ...[0x48, 0x8b, 0x4e, 0x18], // mov rcx, [rsi + 24]
  ...[0xf0, 0x48, 0x0f, 0xc7, 0x0f], // lock cmpxchg16b [rdi]
  ...[0x0f, 0x94, 0xc0], // sete al
  ...[0x0f, 0xb6, 0xc0], // movzx eax, al
  ...[0x5b], // pop rbx
  ...[0xc3], // ret
];

const PROT_READ_WRITE = 3;
const PROT_READ_EXEC = 5;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const CODE_BYTES = 4096;

type Exchange = (place: number, values: number) => number;

/** This thread's copy of the code; null where it cannot be had. */
let known: Exchange | null | undefined;

function hostExchange(): Exchange | null {
  try {
    if (process.platform !== "linux" || process.arch !== "x64") return null;
    if (!/^flags\s*:.*\bcx16\b/m.test(readFileSync("/proc/cpuinfo", "latin1"))) return null;
    const libc = koffi.load(null);
    const mmap = libc.func("void *mmap(void *, size_t, int, int, int, long)");
    const mprotect = libc.func("int mprotect(void *, size_t, int)");
    const page = mmap(null, CODE_BYTES, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    const address = koffi.address(page);
    if (BigInt.asIntN(64, address) === -1n) return null;
    new Uint8Array(koffi.view(page, CODE_BYTES)).set(CODE);
    // Never writable and executable at once.
    if (mprotect(page, CODE_BYTES, PROT_READ_EXEC) !== 0) return null;
    return koffi.decode(
      page,
      koffi.proto("uint32_t nlkt_exchange_wide(uintptr_t place, uintptr_t values)"),
    ) as Exchange;
  } catch {
    return null;
  }
}

/** For vCPU `state`: exchange the 16 bytes at `at`, a multiple of 16 in linear memory, as `state.exchange` says. */
export function wideExchange(
  memory: SharedMemory,
  state: VcpuState,
): (cpu: number, at: number) => WideOutcome {
  let start = 0;
  const values = state.exchange.byteOffset;
  return (_cpu, at) => {
    if (known === undefined) known = hostExchange();
    if (known === null) return WideOutcome.UNABLE;
    if (start === 0) start = Number(koffi.address(memory.u8));
    return known(start + (at >>> 0), start + values) === 1 ? WideOutcome.DONE : WideOutcome.CHANGED;
  };
}
