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

/** Lengths in bytes of the four parts, and the number of handlers, as u32, then the parts. */
const HEADER_BYTES = 20;

function encode({ handlers, effects, writesMemory, bytes, count }: HandlerModule): Uint8Array {
  const parts = [handlers, effects, writesMemory, bytes].map(
    ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength),
  );
  const lengths = parts.map((part) => part.length);
  return Buffer.concat([new Uint8Array(new Uint32Array([...lengths, count]).buffer), ...parts]);
}

function decode(file: Uint8Array): HandlerModule | undefined {
  if (file.length < HEADER_BYTES) return undefined;
  const header = new Uint32Array(file.slice(0, HEADER_BYTES).buffer);
  const lengths = [...header.subarray(0, 4)];
  if (file.length !== lengths.reduce((a, b) => a + b, HEADER_BYTES)) return undefined;
  let at = HEADER_BYTES;
  // Copies, as the parts are not where their elements may be.
  const [handlers, effects, writesMemory, bytes] = lengths.map((length) => {
    at += length;
    return file.slice(at - length, at);
  });
  return {
    rows: handlerRows(),
    handlers: new Uint16Array(handlers.buffer, 0, handlers.length / 2),
    effects: new Uint16Array(effects.buffer, 0, effects.length / 2),
    writesMemory,
    count: header[4],
    bytes,
  };
}

/** The module: from its file, or emitted now and written there if that can be. */
export function loadHandlerModule(): HandlerModule {
  const name = `${PREFIX}${sourceKey()}`;
  const path = join(SOFT_FOLDER, name);
  try {
    const known = decode(new Uint8Array(readFileSync(path)));
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
