/**
 * What goes over an instance's control socket: a line of JSON a request, a line of JSON a reply (docs/control.md).
 *
 *   {"version":1,"command":"nmi","cpu":0}
 *   {"version":1,"ok":true,"result":null}
 *   {"version":1,"ok":false,"error":"there is no vCPU 7: the machine has 0 to 1"}
 */

export const PROTOCOL_VERSION = 1;
/** Bytes of a request, its newline not counted. */
export const MAX_REQUEST_BYTES = 4096;

export const INSTANCE_STATES = ["starting", "running", "paused", "ended"] as const;
export type InstanceState = (typeof INSTANCE_STATES)[number];

/** `info`: what `nlkt list` shows. */
export interface InstanceInfo {
  readonly name: string;
  readonly pid: number;
  readonly state: InstanceState;
  readonly accel: string;
  readonly cpus: number;
  /** Guest RAM. */
  readonly memoryBytes: number;
  /** Since the machine was started; 0 before. */
  readonly uptimeSeconds: number;
  /** Path of the kernel's file. */
  readonly kernel: string;
}

export interface VcpuStats {
  readonly id: number;
  /** Times that the guest was left, by cause: the names of KVM_EXIT_*. */
  readonly exits: Readonly<Record<string, number>>;
  /** What the provider counts. */
  readonly counters: Readonly<Record<string, number>>;
}

/** `stat`. */
export interface InstanceStats extends InstanceInfo {
  /** Tiers of the software CPU that may run; for `soft`. */
  readonly tier?: string;
  readonly vcpus: readonly VcpuStats[];
  readonly memory: MemoryStats;
}

export interface MemoryStats {
  /** Guest RAM. */
  readonly totalBytes: number;
  /** Of it, what the host has given pages to; absent where the host does not say. */
  readonly residentBytes?: number;
  /** Where the machine has a balloon. */
  readonly balloon?: BalloonInfo;
}

export interface BalloonInfo {
  /** How much the guest is asked to do without, and does without. */
  readonly wantedBytes: number;
  readonly actualBytes: number;
  /** What the guest's driver tells of its memory: bytes, or a number of events (VIRTIO 5.5.6.3). */
  readonly guest: Readonly<Record<string, number>>;
}

/** A request whose command is known and whose fields are right. */
export type Request =
  | { readonly command: "info" | "stat" | "pause" | "resume" | "stop" | "dump" | "locks" | "console" }
  | { readonly command: "nmi"; readonly cpu: number }
  | { readonly command: "sysrq"; readonly key: string }
  | { readonly command: "balloon"; readonly change: number };

export type CommandName = Request["command"];

export type Reply =
  | { readonly version: number; readonly ok: true; readonly result: unknown }
  | { readonly version: number; readonly ok: false; readonly error: string };

/** A request that cannot be understood; the message goes back to the client. */
export class RequestError extends Error {
  override readonly name = "RequestError";
}

const MAX_CPU = 0xffff;
/** MiB: more than any machine has. */
const MAX_BALLOON_CHANGE = 2 ** 30;
/** Keys of the magic SysRq (Linux, Documentation/admin-guide/sysrq.rst). */
export function isSysrqKey(text: string): boolean {
  return /^[0-9a-zA-Z?]$/.test(text);
}

type Fields = Readonly<Record<string, unknown>>;

/** What each command takes, checked. */
const COMMANDS: { readonly [N in CommandName]: (fields: Fields) => Request & { command: N } } = {
  info: () => ({ command: "info" }),
  stat: () => ({ command: "stat" }),
  pause: () => ({ command: "pause" }),
  resume: () => ({ command: "resume" }),
  stop: () => ({ command: "stop" }),
  dump: () => ({ command: "dump" }),
  locks: () => ({ command: "locks" }),
  console: () => ({ command: "console" }),
  nmi: ({ cpu }) => {
    if (typeof cpu !== "number" || !Number.isInteger(cpu) || cpu < 0 || cpu > MAX_CPU) {
      throw new RequestError("cpu: not the number of a vCPU");
    }
    return { command: "nmi", cpu };
  },
  sysrq: ({ key }) => {
    if (typeof key !== "string" || !isSysrqKey(key)) throw new RequestError("key: not a letter or digit");
    return { command: "sysrq", key };
  },
  balloon: ({ change }) => {
    if (typeof change !== "number" || !Number.isInteger(change) || Math.abs(change) > MAX_BALLOON_CHANGE) {
      throw new RequestError("change: not a whole number of MiB");
    }
    return { command: "balloon", change };
  },
};

/** The request that the bytes of a line are. Throws `RequestError`. */
export function parseRequest(line: Uint8Array): Request {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(line));
  } catch {
    throw new RequestError("not a line of JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new RequestError("not a JSON object");
  }
  const fields = value as Fields;
  if (fields.version !== PROTOCOL_VERSION)
    throw new RequestError(`version: this is version ${PROTOCOL_VERSION}`);
  const { command } = fields;
  if (typeof command !== "string" || !Object.hasOwn(COMMANDS, command)) {
    throw new RequestError(`command: not one of ${Object.keys(COMMANDS).join(", ")}`);
  }
  return COMMANDS[command as CommandName](fields);
}

export function encodeRequest(request: Request): string {
  return `${JSON.stringify({ version: PROTOCOL_VERSION, ...request })}\n`;
}

export function encodeResult(result: unknown): string {
  return `${JSON.stringify({ version: PROTOCOL_VERSION, ok: true, result: result ?? null } satisfies Reply)}\n`;
}

export function encodeError(error: string): string {
  return `${JSON.stringify({ version: PROTOCOL_VERSION, ok: false, error } satisfies Reply)}\n`;
}

/** Throws an error where `line` is no reply. */
export function parseReply(line: string): Reply {
  const value = JSON.parse(line) as Partial<Record<"version" | "ok" | "result" | "error", unknown>> | null;
  if (value?.version !== PROTOCOL_VERSION || typeof value.ok !== "boolean") throw new Error("not a reply");
  if (value.ok) return { version: PROTOCOL_VERSION, ok: true, result: value.result };
  return { version: PROTOCOL_VERSION, ok: false, error: String(value.error) };
}
