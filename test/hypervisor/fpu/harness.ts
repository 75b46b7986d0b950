/** Builds a module of shared functions over a memory with one vCPU state, for tests that call them one by one. */

import type { SharedFunction } from "../../../src/hypervisor/soft/isa/context.js";
import { VCPU_STATE, type VcpuState } from "../../../src/hypervisor/soft/vcpu-state.js";
import type { ValType } from "../../../src/hypervisor/soft/wasm/expr.js";
import {
  type FuncRef,
  type FunctionBuilder,
  ModuleBuilder,
} from "../../../src/hypervisor/soft/wasm/module.js";
import { SharedMemory } from "../../../src/memory/shared-memory.js";

export const CPU_ADDRESS = 4096;

// biome-ignore lint/suspicious/noExplicitAny: functions of all signatures are called by name
export type Call = (...args: (number | bigint)[]) => any;

export interface Functions {
  readonly memory: SharedMemory;
  readonly state: VcpuState;
  readonly call: Record<string, Call>;
  readonly bytes: Uint8Array;
}

export function addShared(module: ModuleBuilder): {
  use: <P extends readonly ValType[], R extends ValType | undefined>(
    g: SharedFunction<P, R>,
  ) => FuncRef<P, R>;
} {
  const made = new Map<string, FuncRef>();
  const use = <P extends readonly ValType[], R extends ValType | undefined>(
    g: SharedFunction<P, R>,
  ): FuncRef<P, R> => {
    let ref = made.get(g.name);
    if (ref === undefined) {
      ref = module.declare(g.name, g.params, g.result);
      made.set(g.name, ref);
      module.define(ref, (f: FunctionBuilder) => g.body(f, use));
    }
    return ref as FuncRef<P, R>;
  };
  return { use };
}

export function instantiate(functions: readonly SharedFunction[]): Functions {
  const memory = SharedMemory.create(1 << 20);
  const module = new ModuleBuilder(memory.size / 65536, 1);
  const { use } = addShared(module);
  for (const g of functions) module.export(use(g));
  const bytes = module.build({ names: true });
  const table = new WebAssembly.Table({ initial: 1, element: "anyfunc" });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes as Uint8Array<ArrayBuffer>), {
    env: { memory: memory.memory, table },
  });
  return {
    memory,
    state: VCPU_STATE.view(memory, CPU_ADDRESS),
    call: instance.exports as unknown as Record<string, Call>,
    bytes,
  };
}
