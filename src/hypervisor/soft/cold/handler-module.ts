/**
 * The cold tier's wasm module: the runtime, and a handler for every form of every opcode row. Rows with the same
 * definition and operand forms share a handler.
 */

import { WASM_MEMORY_LIMIT, WASM_PAGE_SIZE } from "../../../memory/shared-memory.js";
import { FORMS_PER_ROW, formsOf } from "../decode/forms.js";
import type { OpcodeRow } from "../isa/opcode-table.js";
import { OPCODES, SPECIAL_ROWS } from "../isa/opcodes.js";
import { type FuncRef, ModuleBuilder } from "../wasm/module.js";
import { ColdContext } from "./cold-context.js";
import { flagEffects, packEffects } from "./flag-effects.js";
import { Runtime } from "./runtime.js";
import { defineSpecialHandlers } from "./special-handlers.js";

/** Room in the handler table; the module says how many places it uses. */
export const HANDLER_TABLE_SIZE = 16384;

export interface HandlerTable {
  readonly rows: readonly OpcodeRow[];
  /** Handler number by row × FORMS_PER_ROW + form; 0 where the form cannot be. */
  readonly handlers: Uint16Array;
  /** By handler number: whether the instruction writes its memory operand (0 or 1). */
  readonly writesMemory: Uint8Array;
  readonly count: number;
}

export interface HandlerModule extends HandlerTable {
  /** By handler number: what the instruction does to the flags (`packEffects`), for the hot tier. */
  readonly effects: Uint16Array;
  readonly bytes: Uint8Array;
}

/** All rows, in the order in which handlers are numbered. */
export function handlerRows(): readonly OpcodeRow[] {
  return [...OPCODES, ...SPECIAL_ROWS];
}

export function buildHandlerModule(options: { names?: boolean } = {}): HandlerModule {
  const module = new ModuleBuilder(WASM_MEMORY_LIMIT / WASM_PAGE_SIZE, HANDLER_TABLE_SIZE);
  const runtime = new Runtime(module);
  const table: FuncRef[] = defineSpecialHandlers(runtime);
  const rows = handlerRows();
  const handlers = new Uint16Array(rows.length * FORMS_PER_ROW);
  const writes: boolean[] = table.map(() => false);
  const effects: number[] = table.map(() => 0);
  const known = new Map<string, number>();
  const definitionIds = new Map<unknown, number>();
  rows.forEach((row, rowIndex) => {
    let id = definitionIds.get(row.definition);
    if (id === undefined) {
      id = definitionIds.size;
      definitionIds.set(row.definition, id);
    }
    for (const { number, form } of formsOf(row)) {
      const key = `${id} ${JSON.stringify(form)}`;
      let handler = known.get(key);
      if (handler === undefined) {
        handler = table.length;
        let writesMemory = false;
        const name = `${row.mnemonic}.${form.size}.${form.operands.map((o) => o.kind[0] + o.size).join("_")}`;
        const f = module.declare(name, ["i32", "i32"]);
        module.define(f, (builder, cpu, rec) => {
          const context = new ColdContext(module, runtime, builder, cpu, rec, form);
          context.begin();
          row.definition(context);
          context.finish();
          writesMemory = context.writesMemory;
        });
        table.push(f as unknown as FuncRef);
        writes.push(writesMemory);
        effects.push(packEffects(flagEffects(row.definition, form)));
        known.set(key, handler);
      }
      handlers[rowIndex * FORMS_PER_ROW + number] = handler;
    }
  });
  if (table.length > HANDLER_TABLE_SIZE) throw new Error(`${table.length} handlers do not fit the table`);
  module.element(0, table);
  return {
    rows,
    handlers,
    writesMemory: Uint8Array.from(writes, Number),
    effects: Uint16Array.from(effects),
    count: table.length,
    bytes: module.build(options),
  };
}
