/** A pseudo-terminal: the host's end of a serial port (`--tty`). POSIX, posix_openpt; x86-64 Linux for the numbers. */
import { closeSync, constants, openSync } from "node:fs";
import tty from "node:tty";
import koffi, { type LibraryHandle } from "koffi";

const O_RDWR = constants.O_RDWR;
const O_NOCTTY = constants.O_NOCTTY;
const TCSANOW = 0;
/** sizeof(struct termios) of glibc is 60. */
const TERMIOS_BYTES = 64;
const NAME_BYTES = 128;
/** Bytes of the guest that wait for a reader; what comes on top is lost, as on a serial line that nobody listens to. */
const MAX_PENDING = 64 * 1024;

export class Pty {
  /** What another program opens, `/dev/pts/3`. */
  readonly name: string;
  readonly #stream: tty.ReadStream & NodeJS.WritableStream;
  /** Held open, so that programs may come and go: without any, the master's reads fail. */
  readonly #slave: number;

  /** Throws an error of one line. */
  constructor(onInput: (bytes: Buffer) => void) {
    const libc = koffi.load(null);
    const openpt = libc.func("int posix_openpt(int)") as (flags: number) => number;
    const grantpt = libc.func("int grantpt(int)") as (fd: number) => number;
    const unlockpt = libc.func("int unlockpt(int)") as (fd: number) => number;
    const ptsname = libc.func("int ptsname_r(int, void *, size_t)") as (
      fd: number,
      name: Uint8Array,
      length: number,
    ) => number;
    const master = openpt(O_RDWR | O_NOCTTY);
    if (master < 0) throw new Error("no pseudo-terminal is left on this host");
    const name = Buffer.alloc(NAME_BYTES);
    if (grantpt(master) !== 0 || unlockpt(master) !== 0 || ptsname(master, name, NAME_BYTES) !== 0) {
      closeSync(master);
      throw new Error("this host's pseudo-terminals cannot be used");
    }
    this.name = name.toString("latin1", 0, name.indexOf(0));
    this.#slave = openSync(this.name, O_RDWR | O_NOCTTY);
    makeRaw(libc, this.#slave);
    this.#stream = new tty.ReadStream(master) as tty.ReadStream & NodeJS.WritableStream;
    this.#stream.on("data", onInput);
    this.#stream.on("error", () => {});
    this.#stream.unref();
  }

  write(bytes: Uint8Array): void {
    if ((this.#stream as unknown as tty.WriteStream).writableLength < MAX_PENDING) this.#stream.write(bytes);
  }

  /** Stop reading until `resume`. */
  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  close(): void {
    this.#stream.destroy();
    closeSync(this.#slave);
  }
}

/** No echo, no line discipline: a serial line. Programs that open it may set it up otherwise. */
function makeRaw(libc: LibraryHandle, fd: number): void {
  const termios = new Uint8Array(TERMIOS_BYTES);
  const get = libc.func("int tcgetattr(int, void *)") as (fd: number, to: Uint8Array) => number;
  const set = libc.func("int tcsetattr(int, int, void *)") as (
    fd: number,
    when: number,
    from: Uint8Array,
  ) => number;
  const raw = libc.func("void cfmakeraw(void *)") as (termios: Uint8Array) => void;
  if (get(fd, termios) !== 0) return;
  raw(termios);
  set(fd, TCSANOW, termios);
}
