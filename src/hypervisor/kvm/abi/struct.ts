/**
 * C structures as declarations: fields in C's order, offsets and sizes computed as the x86-64 System V ABI lays them out
 * (psABI 3.1.2), values read and written as plain objects. u64 and s64 are bigint, everything smaller is number.
 */

export type Scalar = "u8" | "u16" | "u32" | "s32" | "u64" | "s64";

const SCALAR_SIZE: Readonly<Record<Scalar, number>> = { u8: 1, u16: 2, u32: 4, s32: 4, u64: 8, s64: 8 };

export type FieldType = Scalar | Bytes | ArrayType<FieldType> | Struct<Fields> | Union<Fields>;
export type Fields = Readonly<Record<string, FieldType>>;

/** What a field of that type reads as. */
export type ValueOf<T> = T extends "u64" | "s64"
  ? bigint
  : T extends Scalar
    ? number
    : T extends Bytes
      ? Uint8Array
      : T extends ArrayType<infer E>
        ? ValueOf<E>[]
        : T extends Struct<infer F>
          ? { -readonly [K in keyof F]: ValueOf<F[K]> }
          : T extends Union<infer F>
            ? { -readonly [K in keyof F]: ValueOf<F[K]> }
            : never;

/** What a field of that type may be written from: what is left out is zero; of a union, one member. */
export type InputOf<T> = T extends "u64" | "s64"
  ? bigint
  : T extends Scalar
    ? number
    : T extends Bytes
      ? Uint8Array
      : T extends ArrayType<infer E>
        ? readonly InputOf<E>[]
        : T extends Struct<infer F>
          ? { readonly [K in keyof F]?: InputOf<F[K]> }
          : T extends Union<infer F>
            ? { readonly [K in keyof F]?: InputOf<F[K]> }
            : never;

/** A field of `size` bytes that is read as bytes. */
export class Bytes {
  readonly align = 1;
  constructor(readonly size: number) {}
}

/** `length` elements of one type in a row. */
export class ArrayType<T extends FieldType> {
  readonly size: number;
  readonly align: number;
  constructor(
    readonly of: T,
    readonly length: number,
  ) {
    this.size = sizeOf(of) * length;
    this.align = alignOf(of);
  }
}

export function bytes(size: number): Bytes {
  return new Bytes(size);
}

export function array<T extends FieldType>(of: T, length: number): ArrayType<T> {
  return new ArrayType(of, length);
}

/** A C structure, by the name it has in the header. */
export class Struct<F extends Fields> {
  readonly size: number;
  readonly align: number;
  /** Byte offset of every field. */
  readonly offset: { readonly [K in keyof F]: number };

  constructor(
    readonly name: string,
    readonly fields: F,
  ) {
    const offset: Record<string, number> = {};
    let at = 0;
    let align = 1;
    for (const [name, type] of Object.entries(fields)) {
      const unit = alignOf(type);
      at = Math.ceil(at / unit) * unit;
      offset[name] = at;
      at += sizeOf(type);
      align = Math.max(align, unit);
    }
    this.align = align;
    this.size = Math.ceil(at / align) * align;
    this.offset = offset as { readonly [K in keyof F]: number };
  }

  /** The structure at `at` of `data`, as an object. */
  read(data: DataView, at = 0): ValueOf<Struct<F>> {
    return readFields(this.fields, this.offset, data, at) as ValueOf<Struct<F>>;
  }

  /** Write `value` at `at` of `data`; fields left out become zero. */
  write(data: DataView, value: InputOf<Struct<F>>, at = 0): void {
    new Uint8Array(data.buffer, data.byteOffset + at, this.size).fill(0);
    writeFields(this.fields, this.offset, data, value as Input, at);
  }

  decode(source: Uint8Array, at = 0): ValueOf<Struct<F>> {
    return this.read(new DataView(source.buffer, source.byteOffset, source.byteLength), at);
  }

  /** A new buffer of the structure's size with `value` in it. */
  encode(value: InputOf<Struct<F>> = {} as InputOf<Struct<F>>): Uint8Array {
    const result = new Uint8Array(this.size);
    this.write(new DataView(result.buffer), value);
    return result;
  }
}

/** A C union; `anonymous` where C reaches its members by their own names. */
export class Union<F extends Fields> {
  readonly size: number;
  readonly align: number;
  constructor(
    readonly members: F,
    readonly anonymous: boolean,
  ) {
    const types = Object.values(members);
    this.align = Math.max(...types.map(alignOf));
    this.size = Math.ceil(Math.max(...types.map(sizeOf)) / this.align) * this.align;
  }
}

export function union<F extends Fields>(members: F): Union<F> {
  return new Union(members, false);
}

export function anonymousUnion<F extends Fields>(members: F): Union<F> {
  return new Union(members, true);
}

export function sizeOf(type: FieldType): number {
  return typeof type === "string" ? SCALAR_SIZE[type] : type.size;
}

function alignOf(type: FieldType): number {
  return typeof type === "string" ? SCALAR_SIZE[type] : type.align;
}

type Input = Readonly<Record<string, unknown>>;

function readFields(fields: Fields, offset: Readonly<Record<string, number>>, data: DataView, at: number) {
  const result: Record<string, unknown> = {};
  for (const [name, type] of Object.entries(fields)) result[name] = readField(type, data, at + offset[name]);
  return result;
}

function readField(type: FieldType, data: DataView, at: number): unknown {
  switch (type) {
    case "u8":
      return data.getUint8(at);
    case "u16":
      return data.getUint16(at, true);
    case "u32":
      return data.getUint32(at, true);
    case "s32":
      return data.getInt32(at, true);
    case "u64":
      return data.getBigUint64(at, true);
    case "s64":
      return data.getBigInt64(at, true);
  }
  if (type instanceof Bytes) return new Uint8Array(data.buffer, data.byteOffset + at, type.size).slice();
  if (type instanceof Struct) return readFields(type.fields, type.offset, data, at);
  if (type instanceof ArrayType) {
    const stride = sizeOf(type.of);
    return Array.from({ length: type.length }, (_, i) => readField(type.of, data, at + stride * i));
  }
  return Object.fromEntries(
    Object.entries(type.members).map(([name, member]) => [name, readField(member, data, at)]),
  );
}

function writeFields(
  fields: Fields,
  offset: Readonly<Record<string, number>>,
  data: DataView,
  value: Input,
  at: number,
): void {
  for (const [name, type] of Object.entries(fields)) {
    if (value[name] !== undefined) writeField(type, data, value[name], at + offset[name]);
  }
}

function writeField(type: FieldType, data: DataView, value: unknown, at: number): void {
  switch (type) {
    case "u8":
      data.setUint8(at, value as number);
      return;
    case "u16":
      data.setUint16(at, value as number, true);
      return;
    case "u32":
      data.setUint32(at, value as number, true);
      return;
    case "s32":
      data.setInt32(at, value as number, true);
      return;
    case "u64":
      data.setBigUint64(at, value as bigint, true);
      return;
    case "s64":
      data.setBigInt64(at, value as bigint, true);
      return;
  }
  if (type instanceof Bytes) {
    const source = (value as Uint8Array).subarray(0, type.size);
    new Uint8Array(data.buffer, data.byteOffset + at, type.size).set(source);
  } else if (type instanceof Struct) {
    writeFields(type.fields, type.offset, data, value as Input, at);
  } else if (type instanceof ArrayType) {
    const values = value as readonly unknown[];
    if (values.length > type.length) {
      throw new RangeError(`${values.length} elements do not fit into an array of ${type.length}`);
    }
    const stride = sizeOf(type.of);
    for (const [i, element] of values.entries()) writeField(type.of, data, element, at + stride * i);
  } else {
    for (const [name, member] of Object.entries(type.members)) {
      const chosen = (value as Input)[name];
      if (chosen !== undefined) writeField(member, data, chosen, at);
    }
  }
}

/** A structure followed by its flexible array, `entries` of it: `struct kvm_msrs` and its kind. */
export function encodeList<H extends Fields, E extends Fields>(
  header: Struct<H>,
  value: InputOf<Struct<H>>,
  entry: Struct<E>,
  entries: readonly InputOf<Struct<E>>[],
): Uint8Array {
  const result = new Uint8Array(header.size + entry.size * entries.length);
  const data = new DataView(result.buffer);
  header.write(data, value);
  for (const [i, element] of entries.entries()) entry.write(data, element, header.size + entry.size * i);
  return result;
}

/** `count` elements of the flexible array that follows `header` in `source`. */
export function decodeList<H extends Fields, E extends Fields>(
  header: Struct<H>,
  source: Uint8Array,
  entry: Struct<E>,
  count: number,
): ValueOf<Struct<E>>[] {
  return Array.from({ length: count }, (_, i) => entry.decode(source, header.size + entry.size * i));
}
