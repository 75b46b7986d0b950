/** A guest at whose console somebody types. */
import { type ChildProcess, spawn } from "node:child_process";
import { NLKT } from "../cli/nlkt.js";
import { tierOptions } from "../guest/guests.js";

export class Session {
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  /** All that the guest printed. */
  output = "";
  messages = "";
  #from = 0;
  #wake: () => void = () => {};

  /** `nlkt run args`. */
  constructor(args: readonly string[]) {
    this.child = spawn(process.execPath, [NLKT, "run", ...tierOptions, ...args], { stdio: "pipe" });
    this.child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      this.output += text;
      this.#wake();
    });
    this.child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.messages += text;
    });
    this.child.stdin!.on("error", () => {});
    this.ended = new Promise((resolve) => {
      this.child.on("close", (code) => {
        resolve(code);
        this.#wake();
      });
    });
  }

  /** Until the guest prints what matches, behind what was waited for before. Rejects where it ends without. */
  async expect(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.output.slice(this.#from));
      if (found !== null) {
        this.#from += found.index + found[0].length;
        return found;
      }
      if (this.child.exitCode !== null || this.child.signalCode !== null) {
        throw new Error(`ended without ${pattern}: ${this.output.slice(-3000)}${this.messages}`);
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  type(text: string): void {
    this.child.stdin!.write(text);
  }

  /** A command of the shell; resolves to what it prints. Rejects where its status is not 0. */
  async command(text: string): Promise<string> {
    this.#counter++;
    // Not as it is typed, so that its echo is not taken for its end.
    this.type(`${text}; echo "=""END ${this.#counter} $?"\n`);
    const [, output, status] = await this.expect(new RegExp(`([\\s\\S]*)=END ${this.#counter} (\\d+)`));
    if (status !== "0") throw new Error(`${text}: status ${status}: ${output}`);
    return output;
  }
  #counter = 0;

  /** As the user root, who has no password. */
  async login(): Promise<void> {
    await this.expect(/login: /);
    this.type("root\n");
    await this.expect(/root@debian:~# /);
    this.type("stty -echo; PS1=\n");
  }
}
