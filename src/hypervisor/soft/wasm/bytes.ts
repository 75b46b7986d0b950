/** Growable byte buffer with the number encodings of the WebAssembly binary format (core specification, 5.2). */
export class ByteWriter {
  #bytes: Uint8Array;
  length = 0;

  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
  }

  #reserve(count: number): void {
    if (this.length + count <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.length + count));
    grown.set(this.#bytes.subarray(0, this.length));
    this.#bytes = grown;
  }

  u8(value: number): void {
    if (this.length === this.#bytes.length) this.#reserve(1);
    this.#bytes[this.length++] = value;
  }

  bytes(source: Uint8Array): void {
    this.#reserve(source.length);
    this.#bytes.set(source, this.length);
    this.length += source.length;
  }

  /** Unsigned LEB128 of a value below 2^32. */
  leb(value: number): void {
    value >>>= 0;
    while (value >= 0x80) {
      this.u8((value & 0x7f) | 0x80);
      value >>>= 7;
    }
    this.u8(value);
  }

  /** Signed LEB128 of a 32-bit value. */
  sleb32(value: number): void {
    value |= 0;
    for (;;) {
      const byte = value & 0x7f;
      value >>= 7;
      if ((value === 0 && (byte & 0x40) === 0) || (value === -1 && (byte & 0x40) !== 0)) {
        this.u8(byte);
        return;
      }
      this.u8(byte | 0x80);
    }
  }

  /** Signed LEB128 of a 64-bit value. */
  sleb64(value: bigint): void {
    value = BigInt.asIntN(64, value);
    for (;;) {
      const byte = Number(value & 0x7fn);
      value >>= 7n;
      if ((value === 0n && (byte & 0x40) === 0) || (value === -1n && (byte & 0x40) !== 0)) {
        this.u8(byte);
        return;
      }
      this.u8(byte | 0x80);
    }
  }

  f32(value: number): void {
    this.bytes(new Uint8Array(new Float32Array([value]).buffer));
  }

  f64(value: number): void {
    this.bytes(new Uint8Array(new Float64Array([value]).buffer));
  }

  name(text: string): void {
    const utf8 = new TextEncoder().encode(text);
    this.leb(utf8.length);
    this.bytes(utf8);
  }

  /** Where locals are read or set: pairs of the place of an index and the local's number, which is not what goes there yet. */
  readonly locals: number[] = [];

  /** An instruction on a local. Its index is left out, for `FunctionBuilder.body` to fill in. */
  local(opcode: number, number: number): void {
    this.u8(opcode);
    this.locals.push(this.length, number);
  }

  take(): Uint8Array {
    return this.#bytes.subarray(0, this.length);
  }
}
