/**
 * A writer of AML, the byte code of definition blocks: ACPI 6.5, chapter 20. Each function makes one term;
 * terms are plain bytes and are put together by nesting the calls, so a table reads like the ASL it stands
 * for.
 */

/** The bytes of one AML term. */
export type Aml = Uint8Array;

/** What can stand for data: integers, ASCII strings, and terms made by the functions below. */
export type AmlValue = number | bigint | string | Aml;

/** Opcodes and prefixes, ACPI 6.5, 20.3. */
const Op = {
  ZERO: 0x00,
  ONE: 0x01,
  NAME: 0x08,
  BYTE_PREFIX: 0x0a,
  WORD_PREFIX: 0x0b,
  DWORD_PREFIX: 0x0c,
  STRING_PREFIX: 0x0d,
  QWORD_PREFIX: 0x0e,
  SCOPE: 0x10,
  BUFFER: 0x11,
  PACKAGE: 0x12,
  METHOD: 0x14,
  DUAL_NAME_PREFIX: 0x2e,
  MULTI_NAME_PREFIX: 0x2f,
  EXTENDED: 0x5b,
  ARG0: 0x68,
  OR: 0x7d,
  CREATE_DWORD_FIELD: 0x8a,
  LNOT: 0x92,
  LEQUAL: 0x93,
  IF: 0xa0,
  ELSE: 0xa1,
  RETURN: 0xa4,
} as const;
/** After `Op.EXTENDED`. */
const EXTENDED_DEVICE = 0x82;

const NAME_SEGMENT = /^[A-Z_][A-Z0-9_]{0,3}$/;
const NAME_PATH = /^(\\|\^*)(.*)$/;
/** Elements of a Package; more need VarPackage. */
const PACKAGE_LIMIT = 255;
const MAX_PACKAGE_LENGTH = (1 << 28) - 1;

export function concat(...parts: readonly Aml[]): Aml {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

function bytes(...values: readonly number[]): Aml {
  return Uint8Array.from(values);
}

function littleEndian(value: number | bigint, size: number): Aml {
  const result = new Uint8Array(size);
  let rest = BigInt(value);
  for (let i = 0; i < size; i++, rest >>= 8n) result[i] = Number(rest & 0xffn);
  return result;
}

/** A NameString: `\_SB.PCI0`, `^FOO`, `_HID`; segments are filled up with `_` to four characters (20.2.2). */
export function path(name: string): Aml {
  const [, prefix, rest] = NAME_PATH.exec(name) ?? [];
  const segments = rest === "" ? [] : rest.split(".");
  for (const segment of segments) {
    if (!NAME_SEGMENT.test(segment)) throw new RangeError(`"${name}" is no AML name`);
  }
  const head = ascii(prefix);
  const body = ascii(segments.map((segment) => segment.padEnd(4, "_")).join(""));
  if (segments.length === 0) return concat(head, bytes(0));
  if (segments.length === 1) return concat(head, body);
  if (segments.length === 2) return concat(head, bytes(Op.DUAL_NAME_PREFIX), body);
  return concat(head, bytes(Op.MULTI_NAME_PREFIX, segments.length), body);
}

function ascii(text: string): Aml {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** An integer in its shortest form (20.2.3). 0 to 2^64 - 1. */
export function integer(value: number | bigint): Aml {
  const big = BigInt(value);
  if (big < 0n || big >= 1n << 64n) throw new RangeError(`${value} is no AML integer`);
  if (big === 0n) return bytes(Op.ZERO);
  if (big === 1n) return bytes(Op.ONE);
  if (big <= 0xffn) return concat(bytes(Op.BYTE_PREFIX), littleEndian(big, 1));
  if (big <= 0xffffn) return concat(bytes(Op.WORD_PREFIX), littleEndian(big, 2));
  if (big <= 0xffffffffn) return concat(bytes(Op.DWORD_PREFIX), littleEndian(big, 4));
  return concat(bytes(Op.QWORD_PREFIX), littleEndian(big, 8));
}

/** A null-terminated string of ASCII characters 0x01 to 0x7F. */
export function string(text: string): Aml {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: this is the set that 20.2.3 names.
  if (!/^[\x01-\x7f]*$/.test(text)) throw new RangeError(`"${text}" is no AML string`);
  return concat(bytes(Op.STRING_PREFIX), ascii(text), bytes(0));
}

function term(value: AmlValue): Aml {
  if (typeof value === "string") return string(value);
  return value instanceof Uint8Array ? value : integer(value);
}

/**
 * `body` after its PkgLength, which counts itself (20.2.4): up to 63 in one byte; above, the low 4 bits in
 * the first byte, whose top 2 bits say how many bytes of 8 more bits each follow.
 */
export function withPackageLength(body: Aml): Aml {
  if (body.length + 1 <= 0x3f) return concat(bytes(body.length + 1), body);
  for (let following = 1; following <= 3; following++) {
    const length = body.length + 1 + following;
    if (length >= 1 << (4 + 8 * following)) continue;
    return concat(bytes((following << 6) | (length & 0xf)), littleEndian(length >>> 4, following), body);
  }
  throw new RangeError(`an AML package of ${body.length} bytes is longer than ${MAX_PACKAGE_LENGTH}`);
}

export function scope(name: string, ...terms: readonly Aml[]): Aml {
  return concat(bytes(Op.SCOPE), withPackageLength(concat(path(name), ...terms)));
}

export function device(name: string, ...terms: readonly Aml[]): Aml {
  return concat(bytes(Op.EXTENDED, EXTENDED_DEVICE), withPackageLength(concat(path(name), ...terms)));
}

export function name(objectName: string, value: AmlValue): Aml {
  return concat(bytes(Op.NAME), path(objectName), term(value));
}

/**
 * `serialized` is needed where the method creates named objects, so that it cannot be entered twice at a
 * time.
 */
export function method(
  methodName: string,
  { args = 0, serialized = false }: { args?: number; serialized?: boolean },
  ...terms: readonly Aml[]
): Aml {
  if (!(args >= 0 && args <= 7)) throw new RangeError("an AML method takes up to 7 arguments");
  const flags = args | (serialized ? 0b1000 : 0);
  return concat(bytes(Op.METHOD), withPackageLength(concat(path(methodName), bytes(flags), ...terms)));
}

/** Package, named so because `package` is a reserved word. */
export function pkg(...elements: readonly AmlValue[]): Aml {
  if (elements.length > PACKAGE_LIMIT)
    throw new RangeError(`an AML package holds up to ${PACKAGE_LIMIT} elements`);
  return concat(bytes(Op.PACKAGE), withPackageLength(concat(bytes(elements.length), ...elements.map(term))));
}

export function buffer(content: Uint8Array): Aml {
  return concat(bytes(Op.BUFFER), withPackageLength(concat(integer(content.length), content)));
}

/** ResourceTemplate: a buffer of resource descriptors (resources.ts) and the end tag (6.4.2.9). */
export function resourceTemplate(...descriptors: readonly Uint8Array[]): Aml {
  // An end tag's checksum of 0 means "treat as correct".
  return buffer(concat(...descriptors, bytes(0x79, 0)));
}

/** EISAID("PNP0A08"): three letters of 5 bits and four hexadecimal digits, high byte first (19.6, EISAID). */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new RangeError(`"${id}" is no EISA ID`);
  const letter = (i: number) => id.charCodeAt(i) - 0x40;
  const vendor = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  return bytes(Op.DWORD_PREFIX, vendor >> 8, vendor & 0xff, product >> 8, product & 0xff);
}

/**
 * ToUUID("aabbccdd-eeff-gghh-iijj-kkllmmnnoopp"): a buffer with the first three groups byte-swapped
 * (19.6, ToUUID).
 */
export function uuid(text: string): Aml {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text))
    throw new RangeError(`"${text}" is no UUID`);
  const raw = Buffer.from(text.replaceAll("-", ""), "hex");
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return buffer(Uint8Array.from(order, (i) => raw[i]));
}

export function arg(index: number): Aml {
  return bytes(Op.ARG0 + index);
}

export function returns(value: AmlValue): Aml {
  return concat(bytes(Op.RETURN), term(value));
}

/** Or (a, b, target). */
export function or(a: AmlValue, b: AmlValue, target: Aml): Aml {
  return concat(bytes(Op.OR), term(a), term(b), target);
}

export function equal(a: AmlValue, b: AmlValue): Aml {
  return concat(bytes(Op.LEQUAL), term(a), term(b));
}

export function not(a: AmlValue): Aml {
  return concat(bytes(Op.LNOT), term(a));
}

export function when(condition: Aml, ...terms: readonly Aml[]): Aml {
  return concat(bytes(Op.IF), withPackageLength(concat(condition, ...terms)));
}

/** Else; follows a `when`. */
export function otherwise(...terms: readonly Aml[]): Aml {
  return concat(bytes(Op.ELSE), withPackageLength(concat(...terms)));
}

/** CreateDWordField (source, byteIndex, name). */
export function createDwordField(source: Aml, byteIndex: number, fieldName: string): Aml {
  return concat(bytes(Op.CREATE_DWORD_FIELD), source, integer(byteIndex), path(fieldName));
}
