/** A first-in, first-out queue of bytes inside a layout: what a PS/2 device has to send. */

/** Bytes of state before the queue's own: index of the oldest byte, number of bytes. */
const HEAD = 0;
const COUNT = 1;
const HEADER = 2;

/** What to give `array("u8", …)` for a queue of `capacity` bytes, at most 255. */
export function queueSize(capacity: number): number {
  return HEADER + capacity;
}

export class Ps2Queue {
  readonly capacity: number;

  /** Over `queueSize` bytes of state; all zero is an empty queue. */
  constructor(readonly bytes: Uint8Array) {
    this.capacity = bytes.length - HEADER;
  }

  get length(): number {
    return this.bytes[COUNT];
  }

  /** Add a byte; one too many is dropped, as by a device whose buffer is full. */
  push(byte: number): void {
    const count = this.bytes[COUNT];
    if (count === this.capacity) return;
    this.bytes[HEADER + ((this.bytes[HEAD] + count) % this.capacity)] = byte;
    this.bytes[COUNT] = count + 1;
  }

  /** Take out the oldest byte. The queue may not be empty. */
  take(): number {
    const head = this.bytes[HEAD];
    this.bytes[HEAD] = (head + 1) % this.capacity;
    this.bytes[COUNT]--;
    return this.bytes[HEADER + head];
  }

  clear(): void {
    this.bytes[HEAD] = 0;
    this.bytes[COUNT] = 0;
  }
}
