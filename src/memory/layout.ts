/**
 * Declared layouts of shared state (DESIGN, law 2).
 *
 * A `Layout` names the fields of a record in shared memory, computes C-like offsets, and makes views:
 * objects whose properties read and write that memory. Any thread can make a view of the same record.
 */
import type { SharedMemory } from "./shared-memory.js";

export type ScalarType = "u8" | "u16" | "u32" | "i32" | "u64" | "f64";

const SCALAR_SIZE: Record<ScalarType, number> = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, f64: 8 };

type ScalarValue<T extends ScalarType> = T extends "u64" ? bigint : number;

interface ArrayOf {
  u8: Uint8Array;
  u16: Uint16Array;
  u32: Uint32Array;
  i32: Int32Array;
  u64: BigUint64Array;
  f64: Float64Array;
}

/** A field that is `length` scalars in a row; its view property is a typed array over the shared memory. */
export interface ArrayField<T extends ScalarType = ScalarType> {
  readonly of: T;
  readonly length: number;
}

export function array<T extends ScalarType>(of: T, length: number): ArrayField<T> {
  return { of, length };
}

export type FieldType = ScalarType | ArrayField;
export type Fields = Record<string, FieldType>;

export type FieldView<T> = T extends ScalarType
  ? ScalarValue<T>
  : T extends ArrayField<infer S>
    ? ArrayOf[S]
    : never;

/** The view of a record: a property a field, plus `address`, its byte offset in the shared memory. */
export type View<F extends Fields> = { -readonly [K in keyof F]: FieldView<F[K]> } & {
  readonly address: number;
};

/** The view type of a `Layout` value: `type UartState = ViewOf<typeof UART_STATE>`. */
export type ViewOf<L> = L extends Layout<infer F> ? View<F> : never;

export class Layout<F extends Fields> {
  /** Size in bytes, a multiple of `align`. */
  readonly size: number;
  readonly align: number;
  /** Byte offset of every field. */
  readonly offset: { readonly [K in keyof F]: number };
  readonly #prototype: object;

  constructor(
    readonly name: string,
    readonly fields: F,
  ) {
    const offset: Record<string, number> = {};
    let at = 0;
    let align = 4;
    for (const [field, type] of Object.entries(fields)) {
      const scalar = typeof type === "string" ? type : type.of;
      const unit = SCALAR_SIZE[scalar];
      at = alignUp(at, unit);
      offset[field] = at;
      at += unit * (typeof type === "string" ? 1 : type.length);
      align = Math.max(align, unit);
    }
    this.align = align;
    this.size = alignUp(at, align);
    this.offset = offset as { [K in keyof F]: number };
    this.#prototype = makePrototype(fields, offset);
  }

  /** A view of the record at byte offset `address` of `memory`. */
  view(memory: SharedMemory, address: number): View<F> {
    if (address % this.align !== 0) throw new RangeError(`${this.name}: misaligned state at ${address}`);
    const view = Object.create(this.#prototype) as { m: SharedMemory; address: number };
    view.m = memory;
    view.address = address;
    return view as unknown as View<F>;
  }

  /** Set every byte of the record to zero. */
  clear(memory: SharedMemory, address: number): void {
    memory.u8.fill(0, address, address + this.size);
  }
}

interface Based {
  readonly m: SharedMemory;
  readonly address: number;
}

function makePrototype(fields: Fields, offsets: Record<string, number>): object {
  const properties: PropertyDescriptorMap = {};
  for (const [field, type] of Object.entries(fields)) {
    properties[field] = {
      enumerable: true,
      ...(typeof type === "string"
        ? scalarProperty(type, offsets[field])
        : arrayProperty(field, type, offsets[field])),
    };
  }
  return Object.defineProperties({}, properties);
}

function scalarProperty(type: ScalarType, offset: number): PropertyDescriptor & ThisType<Based> {
  switch (type) {
    case "u8":
      return {
        get() {
          return this.m.u8[this.address + offset];
        },
        set(value: number) {
          this.m.u8[this.address + offset] = value;
        },
      };
    case "u16":
      return {
        get() {
          return this.m.u16[(this.address + offset) >>> 1];
        },
        set(value: number) {
          this.m.u16[(this.address + offset) >>> 1] = value;
        },
      };
    case "u32":
      return {
        get() {
          return this.m.u32[(this.address + offset) >>> 2];
        },
        set(value: number) {
          this.m.u32[(this.address + offset) >>> 2] = value;
        },
      };
    case "i32":
      return {
        get() {
          return this.m.i32[(this.address + offset) >>> 2];
        },
        set(value: number) {
          this.m.i32[(this.address + offset) >>> 2] = value;
        },
      };
    case "u64":
      return {
        get() {
          return this.m.u64[(this.address + offset) >>> 3];
        },
        set(value: bigint) {
          this.m.u64[(this.address + offset) >>> 3] = value;
        },
      };
    case "f64":
      return {
        get() {
          return this.m.f64[(this.address + offset) >>> 3];
        },
        set(value: number) {
          this.m.f64[(this.address + offset) >>> 3] = value;
        },
      };
  }
}

function arrayProperty(
  field: string,
  type: ArrayField,
  offset: number,
): PropertyDescriptor & ThisType<Based> {
  return {
    get() {
      const values = this.m.array(type.of, this.address + offset, type.length);
      // Made once a view: later reads find the typed array as an own property.
      Object.defineProperty(this, field, { value: values, enumerable: true });
      return values;
    },
  };
}

export function alignUp(value: number, align: number): number {
  return Math.ceil(value / align) * align;
}
