/** Programs of the host that tests compare with. */
import { execFileSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import path from "node:path";

/** Whether a program is on the PATH. */
export function hasTool(name: string): boolean {
  return (process.env.PATH ?? "").split(path.delimiter).some((directory) => {
    try {
      accessSync(path.join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Feeds `input` to a program and returns its output. */
export function pipe(command: readonly [string, ...string[]], input: Uint8Array): Buffer {
  const [program, ...args] = command;
  return execFileSync(program, args, { input, maxBuffer: 2 ** 28, stdio: ["pipe", "pipe", "ignore"] });
}
