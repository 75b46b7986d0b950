/** Scratch: steps single instructions on the cold tier's handlers without the run loop. */

import { buildHandlerModule, HANDLER_TABLE_SIZE } from "../../src/hypervisor/soft/cold/handler-module.js";
import { CodeCache } from "../../src/hypervisor/soft/decode/code-cache.js";
import { DecodeStatus, InstructionDecoder } from "../../src/hypervisor/soft/decode/instruction.js";
import type { ColdExports } from "../../src/hypervisor/soft/mmu/access.js";
import { readEflags, updateMode, writeEflags } from "../../src/hypervisor/soft/system/mode.js";
import { SYSTEM_OPERATION_NAMES } from "../../src/hypervisor/soft/system/operation-names.js";
import {
  AccessKind,
  CodeMode,
  FAULT_NO_ERROR_CODE,
  Leave,
  PHYS_PAGES,
  PhysFlag,
  SCRATCH_RECORDS_OFFSET,
  Seg,
  TLB_OFFSET,
  VCPU_BYTES,
  VCPU_STATE,
  type VcpuState,
} from "../../src/hypervisor/soft/vcpu-state.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";
import { StateAllocator } from "../../src/memory/state-allocator.js";
import {
  CODE_BASE,
  CODE_SIZE,
  type CpuCase,
  DATA_BASE,
  DATA_SIZE,
  DATA_WRITABLE,
  dataTemplate,
  FX_SIZE,
  Fx,
  INT3,
  LOW_BASE,
  LOW_SIZE,
  lowTemplate,
  type OracleCpu,
  type Outcome,
  PAGE,
  TIMED_OUT,
} from "./cpu-case.js";

export const UNSUPPORTED = 0x200;
const PML4 = 0x1000,
  PDPT = 0x2000,
  PD_LOW = 0x3000,
  PD_USER = 0x4000,
  PT_USER = 0x5000,
  PT_LOW = 0x6000;
const CODE_PAGES = 0x10000,
  DATA_PAGES = 0x20000,
  LOW_PAGES = 0x30000,
  RAM = 0x100000;
const PTE = { P: 1n, W: 2n, U: 4n, NX: 1n << 63n };
export let reason = "";

export class BareCpu implements OracleCpu {
  readonly memory: SharedMemory;
  readonly state: VcpuState;
  readonly wasm: ColdExports;
  readonly decoder: InstructionDecoder;
  readonly cache: CodeCache;
  readonly ram: number;
  readonly outcome: Outcome;
  constructor(readonly lowMemory: boolean) {
    const bytes = 80 << 20;
    this.memory = SharedMemory.create(bytes);
    const allocator = new StateAllocator(this.memory, 0x10000, bytes);
    const at = allocator.bytes(VCPU_BYTES, "vcpu");
    this.state = VCPU_STATE.view(this.memory, at);
    const physMap = allocator.bytes(PHYS_PAGES * 4, "map");
    const arena = allocator.bytes(4 << 20, "arena");
    this.ram = allocator.bytes(RAM, "ram", 4096);
    for (let p = 0; p < RAM / PAGE; p++)
      this.memory.u32[(physMap >>> 2) + p] = (this.ram + p * PAGE) | PhysFlag.RAM;
    const table = buildHandlerModule({ names: true });
    const funcs = new WebAssembly.Table({ element: "anyfunc", initial: HANDLER_TABLE_SIZE });
    const fail = (name: string) => () => {
      throw new Error(name);
    };
    const instance = new WebAssembly.Instance(
      new WebAssembly.Module(table.bytes as Uint8Array<ArrayBuffer>),
      {
        env: {
          memory: this.memory.memory,
          table: funcs,
          mmioLoad: fail("mmioLoad"),
          mmioStore: fail("mmioStore"),
          codeWritten: () => {},
          checkAccess: fail("checkAccess"),
          clock: () => 0,
        },
      },
    );
    this.wasm = instance.exports as unknown as ColdExports;
    this.decoder = new InstructionDecoder(table);
    this.cache = new CodeCache(
      this.memory,
      this.decoder,
      arena,
      arena + (4 << 20),
      physMap,
      () => {},
      () => {},
    );
    const s = this.state;
    s.physMap = physMap;
    s.cr0 = 0x80050033n;
    s.cr4 = 0x620n;
    s.efer = 0xd01n;
    s.cr3 = BigInt(PML4);
    s.cpl = 3;
    this.memory.u8.fill(0xff, at + TLB_OFFSET, at + SCRATCH_RECORDS_OFFSET);
    for (const seg of [Seg.ES, Seg.SS, Seg.DS]) {
      s.segLimit[seg] = 0xffffffff;
      s.segAccess[seg] = 0xc0f3;
      s.segSelector[seg] = 0x2b;
    }
    for (const seg of [Seg.FS, Seg.GS]) {
      s.segAccess[seg] = 0x10000;
    }
    s.segLimit[Seg.CS] = 0xffffffff;
    const put = (address: number, value: bigint) =>
      this.memory.data.setBigUint64(this.ram + address, value, true);
    const index = (linear: number, level: number) => (Math.floor(linear / 2 ** (12 + 9 * level)) & 0x1ff) * 8;
    const link = PTE.P | PTE.W | PTE.U;
    put(PML4, BigInt(PDPT) | link);
    put(PDPT, BigInt(PD_LOW) | link);
    put(PD_LOW, BigInt(PT_LOW) | link);
    put(PDPT + index(CODE_BASE, 2), BigInt(PD_USER) | link);
    put(PD_USER + index(CODE_BASE, 1), BigInt(PT_USER) | link);
    const map = (linear: number, physical: number, size: number, bits: bigint, t = PT_USER) => {
      for (let o = 0; o < size; o += PAGE)
        put(t + index(linear + o, 0), BigInt(physical + o) | PTE.P | PTE.U | bits);
    };
    map(CODE_BASE, CODE_PAGES, CODE_SIZE, PTE.W);
    map(DATA_BASE, DATA_PAGES, DATA_WRITABLE, PTE.W | PTE.NX);
    map(DATA_BASE + DATA_WRITABLE, DATA_PAGES + DATA_WRITABLE, DATA_SIZE - DATA_WRITABLE, PTE.NX);
    if (lowMemory) map(LOW_BASE, LOW_PAGES, LOW_SIZE, PTE.W | PTE.NX, PT_LOW);
    const ram = (p: number, n: number) => this.memory.u8.subarray(this.ram + p, this.ram + p + n);
    ram(CODE_PAGES, CODE_SIZE).fill(INT3);
    this.outcome = {
      vector: 0,
      errorCode: 0,
      cr2: 0n,
      rip: 0n,
      rflags: 0,
      gpr: new BigUint64Array(16),
      fx: new Uint8Array(FX_SIZE),
      data: ram(DATA_PAGES, DATA_SIZE),
      low: ram(LOW_PAGES, LOW_SIZE),
      selectors: new Uint16Array([0x2b, 0, 0x2b, 0x2b]),
    };
  }
  begin(): void {}
  end(): void {}
  run(test: CpuCase): Outcome {
    const s = this.state,
      o = this.outcome,
      { u8 } = this.memory;
    const code = this.ram + CODE_PAGES + test.entry - CODE_BASE;
    u8.set(test.code, code);
    o.data.set(dataTemplate);
    if (test.usesLow) o.low.set(lowTemplate);
    for (const { address, bytes } of test.patches)
      (address >= DATA_BASE ? o.data : o.low).set(
        bytes,
        address >= DATA_BASE ? address - DATA_BASE : address - LOW_BASE,
      );
    s.gpr.set(test.gpr);
    const long = test.bitness === 64;
    s.segAccess[Seg.CS] = long ? 0xa0fb : 0xc0fb;
    s.segSelector[Seg.CS] = long ? 0x33 : 0x23;
    writeEflags(s, test.rflags);
    updateMode(s, this.memory);
    if (test.fx !== undefined) this.loadFx(test.fx);
    o.cr2 = 0n;
    o.errorCode = 0;
    o.rflags = -1;
    s.rip = BigInt(test.entry);
    this.loop(test);
    o.rip = s.rip;
    if (o.rflags < 0) o.rflags = readEflags(s);
    o.gpr.set(s.gpr);
    if (!long) for (let i = 0; i < 16; i++) o.gpr[i] &= 0xffffffffn;
    o.selectors[1] = s.segSelector[Seg.CS];
    if (test.fx !== undefined) this.storeFx();
    u8.fill(INT3, code, code + test.code.length);
    return o;
  }
  loop(test: CpuCase): void {
    const s = this.state,
      o = this.outcome,
      cpu = s.address;
    const mode = test.bitness === 64 ? CodeMode.LONG64 : CodeMode.LEGACY32;
    reason = "";
    if ((test.rflags & 0x40100) !== 0) {
      o.vector = UNSUPPORTED;
      reason = "TF/AC";
      return;
    }
    for (let steps = 0; steps < 100000; steps++) {
      if (mode === CodeMode.LONG64 && BigInt.asIntN(48, s.rip) !== BigInt.asIntN(64, s.rip)) {
        o.vector = 13;
        o.rflags = readEflags(s) | 0x10000;
        return;
      }
      const fetch = (va: bigint) =>
        this.wasm.walk(cpu, BigInt.asIntN(64, va), AccessKind.FETCH | AccessKind.USER);
      const w = fetch(s.rip);
      if (w !== 0) {
        o.vector = 14;
        o.errorCode = w & 0xff;
        o.cr2 = s.rip;
        o.rflags = readEflags(s) | 0x10000;
        return;
      }
      const at = this.ram + CODE_PAGES + Number(s.rip) - CODE_BASE;
      const end = this.ram + CODE_PAGES + CODE_SIZE;
      if (this.memory.u8[at] === INT3) {
        o.vector = 3;
        return;
      }
      const st = this.decoder.decode(this.memory.u8, at, end, mode);
      if (st === DecodeStatus.NEEDS_MORE) {
        o.vector = 14;
        o.errorCode = 0x14;
        o.cr2 = BigInt(CODE_BASE + CODE_SIZE);
        o.rflags = readEflags(s) | 0x10000;
        return;
      }
      const off = Number(s.rip & 0xfffn);
      s.pageRip = s.rip - BigInt(off);
      const rec = cpu + SCRATCH_RECORDS_OFFSET;
      const next = this.cache.writeRecords(rec, off, mode);
      this.cache.stepEnd(next, off + this.decoder.length);
      const start = s.rip;
      s.leave = 0;
      this.wasm.enterRecord(cpu, rec);
      const { leave } = s;
      s.leave = 0;
      switch (leave) {
        case Leave.STEP:
          break;
        case Leave.DECODE:
          break;
        case Leave.POLL:
          break;
        case Leave.FAULT:
          s.rip = start;
          o.vector = s.faultVector;
          o.errorCode = s.faultCode === FAULT_NO_ERROR_CODE ? 0 : s.faultCode;
          if (o.vector === 14) o.cr2 = s.cr2;
          o.rflags = readEflags(s) | 0x10000;
          return;
        case Leave.SYSTEM:
          o.vector = UNSUPPORTED;
          reason = SYSTEM_OPERATION_NAMES[s.leaveDetail & 0xff];
          return;
        default:
          throw new Error(`leave ${leave}`);
      }
    }
    o.vector = TIMED_OUT;
  }
  loadFx(fx: Uint8Array): void {
    const s = this.state,
      v = new DataView(fx.buffer, fx.byteOffset, FX_SIZE);
    s.fcw = v.getUint16(0, true);
    const fsw = v.getUint16(2, true);
    s.fsw = fsw & ~0x3800;
    s.ftop = (fsw >> 11) & 7;
    s.ftag = fx[4];
    s.mxcsr = v.getUint32(24, true);
    s.fpuPending = (fsw & 0x80) !== 0 ? 1 : 0;
    const fpr = new Uint8Array(s.fpr.buffer, s.fpr.byteOffset, 128);
    for (let i = 0; i < 8; i++) fpr.set(fx.subarray(32 + 16 * i, 48 + 16 * i), 16 * ((i + s.ftop) & 7));
    new Uint8Array(s.xmm.buffer, s.xmm.byteOffset, 256).set(fx.subarray(160, 416));
  }
  storeFx(): void {
    const s = this.state,
      fx = this.outcome.fx,
      v = new DataView(fx.buffer);
    v.setUint16(0, s.fcw, true);
    v.setUint16(2, s.fsw | (s.ftop << 11), true);
    fx[4] = s.ftag;
    v.setUint32(24, s.mxcsr, true);
    const fpr = new Uint8Array(s.fpr.buffer, s.fpr.byteOffset, 128);
    for (let i = 0; i < 8; i++)
      fx.set(fpr.subarray(16 * ((i + s.ftop) & 7), 16 * ((i + s.ftop) & 7) + 16), Fx.ST + 16 * i);
    fx.set(new Uint8Array(s.xmm.buffer, s.xmm.byteOffset, 256), 160);
  }
}
export { PAGE };
