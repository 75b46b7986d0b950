/** The other end of a control socket: asks running instances. */

import { readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { withDirectoryLock } from "./directory-lock.js";
import { isInstanceName } from "./instance-name.js";
import { encodeRequest, parseReply, type Request } from "./protocol.js";
import { runtimeDirectory } from "./runtime-directory.js";
import { isAlive, isSocket, removeIfStale, SOCKET_SUFFIX, socketFile } from "./socket-file.js";

/** There is no running instance of that name. */
export class NoInstanceError extends Error {
  override readonly name = "NoInstanceError";
  constructor(instance: string) {
    super(`there is no running instance ${instance}: \`nlkt list\` shows those that run`);
  }
}

/** An instance is there, and did not do what it was asked to. */
export class InstanceError extends Error {
  override readonly name = "InstanceError";
}

const REPLY_MILLISECONDS = 10_000;
/** Dumps of very many vCPUs are the longest. */
const MAX_REPLY_BYTES = 64 << 20;

const LINE_FEED = 0x0a;

/** Names of instances, alphabetically. What instances that died left behind is removed. */
export async function instanceNames(): Promise<string[]> {
  const directory = runtimeDirectory(false);
  if (directory === undefined) return [];
  const names = readdirSync(directory)
    .filter((entry) => entry.endsWith(SOCKET_SUFFIX))
    .map((entry) => entry.slice(0, -SOCKET_SUFFIX.length))
    .filter((name) => isInstanceName(name) && isSocket(`${directory}/${name}${SOCKET_SUFFIX}`));
  const alive = await Promise.all(names.map((name) => isAlive(socketFile(directory, name))));
  const stale = names.filter((_, i) => !alive[i]).map((name) => socketFile(directory, name));
  if (stale.length > 0) {
    await withDirectoryLock(directory, async () => {
      for (const file of stale) await removeIfStale(file);
    });
  }
  return names.filter((_, i) => alive[i]).sort();
}

/** What instance `name` replies to `request`. Throws `NoInstanceError` or `InstanceError`. */
export async function ask(
  name: string,
  request: Request,
  milliseconds = REPLY_MILLISECONDS,
): Promise<unknown> {
  const { socket, result } = await open(name, request, milliseconds);
  socket.destroy();
  return result;
}

/** Mirror the console of instance `name`: its bytes come and go over the socket. */
export async function openConsole(name: string): Promise<Socket> {
  const { socket } = await open(name, { command: "console" }, REPLY_MILLISECONDS);
  return socket;
}

async function open(
  name: string,
  request: Request,
  milliseconds: number,
): Promise<{ socket: Socket; result: unknown }> {
  const directory = runtimeDirectory(false);
  if (directory === undefined || !isInstanceName(name)) throw new NoInstanceError(name);
  const socket = connect(socketFile(directory, name));
  let line: string;
  try {
    line = await readLine(socket, encodeRequest(request), milliseconds);
  } catch (error) {
    socket.destroy();
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ECONNREFUSED") throw new NoInstanceError(name);
    throw new InstanceError(`${name}: ${message}`);
  }
  try {
    const reply = parseReply(line);
    if (reply.ok) return { socket, result: reply.result };
    throw new InstanceError(`${name}: ${reply.error}`);
  } catch (error) {
    socket.destroy();
    if (error instanceof InstanceError) throw error;
    throw new InstanceError(`${name}: gave an answer that is none; is it another version of NLKT?`);
  }
}

/** Send `request` and read a line; what comes after it stays in the socket. */
function readLine(socket: Socket, request: string, milliseconds: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const timer = setTimeout(
      () =>
        finish(new Error(`does not answer within ${milliseconds / 1000} s: its process hangs or is stopped`)),
      milliseconds,
    );
    // Not `data`: a stream that was paused by hand would not start to flow for its next reader.
    const onReadable = () => {
      for (let chunk: Buffer | null = socket.read(); chunk !== null; chunk = socket.read()) {
        const end = chunk.indexOf(LINE_FEED);
        chunks.push(end < 0 ? chunk : chunk.subarray(0, end));
        length += chunk.length;
        if (end >= 0) {
          finish();
          if (end + 1 < chunk.length) socket.unshift(chunk.subarray(end + 1));
          return;
        }
        if (length > MAX_REPLY_BYTES) {
          finish(new Error("gave an answer without end"));
          return;
        }
      }
    };
    const onEnd = () => finish(new Error("ended before it answered"));
    const onError = (error: Error) => finish(error);
    const finish = (error?: Error) => {
      clearTimeout(timer);
      socket.off("readable", onReadable).off("end", onEnd).off("error", onError);
      socket.on("error", () => {});
      if (error === undefined) resolve(Buffer.concat(chunks).toString("utf8"));
      else reject(error);
    };
    socket.on("readable", onReadable).on("end", onEnd).on("error", onError);
    socket.write(request);
  });
}
