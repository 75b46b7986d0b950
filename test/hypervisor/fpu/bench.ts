/**
 * Runs single definitions through the cold tier's context: a module with a handler for each, a record with its operands,
 * and a data TLB that maps one area, so that no slow path is needed.
 */

import { ColdContext, type HandlerForm } from "../../../src/hypervisor/soft/cold/cold-context.js";
import { Runtime } from "../../../src/hypervisor/soft/cold/runtime.js";
import { formsOf } from "../../../src/hypervisor/soft/decode/forms.js";
import type { OpcodeRow, OperandCode } from "../../../src/hypervisor/soft/isa/opcode-table.js";
import {
  Cr0,
  DTLB_ENTRIES,
  Dtlb,
  FpuTrap,
  fprOffset,
  gprOffset,
  O,
  RECORD_SIZE,
  Rec,
  VCPU_BYTES,
  VCPU_STATE,
  type VcpuState,
  xmmOffset,
} from "../../../src/hypervisor/soft/vcpu-state.js";
import { type FuncRef, ModuleBuilder } from "../../../src/hypervisor/soft/wasm/module.js";
import { SharedMemory } from "../../../src/memory/shared-memory.js";

const CPU = 4096;
const RECORD = 1 << 20;
/** Guest-linear and linear-memory address of the area that memory operands are in. */
export const OPERAND_LINEAR = 0x7f00_0000_3000n;
const OPERAND_AT = 0x180000;
const PAGE = 4096;

export interface BenchInstruction {
  readonly row: OpcodeRow;
  readonly form: HandlerForm;
  /** Run it: operand numbers by position; the memory operand is at OPERAND_LINEAR. */
  run(...numbers: number[]): void;
}

/** Offset in the vCPU's state of register `n` of the kind that the operand code names. */
function registerOffset({ method }: OperandCode, n: number): number {
  if ("VWU".includes(method)) return xmmOffset(n);
  if ("PQN".includes(method)) return fprOffset(n);
  return gprOffset(n);
}

export class Bench {
  readonly memory = SharedMemory.create(2 << 20);
  readonly state: VcpuState = VCPU_STATE.view(this.memory, CPU);
  readonly operand: DataView;
  readonly instructions: BenchInstruction[] = [];

  constructor(rows: readonly OpcodeRow[], long = true) {
    const module = new ModuleBuilder(this.memory.size / 65536, 16);
    const runtime = new Runtime(module);
    const end = module.func("end", ["i32", "i32"], undefined, () => {});
    const pending: { name: string; row: OpcodeRow; form: HandlerForm }[] = [];
    for (const row of rows) {
      for (const { number, form } of formsOf(row)) {
        if (row.modal === true && form.long !== long) continue;
        const name = `${row.encoding}#${number}`;
        if (pending.some((p) => p.name === name)) continue;
        const f = module.declare(name, ["i32", "i32"]);
        module.define(f, (builder, cpu, rec) => {
          const context = new ColdContext(module, runtime, builder, cpu, rec, form);
          context.begin();
          row.definition(context);
          context.finish();
        });
        module.export(f as unknown as FuncRef);
        pending.push({ name, row, form });
      }
    }
    module.element(0, [end as unknown as FuncRef]);
    const table = new WebAssembly.Table({ initial: 16, element: "anyfunc" });
    const nothing = () => 0;
    const env: Record<string, WebAssembly.ImportValue> = { memory: this.memory.memory, table };
    for (const name of Object.keys(runtime.imports)) env[name] = nothing;
    const bytes = module.build({ names: true }) as Uint8Array<ArrayBuffer>;
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env });
    if (VCPU_BYTES > RECORD - CPU) throw new Error("the vCPU's state does not fit below the record");
    this.reset();
    const { data } = this.memory;
    data.setUint16(RECORD + Rec.base, O.zero, true);
    this.operand = new DataView(this.memory.memory.buffer, OPERAND_AT, PAGE);
    for (const { name, row, form } of pending) {
      const handler = exports[name] as (cpu: number, rec: number) => void;
      this.instructions.push({
        row,
        form,
        run: (...numbers) => {
          form.operands.forEach(({ kind }, i) => {
            const field = RECORD + [Rec.r0, Rec.r1, Rec.r2][i];
            if (kind === "number") data.setUint16(field, numbers[i], true);
            else if (kind === "reg") data.setUint16(field, registerOffset(row.operands[i], numbers[i]), true);
            else if (kind === "mem") data.setUint16(RECORD + Rec.base, O.ea, true);
          });
          this.state.leave = 0;
          handler(CPU, RECORD);
        },
      });
    }
    data.setUint32(RECORD + RECORD_SIZE + Rec.handler, 0, true);
  }

  /** The immediate of the instructions run from now on. */
  set immediate(value: number) {
    this.memory.data.setBigInt64(RECORD + Rec.imm, BigInt(value), true);
  }

  /** A vCPU in 64-bit mode that may run everything. */
  reset(): void {
    const { state } = this;
    VCPU_STATE.clear(this.memory, CPU);
    // No paging: a walk, as a probe makes it, finds every address.
    state.cr0 = BigInt(Cr0.PE | Cr0.NE | Cr0.MP);
    state.fpuTrap = FpuTrap.NONE;
    state.mxcsr = 0x1f80;
    state.fcw = 0x37f;
    state.codeMode = 2;
    state.ea = OPERAND_LINEAR;
    state.dtlb = CPU + 256 * 1024;
    const entry = state.dtlb + Number((OPERAND_LINEAR / BigInt(PAGE)) % BigInt(DTLB_ENTRIES)) * Dtlb.size;
    const { data } = this.memory;
    for (const { tag, addend } of [Dtlb.read, Dtlb.write]) {
      data.setBigUint64(entry + tag, OPERAND_LINEAR, true);
      data.setUint32(entry + addend, (OPERAND_AT - Number(OPERAND_LINEAR & 0xffffffffn)) >>> 0, true);
    }
  }
}
