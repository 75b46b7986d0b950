/** The keys that mean something to NLKT and not to the guest: Ctrl-a, then another one. */

const CTRL_A = 0x01;

export type EscapeAction = "quit" | "help";

const ACTIONS: Readonly<Record<string, EscapeAction>> = { x: "quit", h: "help", "?": "help" };

export const ESCAPE_HINT = "Ctrl-a x ends the machine, Ctrl-a h lists the keys";

export const ESCAPE_HELP = [
  "Ctrl-a x       end the machine",
  "Ctrl-a h       this list",
  "Ctrl-a Ctrl-a  send Ctrl-a to the guest",
];

export class EscapeKeys {
  #escaped = false;

  /** What of the typed `input` the guest gets, and what NLKT is asked to do. */
  feed(input: Uint8Array): { bytes: Uint8Array; actions: EscapeAction[] } {
    const bytes: number[] = [];
    const actions: EscapeAction[] = [];
    for (const byte of input) {
      if (!this.#escaped) {
        if (byte === CTRL_A) this.#escaped = true;
        else bytes.push(byte);
        continue;
      }
      this.#escaped = false;
      const action = ACTIONS[String.fromCharCode(byte)];
      if (byte === CTRL_A) bytes.push(CTRL_A);
      else if (action !== undefined) actions.push(action);
    }
    return { bytes: Uint8Array.from(bytes), actions };
  }
}
