/** All structures of the ABI. */
import * as run from "./run-struct.js";
import { type Fields, Struct } from "./struct.js";
import * as vcpu from "./vcpu-structs.js";
import * as vm from "./vm-structs.js";

export * from "./run-struct.js";
export * from "./vcpu-structs.js";
export * from "./vm-structs.js";

/** Every structure that has a name of its own in the headers. */
export const STRUCTS: readonly Struct<Fields>[] = [vcpu, run, vm]
  .flatMap((module) => Object.values<unknown>(module))
  .filter((value) => value instanceof Struct);
