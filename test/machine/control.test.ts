/** The registry of instances and the control socket, with a machine that is none: names, files, modes, hostile clients. */
import assert from "node:assert/strict";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, afterEach, beforeEach, describe, test } from "node:test";
import { ask, instanceNames, NoInstanceError } from "../../src/machine/control/client.js";
import type { ControlTarget } from "../../src/machine/control/connection.js";
import { isInstanceName } from "../../src/machine/control/instance-name.js";
import {
  encodeRequest,
  MAX_REQUEST_BYTES,
  parseRequest,
  RequestError,
} from "../../src/machine/control/protocol.js";
import { NameTakenError, Registration } from "../../src/machine/control/registration.js";
import {
  RuntimeDirectoryError,
  runtimeDirectory,
  runtimeDirectoryPath,
} from "../../src/machine/control/runtime-directory.js";

const base = mkdtempSync(path.join(tmpdir(), "nlkt-test-"));
after(() => rmSync(base, { recursive: true, force: true }));

let count = 0;
let directory: string;
const before = process.env.XDG_RUNTIME_DIR;
beforeEach(() => {
  const runtime = path.join(base, `run-${count++}`);
  mkdirSync(runtime);
  process.env.XDG_RUNTIME_DIR = runtime;
  directory = path.join(runtime, "nlkt");
});
after(() => {
  if (before === undefined) delete process.env.XDG_RUNTIME_DIR;
  else process.env.XDG_RUNTIME_DIR = before;
});

const INFO = {
  name: "x",
  pid: 1,
  state: "running",
  accel: "soft",
  cpus: 1,
  memoryBytes: 1,
  uptimeSeconds: 1,
  kernel: "k",
} as const;

/** A machine that notes what it is asked to. */
function fakeTarget(over: Partial<ControlTarget> = {}) {
  const calls: string[] = [];
  const taps: ((bytes: Uint8Array) => void)[] = [];
  const note = (text: string) => async () => void calls.push(text);
  const target: ControlTarget = {
    info: () => INFO,
    stats: async () => ({ ...INFO, vcpus: [], memory: { totalBytes: 1 } }),
    pause: note("pause"),
    resume: note("resume"),
    stop: note("stop"),
    dump: async () => ["vCPU 0:"],
    locks: () => [],
    nmi: (cpu) => void calls.push(`nmi ${cpu}`),
    inflateBalloon: (change) => void calls.push(`balloon ${change}`),
    sysrq: async (key) => void calls.push(`sysrq ${key}`),
    tapConsole: (onOutput) => {
      taps.push(onOutput);
      return {
        write: (bytes, done) => {
          calls.push(`typed ${Buffer.from(bytes).toString("latin1")}`);
          done();
        },
        close: () => void calls.push("tap closed"),
      };
    },
    ...over,
  };
  return { target, calls, print: (text: string) => taps.forEach((tap) => void tap(Buffer.from(text))) };
}

const registered: Registration[] = [];
afterEach(() => {
  for (const one of registered.splice(0)) one.release();
});

async function claim(name: string, target = fakeTarget().target): Promise<Registration> {
  const registration = await Registration.claim(name, target);
  registered.push(registration);
  return registration;
}

/** A socket that a process left behind: bound, and nobody listens any more. */
async function leaveBehind(file: string): Promise<void> {
  const { linkSync, unlinkSync } = await import("node:fs");
  const server = createServer().listen(`${file}.live`);
  await once(server, "listening");
  linkSync(`${file}.live`, file);
  server.close();
  await once(server, "close");
  if (existsSync(`${file}.live`)) unlinkSync(`${file}.live`);
}

describe("where sockets are", () => {
  test("XDG_RUNTIME_DIR only where it is absolute and the user's own, else /run/user, else /tmp", () => {
    const uid = process.getuid!();
    const own = process.env.XDG_RUNTIME_DIR!;
    assert.equal(runtimeDirectoryPath({ XDG_RUNTIME_DIR: own }), path.join(own, "nlkt"));
    const others = runtimeDirectoryPath({});
    assert.ok(others === `/run/user/${uid}/nlkt` || others === `/tmp/nlkt-${uid}`, others);
    assert.equal(runtimeDirectoryPath({ XDG_RUNTIME_DIR: "relative" }), others);
    assert.equal(runtimeDirectoryPath({ XDG_RUNTIME_DIR: "/nonexistent" }), others);
    // Nobody has this number: every directory is another user's.
    assert.equal(runtimeDirectoryPath({ XDG_RUNTIME_DIR: own }, 4_000_000), "/tmp/nlkt-4000000");
  });

  test("the directory is made with mode 700", () => {
    assert.equal(runtimeDirectory(false), undefined);
    assert.equal(runtimeDirectory(true), directory);
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    assert.equal(runtimeDirectory(false), directory);
  });

  test("a directory that others can enter, a symbolic link or a file there is refused", () => {
    mkdirSync(directory);
    chmodSync(directory, 0o755);
    assert.throws(
      () => runtimeDirectory(true),
      new RuntimeDirectoryError(
        `${directory}: is open to other users (mode 755): see who put what there, then chmod 700 it`,
      ),
    );
    rmSync(directory, { recursive: true });
    const elsewhere = `${directory}-elsewhere`;
    mkdirSync(elsewhere, { mode: 0o700 });
    symlinkSync(elsewhere, directory);
    assert.throws(() => runtimeDirectory(true), /is no directory/);
    rmSync(directory);
    writeFileSync(directory, "");
    assert.throws(() => runtimeDirectory(false), /is no directory/);
  });

  test("names", () => {
    for (const good of ["a", "web-1", "A.b_c", "0", "x".repeat(64)]) assert.ok(isInstanceName(good), good);
    for (const bad of ["", ".", "..", "-a", ".a", "a/b", "a b", "ä", "a\n", "x".repeat(65)]) {
      assert.ok(!isInstanceName(bad), bad);
    }
  });
});

describe("registration", () => {
  test("a socket of mode 600 that goes with its instance, and nothing else", async () => {
    const one = await claim("one");
    assert.deepEqual(readdirSync(directory), ["one.sock"]);
    assert.equal(statSync(path.join(directory, "one.sock")).mode & 0o777, 0o600);
    assert.deepEqual(await instanceNames(), ["one"]);
    one.release();
    assert.deepEqual(readdirSync(directory), []);
  });

  test("a name that is taken", async () => {
    await claim("one");
    await assert.rejects(claim("one"), new NameTakenError("--name: there is a running instance one"));
    // The first has noticed nothing.
    assert.deepEqual(await instanceNames(), ["one"]);
    assert.deepEqual(await ask("one", { command: "info" }), INFO);
  });

  test("of many that want one name at once one gets it", async () => {
    for (let round = 0; round < 5; round++) {
      if (round % 2 === 1) await leaveBehind(path.join(directory, "one.sock"));
      const results = await Promise.allSettled(Array.from({ length: 8 }, () => claim("one")));
      const won = results.filter(({ status }) => status === "fulfilled");
      assert.equal(won.length, 1);
      assert.deepEqual(readdirSync(directory), ["one.sock"]);
      assert.deepEqual(await ask("one", { command: "info" }), INFO);
      registered.pop()!.release();
    }
  });

  test("what a dead process left behind is taken over, and cleared away by a list", async () => {
    mkdirSync(directory, { mode: 0o700 });
    await leaveBehind(path.join(directory, "dead.sock"));
    await leaveBehind(path.join(directory, "two.sock"));
    assert.deepEqual(readdirSync(directory).sort(), ["dead.sock", "two.sock"]);
    await claim("two");
    assert.deepEqual(await instanceNames(), ["two"]);
    assert.deepEqual(readdirSync(directory), ["two.sock"]);
  });

  test("what is no socket is let be", async () => {
    mkdirSync(directory, { mode: 0o700 });
    writeFileSync(path.join(directory, "file.sock"), "precious");
    writeFileSync(path.join(directory, "notes.txt"), "precious");
    assert.deepEqual(await instanceNames(), []);
    await assert.rejects(claim("file"), /file\.sock is in the way: it is no socket/);
    assert.deepEqual(readdirSync(directory).sort(), ["file.sock", "notes.txt"]);
  });

  test("a path that is too long for a socket", async () => {
    process.env.XDG_RUNTIME_DIR = path.join(base, "l".repeat(60));
    mkdirSync(process.env.XDG_RUNTIME_DIR);
    await assert.rejects(claim("n".repeat(64)), /the path of a socket has at most 107 bytes/);
  });

  test("nobody is there", async () => {
    await assert.rejects(ask("one", { command: "info" }), NoInstanceError);
    mkdirSync(directory, { mode: 0o700 });
    await assert.rejects(ask("one", { command: "info" }), NoInstanceError);
    await assert.rejects(ask("../one", { command: "info" }), NoInstanceError);
    await leaveBehind(path.join(directory, "one.sock"));
    await assert.rejects(ask("one", { command: "info" }), NoInstanceError);
  });

  test("one that does not answer, and one that talks nonsense", async () => {
    mkdirSync(directory, { mode: 0o700 });
    const sockets = new Set<Socket>();
    const serve = async (name: string, answer: string | undefined) => {
      const server = createServer((socket) => {
        sockets.add(socket);
        socket.on("error", () => {});
        if (answer !== undefined) socket.end(answer);
      }).listen(path.join(directory, `${name}.sock`));
      await once(server, "listening");
      return server;
    };
    const servers = [
      await serve("mute", undefined),
      await serve("shut", ""),
      await serve("odd", "hello\n"),
      await serve("old", '{"version":0,"ok":true}\n'),
      await serve("null", "null\n"),
    ];
    await assert.rejects(
      ask("mute", { command: "info" }, 100),
      /^InstanceError: mute: does not answer within 0\.1 s/,
    );
    await assert.rejects(ask("shut", { command: "info" }), /shut: ended before it answered/);
    for (const name of ["odd", "old", "null"]) {
      await assert.rejects(ask(name, { command: "info" }), /gave an answer that is none/);
    }
    for (const socket of sockets) socket.destroy();
    for (const server of servers) server.close();
  });
});

/** A client by hand. */
class Client {
  readonly socket: Socket;
  #text = "";
  readonly closed: Promise<unknown>;

  constructor(name = "one") {
    this.socket = connect({ path: path.join(directory, `${name}.sock`), allowHalfOpen: true });
    this.socket
      .on("error", () => {})
      .on("data", (chunk: Buffer) => {
        this.#text += chunk.toString("latin1");
      });
    this.closed = once(this.socket, "close");
  }

  /** All lines that have come once there are `count`. */
  async lines(count: number): Promise<unknown[]> {
    while (this.#text.split("\n").length <= count) {
      if (this.socket.destroyed) throw new Error(`closed after ${this.#text}`);
      await Promise.race([once(this.socket, "data"), this.closed]);
    }
    const lines = this.#text.split("\n");
    this.#text = lines.slice(count).join("\n");
    return lines.slice(0, count).map((line) => JSON.parse(line) as unknown);
  }

  get rest(): string {
    return this.#text;
  }
}

const ok = (result: unknown = null) => ({ version: 1, ok: true, result });
const failed = (error: string) => ({ version: 1, ok: false, error });

describe("the protocol", () => {
  test("every command does its own, in order, over one connection", async () => {
    const { target, calls } = fakeTarget();
    await claim("one", target);
    const client = new Client();
    const requests = [
      encodeRequest({ command: "info" }),
      encodeRequest({ command: "pause" }),
      encodeRequest({ command: "resume" }),
      encodeRequest({ command: "dump" }),
      encodeRequest({ command: "locks" }),
      encodeRequest({ command: "nmi", cpu: 3 }),
      encodeRequest({ command: "sysrq", key: "t" }),
      encodeRequest({ command: "balloon", change: -16 }),
      encodeRequest({ command: "stop" }),
    ];
    client.socket.write(requests.join(""));
    assert.deepEqual(await client.lines(9), [
      ok(INFO),
      ok(),
      ok(),
      ok(["vCPU 0:"]),
      ok([]),
      ok(),
      ok(),
      ok(),
      ok(),
    ]);
    assert.deepEqual(calls, ["pause", "resume", "nmi 3", "sysrq t", "balloon -16", "stop"]);
    client.socket.destroy();
  });

  test("a client that closes its side first gets its answer", async () => {
    await claim("one");
    const client = new Client();
    client.socket.end(encodeRequest({ command: "info" }));
    assert.deepEqual(await client.lines(1), [ok(INFO)]);
    client.socket.destroy();
  });

  test("a request byte by byte", async () => {
    await claim("one");
    const client = new Client();
    for (const byte of encodeRequest({ command: "info" })) {
      client.socket.write(byte);
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.deepEqual(await client.lines(1), [ok(INFO)]);
    client.socket.destroy();
  });

  test("bad requests get an error and do no harm", async () => {
    const { target, calls } = fakeTarget();
    await claim("one", target);
    const client = new Client();
    const bad: [line: string, error: RegExp][] = [
      ["", /not a line of JSON/],
      ["nonsense", /not a line of JSON/],
      ["\xff\xfe", /not a line of JSON/],
      ['"text"', /not a JSON object/],
      ["[1]", /not a JSON object/],
      ["null", /not a JSON object/],
      ['{"command":"info"}', /version: this is version 1/],
      ['{"version":2,"command":"info"}', /version: this is version 1/],
      ['{"version":1}', /command: not one of info, stat/],
      ['{"version":1,"command":"constructor"}', /command: not one of/],
      ['{"version":1,"command":"__proto__"}', /command: not one of/],
      ['{"version":1,"command":["info"]}', /command: not one of/],
      ['{"version":1,"command":"nmi"}', /cpu: not the number/],
      ['{"version":1,"command":"nmi","cpu":-1}', /cpu: not the number/],
      ['{"version":1,"command":"nmi","cpu":1.5}', /cpu: not the number/],
      ['{"version":1,"command":"nmi","cpu":1e99}', /cpu: not the number/],
      ['{"version":1,"command":"sysrq","key":"tt"}', /key: not a letter/],
      ['{"version":1,"command":"sysrq","key":"\\n"}', /key: not a letter/],
      [`${"[".repeat(2000)}`, /not a line of JSON/],
    ];
    for (const [line, error] of bad) {
      client.socket.write(Buffer.from(`${line}\n`, "latin1"));
      const [reply] = (await client.lines(1)) as [{ ok: boolean; error: string }];
      assert.equal(reply.ok, false);
      assert.match(reply.error, /^request: /);
      assert.match(reply.error, error);
    }
    client.socket.write(encodeRequest({ command: "info" }));
    assert.deepEqual(await client.lines(1), [ok(INFO)]);
    assert.deepEqual(calls, []);
    client.socket.destroy();
  });

  test("a request without end is cut off at its limit", async () => {
    await claim("one");
    const client = new Client();
    client.socket.write("x".repeat(MAX_REQUEST_BYTES + 1));
    assert.deepEqual(await client.lines(1), [failed(`a request has at most ${MAX_REQUEST_BYTES} bytes`)]);
    // What comes after it is not kept.
    for (let i = 0; i < 64; i++) client.socket.write("y".repeat(65536));
    client.socket.end();
    await client.closed;
    assert.deepEqual(await ask("one", { command: "info" }), INFO);
  });

  test("the longest request that is allowed", async () => {
    await claim("one");
    const client = new Client();
    const request = encodeRequest({ command: "info" }).trimEnd();
    client.socket.write(`${request.padEnd(MAX_REQUEST_BYTES)}\n`);
    assert.deepEqual(await client.lines(1), [ok(INFO)]);
    client.socket.destroy();
  });

  test("what fails in the machine is an error of the one request", async () => {
    await claim(
      "one",
      fakeTarget({
        nmi: () => {
          throw new RangeError("there is no vCPU 7");
        },
        dump: () => Promise.reject(new Error("no")),
      }).target,
    );
    const client = new Client();
    client.socket.write(encodeRequest({ command: "nmi", cpu: 7 }) + encodeRequest({ command: "dump" }));
    assert.deepEqual(await client.lines(2), [failed("there is no vCPU 7"), failed("no")]);
    client.socket.destroy();
  });

  test("clients that ask nothing, half a thing, or hang up, disturb nobody", async () => {
    await claim("one");
    const silent = Array.from({ length: 20 }, () => new Client());
    for (const [i, { socket }] of silent.entries()) {
      await once(socket, "connect");
      if (i % 2 === 0) socket.write('{"version":1,');
      if (i % 3 === 0) socket.destroy();
      if (i % 5 === 0) socket.end();
    }
    assert.deepEqual(await ask("one", { command: "info" }), INFO);
    for (const { socket } of silent) socket.destroy();
  });

  test("a client that reads no answers", async () => {
    const dump = ["x".repeat(1 << 20)];
    let dumps = 0;
    await claim(
      "one",
      fakeTarget({
        dump: async () => {
          dumps++;
          return dump;
        },
      }).target,
    );
    const socket = connect(path.join(directory, "one.sock"));
    await once(socket, "connect");
    socket.pause();
    socket.write(encodeRequest({ command: "dump" }).repeat(30));
    assert.deepEqual(await ask("one", { command: "info" }), INFO);
    // No answer is made before the one before it is read.
    assert.ok(dumps <= 2, `${dumps}`);
    socket.destroy();
  });

  test("more clients than there is room for are turned away, and the room is given back", async () => {
    await claim("one");
    const clients = Array.from({ length: 100 }, () => new Client());
    await Promise.allSettled(clients.map(({ socket }) => once(socket, "connect")));
    for (const { socket } of clients) socket.destroy();
    let info: unknown;
    for (let i = 0; i < 100 && info === undefined; i++) {
      info = await ask("one", { command: "info" }).catch(
        () => new Promise((resolve) => setTimeout(resolve, 10)),
      );
    }
    assert.deepEqual(info, INFO);
  });

  test("random bytes", async () => {
    const { target } = fakeTarget();
    await claim("one", target);
    let seed = 12345;
    const random = (below: number) => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    const words = [
      '{"version":1',
      ',"command":',
      '"info"',
      '"dump"',
      "}",
      "\n",
      "null",
      '"cpu":',
      "-1",
      "\0",
      "\xff",
    ];
    for (let round = 0; round < 200; round++) {
      const client = new Client();
      for (let i = random(12); i >= 0; i--) {
        const bytes =
          random(2) === 0
            ? words[random(words.length)]
            : String.fromCharCode(...Array.from({ length: random(40) }, () => random(256)));
        client.socket.write(Buffer.from(bytes, "latin1"));
      }
      if (random(2) === 0) client.socket.end();
      if (random(3) === 0) client.socket.destroy();
      await new Promise((resolve) => setImmediate(resolve));
      client.socket.destroy();
    }
    assert.deepEqual(await ask("one", { command: "info" }), INFO);
  });

  test("parseRequest throws nothing but RequestError", () => {
    let seed = 99;
    const random = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed >>> 24;
    };
    const good = Buffer.from(encodeRequest({ command: "sysrq", key: "t" }));
    for (let round = 0; round < 5000; round++) {
      const line = Buffer.from(good);
      for (let i = 0; i < 1 + (random() & 3); i++) line[random() % line.length] = random();
      try {
        parseRequest(line);
      } catch (error) {
        assert.ok(error instanceof RequestError, String(error));
      }
    }
  });
});

describe("the console", () => {
  test("both ways, from the request on", async () => {
    const { target, calls, print } = fakeTarget();
    await claim("one", target);
    const client = new Client();
    client.socket.write(`${encodeRequest({ command: "console" })}early`);
    assert.deepEqual(await client.lines(1), [ok()]);
    print("out\r\n# ");
    client.socket.write("ls\n");
    while (!client.rest.includes("# ") || calls.length < 2)
      await new Promise((resolve) => setImmediate(resolve));
    assert.equal(client.rest, "out\r\n# ");
    assert.deepEqual(calls, ["typed early", "typed ls\n"]);
    client.socket.destroy();
    while (!calls.includes("tap closed")) await new Promise((resolve) => setImmediate(resolve));
  });

  test("one that reads nothing is dropped before its backlog grows large", async () => {
    const { target, print } = fakeTarget();
    await claim("one", target);
    const socket = connect(path.join(directory, "one.sock"));
    socket.on("error", () => {});
    const closed = once(socket, "close");
    socket.write(encodeRequest({ command: "console" }));
    await once(socket, "readable");
    for (let i = 0; i < 100; i++) {
      print("z".repeat(64 * 1024));
      await new Promise((resolve) => setImmediate(resolve));
    }
    socket.resume();
    await closed;
    assert.deepEqual(await ask("one", { command: "info" }), INFO);
  });

  test("the machine's end is the end of what is mirrored", async () => {
    const { target, print } = fakeTarget();
    const registration = await claim("one", target);
    const client = new Client();
    client.socket.write(encodeRequest({ command: "console" }));
    await client.lines(1);
    print("last words");
    registration.release();
    await once(client.socket, "end");
    assert.equal(client.rest, "last words");
    client.socket.destroy();
  });
});
