/**
 * A provider of the CPU for tests of what is above the seam: its vCPU 0 plays a script instead of running code.
 * The script is text at SCRIPT_ADDRESS of guest memory, a step a line:
 *
 *   out PORT SIZE VALUE [VALUE...]   a port write (several values: one exit with a count)
 *   in PORT SIZE [COUNT]             a port read; the answer is printed on COM1 in hex
 *   print TEXT                       the bytes of TEXT and CR LF to COM1
 *   print-times N TEXT               the same, N times
 *   echo BYTE                        copy COM1's input to its output until BYTE came, by polling
 *   until PORT SIZE MASK             read the port until a bit of MASK is set
 *   mmio-write ADDRESS SIZE VALUE    mmio-read ADDRESS SIZE (the answer is printed)
 *   exit REASON [DETAIL]             return that exit
 *   throw TEXT                       throw an Error in the vCPU's thread
 *   spin                             never return, and heed no kick
 *   wait                             return INTR at each kick, else nothing
 */
import {
  type CpuidEntry,
  type DebugRegs,
  ExitReason,
  type Fpu,
  MpState,
  type Msr,
  type Regs,
  type Segment,
  type Sregs,
  type Vcpu,
  type VcpuEvents,
  type Vm,
  type VmExit,
} from "../../src/hypervisor/seam.js";
import type { CreateVm } from "../../src/machine/provider.js";
import { type GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import { Layout, type ViewOf } from "../../src/memory/layout.js";
import type { SharedMemory } from "../../src/memory/shared-memory.js";
import type { StateAllocator } from "../../src/memory/state-allocator.js";

export const SCRIPT_ADDRESS = 0x100020;
const MAX_SCRIPT = 0x10000;

const COM1 = 0x3f8;
const COM1_LSR = COM1 + 5;
const LSR_DATA_READY = 1;

const FAKE = new Layout("fake-vcpu", { kicked: "u32" });

const NO_SEGMENT: Segment = {
  base: 0n,
  limit: 0xffff,
  selector: 0,
  type: 3,
  present: 1,
  dpl: 0,
  db: 0,
  s: 1,
  l: 0,
  g: 0,
  avl: 0,
  unusable: 0,
};

/** One exit of the script, and what is to be done with its answer before the next. */
interface Step {
  readonly reason: ExitReason;
  readonly fields: Partial<VmExit>;
  readonly bytes?: readonly number[];
  readonly answered?: (data: Uint8Array) => void;
}

class FakeVcpu implements Vcpu {
  readonly exit: VmExit = {
    reason: ExitReason.UNKNOWN,
    port: 0,
    size: 0,
    count: 0,
    isWrite: false,
    address: 0,
    data: new Uint8Array(4096),
    detail: 0,
    debug: { exception: 0, pc: 0n, dr6: 0n, dr7: 0n },
  };
  readonly #words: Int32Array;
  readonly #kicked: number;
  #steps: Generator<Step, void> | undefined;
  #answered: ((data: Uint8Array) => void) | undefined;
  #regs: Regs = {
    rax: 0x11n,
    rbx: 0n,
    rcx: 0n,
    rdx: 0n,
    rsi: 0n,
    rdi: 0n,
    rsp: 0n,
    rbp: 0n,
    r8: 0n,
    r9: 0n,
    r10: 0n,
    r11: 0n,
    r12: 0n,
    r13: 0n,
    r14: 0n,
    r15: 0n,
    rip: BigInt(SCRIPT_ADDRESS),
    rflags: 2n,
  };

  constructor(
    readonly id: number,
    memory: SharedMemory,
    state: ViewOf<typeof FAKE>,
    readonly guestMemory: GuestMemory,
  ) {
    this.#words = memory.i32;
    this.#kicked = (state.address + FAKE.offset.kicked) >>> 2;
  }

  run(): ExitReason {
    const { exit } = this;
    this.#answered?.(exit.data);
    this.#answered = undefined;
    if (Atomics.exchange(this.#words, this.#kicked, 0) !== 0) {
      exit.reason = ExitReason.INTR;
      return exit.reason;
    }
    // The other vCPUs wait for a start-up interrupt that never comes.
    if (this.id !== 0) return this.#wait();
    this.#steps ??= this.#play();
    const { value } = this.#steps.next();
    if (value === undefined) return this.#wait();
    Object.assign(exit, { count: 1, ...value.fields, reason: value.reason });
    exit.data.fill(0);
    if (value.bytes !== undefined) exit.data.set(value.bytes);
    this.#answered = value.answered;
    return exit.reason;
  }

  #wait(): ExitReason {
    Atomics.wait(this.#words, this.#kicked, 0);
    Atomics.store(this.#words, this.#kicked, 0);
    this.exit.reason = ExitReason.INTR;
    return this.exit.reason;
  }

  kick(): void {
    Atomics.store(this.#words, this.#kicked, 1);
    Atomics.notify(this.#words, this.#kicked);
  }

  *#play(): Generator<Step, void> {
    const bytes = this.guestMemory.bytes(gpa(SCRIPT_ADDRESS), MAX_SCRIPT).slice();
    const end = bytes.indexOf(0);
    const script = new TextDecoder().decode(bytes.subarray(0, end < 0 ? 0 : end));
    for (const line of script.split("\n")) yield* this.#line(line);
  }

  *#line(line: string): Generator<Step, void> {
    const [word, ...args] = line.split(" ");
    const rest = line.slice(word.length + 1);
    const [first = 0, second = 1, ...values] = args.map(Number);
    switch (word) {
      case "print":
        yield* this.#print(`${rest}\r\n`);
        break;
      case "print-times":
        for (let i = 0; i < first; i++) yield* this.#print(`${rest.slice(args[0].length + 1)}\r\n`);
        break;
      case "out":
        yield out(first, second, values);
        break;
      case "in": {
        let text = "";
        const count = values[0] ?? 1;
        yield {
          reason: ExitReason.IO,
          fields: { port: first, size: second, count, isWrite: false },
          answered: (data) => {
            text = hexBytes(data, second * count);
          },
        };
        yield* this.#print(`${text}\r\n`);
        break;
      }
      case "until": {
        let value = 0;
        while ((value & values[0]) === 0) {
          yield {
            ...input(first, second),
            answered: (data) => {
              value = Number.parseInt(hexBytes(data.slice(0, second).reverse(), second), 16);
            },
          };
        }
        break;
      }
      case "mmio-write":
        yield {
          reason: ExitReason.MMIO,
          fields: { address: first, size: second, isWrite: true },
          bytes: littleEndian(values[0], second),
        };
        break;
      case "mmio-read": {
        let text = "";
        yield {
          reason: ExitReason.MMIO,
          fields: { address: first, size: second, isWrite: false },
          answered: (data) => {
            text = hexBytes(data, second);
          },
        };
        yield* this.#print(`${text}\r\n`);
        break;
      }
      case "echo":
        yield* this.#echo(first);
        break;
      case "exit":
        yield { reason: first as ExitReason, fields: { detail: args.length > 1 ? second : 0 } };
        break;
      case "throw":
        throw new Error(rest);
      case "spin":
        for (;;);
      case "wait":
        for (;;) yield { reason: this.#wait(), fields: {} };
    }
  }

  *#print(text: string): Generator<Step, void> {
    for (const byte of Buffer.from(text)) yield out(COM1, 1, [byte]);
  }

  *#echo(last: number): Generator<Step, void> {
    for (;;) {
      let value = 0;
      const keep = (data: Uint8Array) => {
        value = data[0];
      };
      yield { ...input(COM1_LSR), answered: keep };
      if ((value & LSR_DATA_READY) === 0) continue;
      yield { ...input(COM1), answered: keep };
      if (value === last) return;
      yield out(COM1, 1, [value]);
    }
  }

  getRegs = (): Regs => this.#regs;
  setRegs(regs: Regs): void {
    this.#regs = regs;
  }
  getSregs(): Sregs {
    const table = { base: 0n, limit: 0xffff };
    const s = NO_SEGMENT;
    return {
      ...{ cs: s, ds: s, es: s, fs: s, gs: s, ss: s, tr: s, ldt: s, gdt: table, idt: table },
      ...{ cr0: 0x10n, cr2: 0n, cr3: 0n, cr4: 0n, cr8: 0n, efer: 0n, apicBase: 0xfee00900n },
    };
  }
  setSregs(): void {}
  getFpu(): Fpu {
    throw new Error("the fake vCPU has no FPU");
  }
  setFpu(): void {}
  getMsrs = (): Msr[] => [];
  setMsrs(): void {}
  getXcr0 = (): bigint => 1n;
  setXcr0(): void {}
  getLapic = (): Uint8Array => new Uint8Array(1024);
  setLapic(): void {}
  getEvents(): VcpuEvents {
    throw new Error("the fake vCPU has no events");
  }
  setEvents(): void {}
  getMpState = (): MpState => MpState.RUNNABLE;
  setMpState(): void {}
  getDebugRegs = (): DebugRegs => ({ db: [0n, 0n, 0n, 0n], dr6: 0n, dr7: 0n });
  setDebugRegs(): void {}
  setCpuid(): void {}
  getCpuid = (): CpuidEntry[] => [];
  setGuestDebug(): void {}
  nmi(): void {}
  translate = (linear: bigint): number | undefined => Number(linear);
  getStats = (): Record<string, number> => ({ kicks: 0 });
}

function littleEndian(value: number, size: number): number[] {
  return Array.from({ length: size }, (_, i) => Number((BigInt(value) >> BigInt(8 * i)) & 0xffn));
}

function hexBytes(data: Uint8Array, length: number): string {
  return Buffer.from(data.subarray(0, length)).toString("hex");
}

function out(port: number, size: number, values: readonly number[]): Step {
  return {
    reason: ExitReason.IO,
    fields: { port, size, count: values.length, isWrite: true },
    bytes: values.flatMap((value) => littleEndian(value, size)),
  };
}

function input(port: number, size = 1): Step {
  return { reason: ExitReason.IO, fields: { port, size, isWrite: false } };
}

export const arenaBytes = (cpus: number): number => cpus * 4096;

export const createVm: CreateVm = (
  memory: SharedMemory,
  allocator: StateAllocator,
  guestMemory: GuestMemory,
  _timers,
  _clock,
  { cpus },
): Vm => {
  const vcpus = Array.from(
    { length: cpus },
    (_, id) => new FakeVcpu(id, memory, allocator.alloc(FAKE, `fake-vcpu${id}`), guestMemory),
  );
  return {
    setMemorySlot() {},
    getDirtyLog: () => new Uint8Array(),
    setIrqLine() {},
    setGsiRouting() {},
    signalMsi() {},
    addDoorbell() {},
    removeDoorbell: () => false,
    getClock: () => 0n,
    setClock() {},
    tscKhz: 1_000_000,
    supportedCpuid: () => [],
    vcpu: (id) => vcpus[id],
    close() {},
  };
};
