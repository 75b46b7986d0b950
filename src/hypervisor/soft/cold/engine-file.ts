/**
 * The cold tier's module, kept in a file beside the compiled code: emitting some 2,500 handlers takes longer than all else
 * that a machine's start needs. The file's name says which code it was made from.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildHandlerModule, type HandlerModule, handlerRows } from "./handler-module.js";

const SOFT_FOLDER = fileURLToPath(new URL("..", import.meta.url));
const PREFIX = ".cold-engine-";

/** Changes whenever a file of the software CPU does. */
function sourceKey(): string {
  const hash = createHash("sha256");
  for (const name of (readdirSync(SOFT_FOLDER, { recursive: true }) as string[]).sort()) {
    if (!name.endsWith(".js")) continue;
    const { size, mtimeMs } = statSync(join(SOFT_FOLDER, name));
    hash.update(`${name} ${size} ${mtimeMs}\n`);
  }
  return hash.digest("hex").slice(0, 16);
}

/** Lengths of the three parts, as u32, then the parts: handlers, writesMemory, module. */
const HEADER_BYTES = 16;

function encode({ handlers, writesMemory, bytes, count }: HandlerModule): Uint8Array {
  const out = new Uint8Array(HEADER_BYTES + handlers.byteLength + writesMemory.length + bytes.length);
  new Uint32Array(out.buffer, 0, 4).set([handlers.length, writesMemory.length, bytes.length, count]);
  out.set(new Uint8Array(handlers.buffer, handlers.byteOffset, handlers.byteLength), HEADER_BYTES);
  out.set(writesMemory, HEADER_BYTES + handlers.byteLength);
  out.set(bytes, HEADER_BYTES + handlers.byteLength + writesMemory.length);
  return out;
}

function decode(file: Uint8Array): HandlerModule | undefined {
  const data = file.slice();
  if (data.length < HEADER_BYTES) return undefined;
  const [handlers, writes, bytes, count] = new Uint32Array(data.buffer, 0, 4);
  if (data.length !== HEADER_BYTES + 2 * handlers + writes + bytes) return undefined;
  const at = HEADER_BYTES + 2 * handlers;
  return {
    rows: handlerRows(),
    handlers: new Uint16Array(data.buffer, HEADER_BYTES, handlers),
    writesMemory: data.subarray(at, at + writes),
    count,
    bytes: data.subarray(at + writes),
  };
}

/** The module: from its file, or emitted now and written there if that can be. */
export function loadHandlerModule(): HandlerModule {
  const name = `${PREFIX}${sourceKey()}`;
  const path = join(SOFT_FOLDER, name);
  try {
    const known = decode(readFileSync(path));
    if (known !== undefined) return known;
  } catch {
    // Not there yet.
  }
  const built = buildHandlerModule({ names: true });
  try {
    const temporary = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
    writeFileSync(temporary, encode(built));
    renameSync(temporary, path);
    for (const old of readdirSync(SOFT_FOLDER)) {
      if (old.startsWith(PREFIX) && !old.startsWith(name)) rmSync(join(SOFT_FOLDER, old), { force: true });
    }
  } catch {
    // Installed where this user cannot write: emitted at every start.
  }
  return built;
}
