/**
 * Recognizes a Linux kernel's panic in what it prints on its console (Linux, kernel/panic.c, `panic`): with `panic=-1`
 * a panicked guest reboots, which is else no different from a reboot that it was told to make.
 */
const MARK = "Kernel panic - not syncing: ";
const MAX_LINE = 512;

export class PanicWatch {
  #line = "";
  #message: string | undefined;

  /** Look at more bytes of the console. */
  feed(bytes: Uint8Array): void {
    if (this.#message !== undefined) return;
    const lines = (
      this.#line + Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1")
    ).split("\n");
    const rest = lines.pop()!;
    for (const line of lines) {
      const at = line.indexOf(MARK);
      if (at >= 0) {
        this.#message = line.slice(at + MARK.length).trimEnd();
        return;
      }
    }
    this.#line = rest.slice(-MAX_LINE);
  }

  /** What the kernel panicked of. */
  get message(): string | undefined {
    return this.#message;
  }
}
