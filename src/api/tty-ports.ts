/** Serial ports that are pseudo-terminals of the host (`--tty`); they stay over a guest's reboots. */
import { Pty } from "../backends/terminal/pty.js";
import type { ConsoleRings } from "../machine/board.js";

const POLL_MILLISECONDS = 5;
const WAIT_MILLISECONDS = 1000;

/** A machine that lives now, as far as its serial ports go. */
export interface TtyMachine {
  readonly ttys: ReadonlyMap<number, ConsoleRings>;
  inputArrived(): void;
}

export class TtyPorts {
  readonly #ptys = new Map<number, Pty>();
  #machine: TtyMachine | undefined;

  /** Throws an error of one line. */
  constructor(ports: readonly number[]) {
    try {
      for (const port of ports) {
        this.#ptys.set(port, new Pty((bytes) => this.#input(port, bytes)));
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** What other programs open, by the serial port's number. */
  get names(): ReadonlyMap<number, string> {
    return new Map([...this.#ptys].map(([port, { name }]) => [port, name]));
  }

  /** Carry the bytes of a machine until `ended` resolves. */
  async carry(machine: TtyMachine, ended: Promise<unknown>): Promise<void> {
    this.#machine = machine;
    let over = false;
    void ended.then(() => {
      over = true;
      for (const { output } of machine.ttys.values()) output.wakeReader();
    });
    await Promise.all(
      [...machine.ttys].map(async ([port, { output }]) => {
        for (;;) {
          const last = over;
          const bytes = output.read();
          if (bytes.length > 0) this.#ptys.get(port)?.write(bytes);
          else if (last) return;
          else await output.readable(WAIT_MILLISECONDS);
        }
      }),
    );
  }

  #input(port: number, bytes: Buffer): void {
    const machine = this.#machine;
    const ring = machine?.ttys.get(port)?.input;
    if (machine === undefined || ring === undefined) return;
    const written = ring.write(bytes);
    if (written > 0) machine.inputArrived();
    if (written === bytes.length) return;
    const pty = this.#ptys.get(port);
    pty?.pause();
    setTimeout(() => {
      pty?.resume();
      this.#input(port, bytes.subarray(written));
    }, POLL_MILLISECONDS).unref();
  }

  close(): void {
    for (const pty of this.#ptys.values()) pty.close();
    this.#ptys.clear();
  }
}
