/**
 * Runs small guests on any provider of the seam, in the calling thread: memory and registers are set, the guest runs until
 * it says that it is done, and everything that it did can be looked at. Exceptions lead to handlers that do nothing but an
 * OUT to FAULT_PORT: the machine reads the stack frame there, and either ends the guest or lets it return.
 */
import {
  type DebugRegs,
  ExitReason,
  MpState,
  type Msr,
  type Regs,
  type Segment,
  type Sregs,
  type Vcpu,
  type Vm,
} from "../../../src/hypervisor/seam.js";
import { type GuestMemory, gpa } from "../../../src/memory/guest-memory.js";
import { Asm, DONE_PORT, FAULT_PORT } from "./asm.js";
import {
  At,
  Environment,
  HANDLER_BYTES,
  isLong,
  type Mode,
  Sel,
  TSS_LIMIT,
  Type,
  WITH_ERROR_CODE,
} from "./environment.js";

/** A machine of one provider; see soft-provider.ts. */
export interface Provider {
  readonly name: string;
  readonly vm: Vm;
  readonly memory: GuestMemory;
  readonly vcpu: Vcpu;
  /** Watch over a run: `kick` the vCPU when it takes too long. */
  watched<T>(run: () => T): T;
}

/** A port or MMIO access of the guest. */
export interface GuestAccess {
  readonly space: "port" | "mmio";
  readonly address: number;
  readonly size: number;
  readonly isWrite: boolean;
  /** Written, or given to the read. */
  readonly value: bigint;
}

/** What a handler found. */
export interface Fault {
  readonly vector: number;
  /** Undefined for vectors without. */
  readonly error: number | undefined;
  readonly rip: bigint;
  readonly cs: number;
  readonly flags: number;
  /** Where the frame holds them: in IA-32e mode always, else after a change of stacks. */
  readonly sp: bigint | undefined;
  readonly ss: number | undefined;
  readonly cr2: bigint;
  /** Registers in the handler. */
  readonly regs: Regs;
  readonly sregs: Sregs;
  /** Address of the frame: of the error code where there is one, else of RIP. */
  readonly frame: number;
}

export interface GuestImage {
  readonly mode: Mode;
  /** Code for At.CODE, whose start is run; its assembler's origin is At.CODE, or 0 in 16-bit modes. */
  readonly code: Asm;
  /** 0 where left out (3 in virtual-8086 mode). */
  readonly cpl?: 0 | 3;
  readonly regs?: Partial<Regs>;
  /** Change memory before the run. */
  readonly memory?: (env: Environment) => void;
  readonly sregs?: (sregs: Sregs) => void;
  readonly msrs?: readonly Msr[];
  readonly debugRegs?: DebugRegs;
  /** Answers port and MMIO reads; all ones where it does not. */
  readonly read?: (address: number, size: number, space: "port" | "mmio") => bigint | number | undefined;
  /** "resume": let the handler return. Where left out, the first exception ends the guest. */
  readonly onFault?: (fault: Fault, vcpu: Vcpu, env: Environment) => "resume" | "stop";
  /** Called at each port or MMIO access but the handlers'. */
  readonly onAccess?: (access: GuestAccess, vcpu: Vcpu, env: Environment) => void;
}

export interface GuestResult {
  /** "done": the guest wrote to DONE_PORT; "fault": an exception that was not to be resumed. */
  readonly end: "done" | "fault" | "shutdown" | "internal error";
  readonly regs: Regs;
  readonly sregs: Sregs;
  readonly faults: readonly Fault[];
  readonly accesses: readonly GuestAccess[];
  readonly env: Environment;
}

const Cr0 = { PE: 1n, MP: 2n, ET: 0x10n, NE: 0x20n, WP: 0x10000n, PG: 0x8000_0000n } as const;
const Cr4 = { PSE: 0x10n, PAE: 0x20n, PGE: 0x80n, OSFXSR: 0x200n, OSXMMEXCPT: 0x400n } as const;
export const Efer = { SCE: 1n, LME: 0x100n, LMA: 0x400n, NXE: 0x800n } as const;
export const Flag = {
  CF: 1,
  PF: 4,
  AF: 0x10,
  ZF: 0x40,
  SF: 0x80,
  TF: 0x100,
  IF: 0x200,
  DF: 0x400,
  OF: 0x800,
  IOPL3: 0x3000,
  NT: 0x4000,
  RF: 0x10000,
  VM: 0x20000,
  AC: 0x40000,
} as const;

function segment(selector: number, changes: Partial<Segment>): Segment {
  return {
    base: 0n,
    limit: 0xffff_ffff,
    selector,
    type: 3,
    present: 1,
    dpl: 0,
    db: 1,
    s: 1,
    l: 0,
    g: 1,
    avl: 0,
    unusable: 0,
    ...changes,
  };
}

const realSegment = (selector: number, changes: Partial<Segment> = {}) =>
  segment(selector, { base: BigInt(selector << 4), limit: 0xffff, db: 0, g: 0, ...changes });

function startSegments(mode: Mode, cpl: 0 | 3): Pick<Sregs, "cs" | "ds" | "es" | "fs" | "gs" | "ss"> {
  if (mode === "real" || mode === "v86") {
    const dpl = mode === "v86" ? 3 : 0;
    const data = realSegment(At.DATA >> 4, { dpl });
    return {
      cs: realSegment(At.CODE >> 4, { type: mode === "v86" ? 3 : 11, dpl }),
      ds: { ...data },
      es: { ...data },
      fs: { ...data },
      gs: { ...data },
      ss: realSegment(0, { dpl }),
    };
  }
  const user = cpl === 3;
  const data = segment(user ? Sel.USER_DATA : Sel.DATA, { dpl: cpl });
  const all = { ds: { ...data }, es: { ...data }, fs: { ...data }, gs: { ...data }, ss: { ...data } };
  if (mode === "long") {
    return { cs: segment(user ? Sel.USER_CODE64 : Sel.CODE64, { type: 11, l: 1, db: 0, dpl: cpl }), ...all };
  }
  if (mode === "protected16") {
    return {
      ...all,
      cs: segment(Sel.CODE16, { type: 11, base: BigInt(At.CODE), limit: 0xffff, db: 0, g: 0 }),
    };
  }
  return { cs: segment(user ? Sel.USER_CODE32 : Sel.CODE32, { type: 11, dpl: cpl }), ...all };
}

function startSregs(mode: Mode, cpl: 0 | 3, apicBase: bigint): Sregs {
  const paged = isLong(mode) || mode === "paged32" || mode === "pae" || mode === "v86";
  const cr3 = isLong(mode) ? At.PML4 : mode === "pae" ? At.PDPT_PAE : At.PD32;
  return {
    ...startSegments(mode, cpl),
    tr: segment(Sel.TSS, {
      base: BigInt(At.TSS),
      limit: TSS_LIMIT,
      type: Type.TSS_BUSY,
      s: 0,
      db: 0,
      g: 0,
    }),
    ldt: segment(Sel.LDT, { base: BigInt(At.LDT), limit: 0xff, type: Type.LDT, s: 0, db: 0, g: 0 }),
    gdt: { base: BigInt(At.GDT), limit: 0x7ff },
    idt: mode === "real" ? { base: 0n, limit: 0x3ff } : { base: BigInt(At.IDT), limit: 0xfff },
    cr0: Cr0.ET | Cr0.NE | Cr0.MP | (mode === "real" ? 0n : Cr0.PE) | (paged ? Cr0.PG | Cr0.WP : 0n),
    cr2: 0n,
    cr3: paged ? BigInt(cr3) : 0n,
    cr4: Cr4.PSE | (isLong(mode) || mode === "pae" ? Cr4.PAE : 0n) | Cr4.OSFXSR | Cr4.OSXMMEXCPT,
    cr8: 0n,
    efer: isLong(mode) ? Efer.LME | Efer.LMA | Efer.NXE : mode === "pae" ? Efer.NXE : 0n,
    apicBase,
  };
}

const NO_REGS: Regs = {
  rax: 0n,
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
  rip: 0n,
  rflags: 2n,
};

const INITIAL_DEBUG: DebugRegs = { db: [0n, 0n, 0n, 0n], dr6: 0xffff0ff0n, dr7: 0x400n };

/** Where code starts: an offset in CS. */
export const codeOrigin = (mode: Mode) =>
  mode === "real" || mode === "v86" || mode === "protected16" ? 0 : At.CODE;

/** An assembler for the code of a guest that starts in `mode`. */
export function assembler(mode: Mode): Asm {
  const bits = mode === "long" ? 64 : codeOrigin(mode) === 0 ? 16 : 32;
  return new Asm(bits, codeOrigin(mode));
}

/** The stack frame that a handler got (SDM vol. 3A, 6.12.1, 6.14.2; vol. 3B, 21.1.4). */
function readFault(vcpu: Vcpu, memory: GuestMemory): Fault {
  const regs = vcpu.getRegs();
  const sregs = vcpu.getSregs();
  const long = (sregs.efer & Efer.LMA) !== 0n;
  const real = (sregs.cr0 & Cr0.PE) === 0n;
  const vector = Math.floor((Number(regs.rip & 0xffffn) - At.HANDLERS) / HANDLER_BYTES);
  const width = long ? 8 : real ? 2 : 4;
  const sp = long
    ? regs.rsp
    : (sregs.ss.base + (regs.rsp & (sregs.ss.db ? 0xffff_ffffn : 0xffffn))) & 0xffff_ffffn;
  const slot = (i: number): bigint => {
    const physical = vcpu.translate(sp + BigInt(i * width));
    if (physical === undefined) return -1n;
    const at = gpa(physical);
    return width === 8 ? memory.readU64(at) : BigInt(width === 4 ? memory.readU32(at) : memory.readU16(at));
  };
  const hasError = !real && WITH_ERROR_CODE.has(vector);
  const first = hasError ? 1 : 0;
  const cs = Number(slot(first + 1) & 0xffffn);
  const flags = Number(slot(first + 2));
  const outer = long || (!real && ((cs & 3) !== (sregs.cs.selector & 3) || (flags & Flag.VM) !== 0));
  return {
    vector,
    error: hasError ? Number(slot(0)) : undefined,
    rip: slot(first),
    cs,
    flags,
    sp: outer ? slot(first + 3) : undefined,
    ss: outer ? Number(slot(first + 4) & 0xffffn) : undefined,
    cr2: sregs.cr2,
    regs,
    sregs,
    frame: Number(sp),
  };
}

/** More than any test makes: a guest that comes back to the same fault again and again. */
const MAX_FAULTS = 2000;

/** Run a guest from its first instruction on. Throws where it neither ends nor faults in time. */
export function runGuest(provider: Provider, image: GuestImage): GuestResult {
  const { vcpu, memory } = provider;
  const cpl = image.cpl ?? 0;
  const { mode } = image;
  const env = new Environment(memory, mode);
  env.fill();
  env.write(At.CODE, image.code.bytes());
  image.memory?.(env);
  start(provider, image, cpl);

  const faults: Fault[] = [];
  const accesses: GuestAccess[] = [];
  const end = (how: GuestResult["end"]): GuestResult => ({
    end: how,
    regs: vcpu.getRegs(),
    sregs: vcpu.getSregs(),
    faults,
    accesses,
    env,
  });
  for (;;) {
    const { exit } = vcpu;
    switch (provider.watched(() => vcpu.run())) {
      case ExitReason.IO:
      case ExitReason.MMIO: {
        const space = exit.reason === ExitReason.IO ? "port" : "mmio";
        const address = space === "port" ? exit.port : exit.address;
        if (space === "port" && exit.isWrite && address === DONE_PORT) return end("done");
        if (space === "port" && exit.isWrite && address === FAULT_PORT) {
          const fault = readFault(vcpu, memory);
          faults.push(fault);
          if (faults.length > MAX_FAULTS) throw new Error(`guest does not end: ${MAX_FAULTS} faults`);
          if ((image.onFault?.(fault, vcpu, env) ?? "stop") === "stop") return end("fault");
          break;
        }
        for (const access of serve(exit, space, address, image)) {
          accesses.push(access);
          image.onAccess?.(access, vcpu, env);
        }
        break;
      }
      case ExitReason.SHUTDOWN:
        return end("shutdown");
      case ExitReason.INTERNAL_ERROR:
        return end("internal error");
      case ExitReason.INTR: {
        const regs = vcpu.getRegs();
        throw new Error(`guest does not end: RIP 0x${regs.rip.toString(16)}, after ${faults.length} faults`);
      }
      default:
        throw new Error(`unexpected exit ${exit.reason}`);
    }
  }
}

/** Registers and mode as `image` has them. */
export function start({ vcpu }: Pick<Provider, "vcpu">, image: Omit<GuestImage, "code">, cpl: 0 | 3): void {
  const { mode } = image;
  vcpu.setMpState(MpState.RUNNABLE);
  const { apicBase } = vcpu.getSregs();
  const sregs = startSregs(mode, mode === "v86" ? 3 : cpl, apicBase);
  image.sregs?.(sregs);
  vcpu.setEvents({
    exception: { injected: false, nr: 0, hasErrorCode: false, errorCode: 0 },
    interrupt: { injected: false, nr: 0, soft: false, shadow: 0 },
    nmi: { injected: false, pending: false, masked: false },
  });
  const flags = mode === "v86" ? BigInt(Flag.VM | Flag.IOPL3 | 2) : 2n;
  vcpu.setRegs({
    ...NO_REGS,
    rip: BigInt(codeOrigin(mode)),
    rsp: BigInt(cpl === 3 ? At.USER_STACK_TOP : At.STACK_TOP),
    rflags: flags,
    ...image.regs,
  });
  vcpu.setSregs(sregs);
  vcpu.setFpu({
    fpr: new Uint8Array(128),
    fcw: 0x37f,
    fsw: 0,
    ftwx: 0,
    lastOpcode: 0,
    lastIp: 0n,
    lastDp: 0n,
    xmm: new Uint8Array(256),
    mxcsr: 0x1f80,
  });
  vcpu.setDebugRegs(image.debugRegs ?? INITIAL_DEBUG);
  vcpu.setMsrs([
    { index: 0xc0000081, data: 0n },
    { index: 0xc0000082, data: 0n },
    { index: 0xc0000084, data: 0n },
    { index: 0xc0000102, data: 0n },
    { index: 0x174, data: 0n },
    { index: 0x175, data: 0n },
    { index: 0x176, data: 0n },
    ...(image.msrs ?? []),
  ]);
}

/** Serve an exit, of which a string instruction's may carry several units. */
function* serve(
  exit: Vcpu["exit"],
  space: "port" | "mmio",
  address: number,
  image: GuestImage,
): Generator<GuestAccess> {
  const { size, isWrite, data } = exit;
  const units = space === "port" ? exit.count : 1;
  for (let at = 0; at < units * size; at += size) {
    let value = 0n;
    if (isWrite) for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(data[at + i]);
    else {
      value = BigInt.asUintN(8 * size, BigInt(image.read?.(address, size, space) ?? -1));
      for (let i = 0; i < size; i++) data[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    }
    yield { space, address, size, isWrite, value };
  }
}
