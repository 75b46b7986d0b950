/** The keys that mean something to NLKT and not to the guest: Ctrl-a, then another one. */

const CTRL_A = 0x01;

/** What the key after Ctrl-a asks for. */
export type EscapeActions<A extends string> = Readonly<Record<string, A>>;

/** The keys of `nlkt run`. */
export const RUN_KEYS: EscapeActions<"quit" | "help"> = { x: "quit", h: "help", "?": "help" };

export const ESCAPE_HINT = "Ctrl-a x ends the machine, Ctrl-a h lists the keys";

export const ESCAPE_HELP = [
  "Ctrl-a x       end the machine",
  "Ctrl-a h       this list",
  "Ctrl-a Ctrl-a  send Ctrl-a to the guest",
];

/** The keys of `nlkt console`. */
export const CONSOLE_KEYS: EscapeActions<"detach" | "help"> = { d: "detach", h: "help", "?": "help" };

export const CONSOLE_HINT = "Ctrl-a d detaches, Ctrl-a h lists the keys";

export const CONSOLE_HELP = [
  "Ctrl-a d       detach; the machine goes on",
  "Ctrl-a h       this list",
  "Ctrl-a Ctrl-a  send Ctrl-a to the guest",
];

export class EscapeKeys<A extends string> {
  readonly #actions: EscapeActions<A>;
  #escaped = false;

  constructor(actions: EscapeActions<A>) {
    this.#actions = actions;
  }

  /** What of the typed `input` the guest gets, and what NLKT is asked to do. */
  feed(input: Uint8Array): { bytes: Uint8Array; actions: A[] } {
    const bytes: number[] = [];
    const actions: A[] = [];
    for (const byte of input) {
      if (!this.#escaped) {
        if (byte === CTRL_A) this.#escaped = true;
        else bytes.push(byte);
        continue;
      }
      this.#escaped = false;
      const action = this.#actions[String.fromCharCode(byte)];
      if (byte === CTRL_A) bytes.push(CTRL_A);
      else if (action !== undefined) actions.push(action);
    }
    return { bytes: Uint8Array.from(bytes), actions };
  }
}
