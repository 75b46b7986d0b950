/**
 * The host's own CPU as the oracle (DESIGN, 4): runs cases natively in this process, in user mode.
 *
 * Exceptions come as signals to a handler in machine code (native-trampoline). The process's own handlers (V8 has one
 * for SIGSEGV) are put aside from `begin` to `end`, and all other signals are blocked on this thread, because the
 * code under test has no usable stack. x86-64 Linux only.
 */
import koffi from "koffi";
import {
  CODE_BASE,
  CODE_SIZE,
  type CpuCase,
  codeSelector,
  DATA_BASE,
  DATA_SIZE,
  DATA_WRITABLE,
  dataTemplate,
  entryRip,
  type Facilities,
  FX_SIZE,
  GS_BASE,
  INT3,
  initialFx,
  LOW_BASE,
  LOW_SIZE,
  lowTemplate,
  type OracleCpu,
  type Outcome,
  PAGE,
  Selector,
  TIMED_OUT,
} from "./cpu-case.js";
import { Block, CONTROL_BLOCK, ENTER, Greg, HANDLER } from "./native-trampoline.js";

const PROT = { READ: 1, WRITE: 2, EXEC: 4 } as const;
/** MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE (<linux/mman.h>). */
const MAP_FLAGS = 0x02 | 0x20 | 0x100000;
const MAP_FAILED = 0xffffffffffffffffn;

const SIGVTALRM = 26;
/** SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, and the watchdog's (<asm/signal.h>). */
const SIGNALS = [4, 5, 7, 8, 11, SIGVTALRM] as const;
/** SA_SIGINFO | SA_ONSTACK | SA_NODEFER. */
const SA_FLAGS = 0x4 | 0x08000000 | 0x40000000;
/** `struct sigaction` of glibc on x86-64: handler, sa_mask (128 bytes), sa_flags, sa_restorer. */
const SIGACTION_SIZE = 152;
const SIGACTION_FLAGS = 136;
const SIGSET_SIZE = 128;
const SIG_SETMASK = 2;
/** Counts the process's own time, so that a busy host does not end cases. */
const ITIMER_VIRTUAL = 1;
/** No batch of cases takes longer than some milliseconds. */
const WATCHDOG_SECONDS = 1n;

/** ARCH_SET_GS (<asm/prctl.h>). Programs on x86-64 Linux leave GS alone. */
const ARCH_SET_GS = 0x1001;

/** modify_ldt(2): write an entry, a `struct user_desc` (<asm/ldt.h>). */
const SYS_MODIFY_LDT = 154;
const LDT_WRITE = 1;
/** contents: code, not conforming; useable. All other bits clear: 16-bit, limit in bytes, readable. */
const LDT_CODE16_FLAGS = (2 << 1) | (1 << 6);

const HANDLER_OFFSET = 0x1000;
const ENTER_OFFSET = 0x1100;
const STACK_OFFSET = 0x2000;
const STACK_SIZE = 0x10000;

const PF = 14;

/** Why cases cannot run natively here, or undefined. */
export function nativeUnavailable(): string | undefined {
  if (process.platform !== "linux" || process.arch !== "x64") return "the host is not x86-64 Linux";
  return undefined;
}

function open() {
  const libc = koffi.load("libc.so.6");
  const mmap = libc.func("uint64_t mmap(uint64_t, size_t, int, int, int, int64_t)");
  return {
    mprotect: libc.func("int mprotect(uint64_t, size_t, int)"),
    sigaction: libc.func("int sigaction(int, const uint8_t *act, uint8_t *old)"),
    sigprocmask: libc.func("int pthread_sigmask(int, const uint8_t *set, uint8_t *old)"),
    sigaltstack: libc.func("int sigaltstack(const uint8_t *new, uint8_t *old)"),
    syscall: libc.func("long syscall(long, long, const uint32_t *, unsigned long)"),
    archPrctl: libc.func("int arch_prctl(int, uint64_t)"),
    setitimer: libc.func("int setitimer(int, const uint64_t *new, void *old)"),
    /** Memory at a fixed address, or undefined where the host refuses. */
    map(address: number, size: number, protection: number): Uint8Array | undefined {
      const at: number | bigint = mmap(address, size, protection, MAP_FLAGS, -1, 0);
      if (BigInt(at) === MAP_FAILED || BigInt(at) !== BigInt(address)) return undefined;
      return new Uint8Array(koffi.view(BigInt(address), size));
    },
  };
}

export class NativeCpu implements OracleCpu {
  readonly #libc = open();
  readonly #block: Uint8Array;
  readonly #u64: BigUint64Array;
  readonly #u32: Uint32Array;
  readonly #u16: Uint16Array;
  readonly #code: Uint8Array;
  readonly #data: Uint8Array;
  /** LOW_BASE: sysctl vm.mmap_min_addr; 16-bit code: CONFIG_MODIFY_LDT_SYSCALL. */
  readonly facilities: Facilities;
  readonly #enter: (block: number) => void;
  readonly #action = new Uint8Array(SIGACTION_SIZE);
  readonly #oldActions = SIGNALS.map(() => new Uint8Array(SIGACTION_SIZE));
  readonly #mask = new Uint8Array(SIGSET_SIZE).fill(0xff);
  readonly #oldMask = new Uint8Array(SIGSET_SIZE);
  readonly #stack = new BigUint64Array([BigInt(CONTROL_BLOCK + STACK_OFFSET), 0n, BigInt(STACK_SIZE)]);
  readonly #oldStack = new Uint8Array(24);
  readonly #defaultFx = initialFx();
  readonly #outcome: Outcome;
  #readOnlyPatched = false;

  constructor() {
    const { READ, WRITE, EXEC } = PROT;
    const map = (address: number, size: number, protection: number) => {
      const bytes = this.#libc.map(address, size, protection);
      if (bytes === undefined) throw new Error(`oracle: cannot map memory at 0x${address.toString(16)}`);
      return bytes;
    };
    const control = map(CONTROL_BLOCK, STACK_OFFSET + STACK_SIZE, READ | WRITE | EXEC);
    control.set(HANDLER, HANDLER_OFFSET);
    control.set(ENTER, ENTER_OFFSET);
    this.#block = control.subarray(0, PAGE);
    this.#u64 = new BigUint64Array(control.buffer, 0, PAGE / 8);
    this.#u32 = new Uint32Array(control.buffer, 0, PAGE / 4);
    this.#u16 = new Uint16Array(control.buffer, 0, PAGE / 2);
    this.#code = map(CODE_BASE, CODE_SIZE, READ | WRITE | EXEC).fill(INT3);
    this.#data = map(DATA_BASE, DATA_SIZE, READ | WRITE);
    this.#data.set(dataTemplate);
    this.#protect(READ);
    const low = this.#libc.map(LOW_BASE, LOW_SIZE, READ | WRITE);
    const descriptor = new Uint32Array([0, CODE_BASE, CODE_SIZE - 1, LDT_CODE16_FLAGS]);
    const ldt: number | bigint = this.#libc.syscall(
      SYS_MODIFY_LDT,
      LDT_WRITE,
      descriptor,
      descriptor.byteLength,
    );
    this.facilities = { lowMemory: low !== undefined, code16: Number(ldt) === 0 };
    const enterType = koffi.proto("void(uint64_t)");
    const enterAddress = BigInt(CONTROL_BLOCK + ENTER_OFFSET);
    this.#enter = koffi.decode(enterAddress, enterType);
    const action = new DataView(this.#action.buffer);
    action.setBigUint64(0, BigInt(CONTROL_BLOCK + HANDLER_OFFSET), true);
    action.setUint32(SIGACTION_FLAGS, SA_FLAGS, true);
    for (const signal of SIGNALS) this.#mask[(signal - 1) >> 3] &= ~(1 << ((signal - 1) & 7));
    this.#outcome = {
      vector: 0,
      errorCode: 0,
      cr2: 0n,
      rip: 0n,
      rflags: 0,
      gpr: new BigUint64Array(16),
      fx: this.#block.subarray(Block.FX_OUT, Block.FX_OUT + FX_SIZE),
      data: this.#data,
      selectors: new Uint16Array(4),
      low: low ?? new Uint8Array(LOW_SIZE),
    };
  }

  /** Protection of the data page that the code under test cannot write. */
  #protect(protection: number): void {
    const size = DATA_SIZE - DATA_WRITABLE;
    if (this.#libc.mprotect(DATA_BASE + DATA_WRITABLE, size, protection) !== 0) throw new Error("mprotect");
  }

  begin(): void {
    this.#libc.sigprocmask(SIG_SETMASK, this.#mask, this.#oldMask);
    this.#libc.sigaltstack(new Uint8Array(this.#stack.buffer), this.#oldStack);
    SIGNALS.forEach((signal, i) => {
      this.#libc.sigaction(signal, this.#action, this.#oldActions[i]);
    });
    this.#libc.archPrctl(ARCH_SET_GS, GS_BASE);
    this.#libc.setitimer(
      ITIMER_VIRTUAL,
      new BigUint64Array([WATCHDOG_SECONDS, 0n, WATCHDOG_SECONDS, 0n]),
      null,
    );
  }

  end(): void {
    this.#libc.setitimer(ITIMER_VIRTUAL, new BigUint64Array(4), null);
    this.#libc.archPrctl(ARCH_SET_GS, 0n);
    SIGNALS.forEach((signal, i) => {
      this.#libc.sigaction(signal, this.#oldActions[i], null);
    });
    this.#libc.sigaltstack(this.#oldStack, null);
    this.#libc.sigprocmask(SIG_SETMASK, this.#oldMask, null);
  }

  run(test: CpuCase): Outcome {
    const at = test.entry - CODE_BASE;
    this.#code.set(test.code, at);
    const readOnly = test.patches.some((p) => p.address + p.bytes.length > DATA_BASE + DATA_WRITABLE);
    if (readOnly || this.#readOnlyPatched) {
      this.#protect(PROT.READ | PROT.WRITE);
      this.#data.set(dataTemplate.subarray(DATA_WRITABLE), DATA_WRITABLE);
    }
    this.#data.set(dataTemplate.subarray(0, DATA_WRITABLE));
    if (test.usesLow) this.#outcome.low.set(lowTemplate);
    for (const { address, bytes } of test.patches) {
      if (address >= DATA_BASE) this.#data.set(bytes, address - DATA_BASE);
      else this.#outcome.low.set(bytes, address - LOW_BASE);
    }
    if (readOnly || this.#readOnlyPatched) this.#protect(PROT.READ);
    this.#readOnlyPatched = readOnly;
    const u64 = this.#u64;
    const long = test.bitness === 64;
    u64.set(test.gpr, Block.GPR / 8);
    const frame = Block.FRAME / 8;
    u64[frame] = BigInt(entryRip(test));
    u64[frame + 1] = BigInt(codeSelector[test.bitness]);
    u64[frame + 2] = BigInt(test.rflags);
    u64[frame + 3] = test.gpr[4];
    u64[frame + 4] = BigInt(Selector.DATA);
    this.#u32[Block.DATA_SELECTOR / 4] = Selector.DATA;
    this.#block.set(test.fx ?? this.#defaultFx, Block.FX_IN);

    this.#enter(CONTROL_BLOCK);

    const outcome = this.#outcome;
    const gregs = Block.GREGS / 8;
    const timedOut = this.#u32[Block.SIGNAL / 4] === SIGVTALRM;
    outcome.vector = timedOut ? TIMED_OUT : Number(u64[gregs + Greg.TRAPNO]);
    outcome.errorCode = hasErrorCode(outcome.vector) ? Number(u64[gregs + Greg.ERR]) : 0;
    outcome.cr2 = outcome.vector === PF ? u64[gregs + Greg.CR2] : 0n;
    // INT3 is a trap: RIP is past it.
    outcome.rip = u64[gregs + Greg.RIP] - (outcome.vector === 3 ? 1n : 0n);
    outcome.rflags = Number(u64[gregs + Greg.EFL]);
    for (let i = 0; i < 16; i++) outcome.gpr[i] = u64[gregs + Greg.GPR[i]];
    const u16 = this.#u16;
    outcome.selectors[0] = u16[Block.ES_OUT / 2];
    outcome.selectors[1] = u16[(gregs + Greg.CSGSFS) * 4];
    outcome.selectors[2] = u16[(gregs + Greg.CSGSFS) * 4 + 3];
    outcome.selectors[3] = u16[Block.DS_OUT / 2];
    if (!long) for (let i = 0; i < 16; i++) outcome.gpr[i] &= 0xffffffffn;
    this.#code.fill(INT3, at, at + test.code.length);
    return outcome;
  }
}

/** Exceptions that push an error code (SDM vol. 3A, table 6-1). */
export function hasErrorCode(vector: number): boolean {
  return vector === 8 || (vector >= 10 && vector <= 14) || vector === 17;
}
