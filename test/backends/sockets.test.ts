/** What devices stand on: Unix sockets that listen, Firecracker's convention for vsock, pseudo-terminals. */
import assert from "node:assert/strict";
import { once } from "node:events";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Duplex } from "node:stream";
import { after, before, test } from "node:test";
import { PortSocket } from "../../src/backends/sockets/port-socket.js";
import { listenAt } from "../../src/backends/sockets/unix-listener.js";
import { VsockSockets } from "../../src/backends/sockets/vsock-sockets.js";
import { Pty } from "../../src/backends/terminal/pty.js";

let directory = "";
before(() => {
  directory = mkdtempSync(path.join(tmpdir(), "nlkt-sockets-"));
});
after(() => rmSync(directory, { recursive: true, force: true }));

test("a socket file that nobody listens at is taken over; others are not", async () => {
  const file = path.join(directory, "socket");
  const first = await listenAt(file, () => {});
  await assert.rejects(() => listenAt(file, () => {}), {
    name: "SocketError",
    message: /another process listens/,
  });
  first.close();
  assert.equal(existsSync(file), false);
  writeFileSync(file, "precious");
  await assert.rejects(() => listenAt(file, () => {}), { name: "SocketError" });
  assert.equal(existsSync(file), true);
  await assert.rejects(() => listenAt(path.join(directory, "no/where"), () => {}), { name: "SocketError" });
});

class Guest {
  readonly asked: number[] = [];
  socket: Duplex | undefined;
  accepts: number | undefined = 1024;

  open(port: number, socket: Duplex, done: (hostPort: number | undefined) => void): void {
    this.asked.push(port);
    this.socket = socket;
    done(this.accepts);
  }
}

test("CONNECT PORT, OK HOSTPORT, then the stream; what is no request is closed", async () => {
  const file = path.join(directory, "vsock");
  const guest = new Guest();
  const sockets = new VsockSockets(guest, file);
  await sockets.listen();
  const client = net.connect(file);
  client.write("CONNECT 52\nfirst data");
  const [answer] = (await once(client, "data")) as [Buffer];
  assert.equal(answer.toString(), "OK 1024\n");
  assert.deepEqual(guest.asked, [52]);
  guest.socket!.resume();
  const [data] = (await once(guest.socket!, "data")) as [Buffer];
  assert.equal(data.toString(), "first data");
  client.destroy();

  guest.accepts = undefined;
  for (const request of ["CONNECT 52\n", "CONNECT x\n", "CONNECT 4294967296\n", "HELLO\n", "x".repeat(100)]) {
    const refused = net.connect(file);
    refused.resume();
    refused.write(request);
    await once(refused, "close");
  }
  assert.deepEqual(guest.asked, [52, 52]);
  sockets.close();
});

test("the guest's streams go to PATH_PORT", async () => {
  const file = path.join(directory, "out");
  const sockets = new VsockSockets(new Guest(), file);
  const server = net.createServer((socket) => socket.end("hello")).listen(`${file}_9`);
  await once(server, "listening");
  const socket = await new Promise<Duplex | undefined>((resolve) => sockets.connect(9, resolve));
  const [data] = (await once(socket!, "data")) as [Buffer];
  assert.equal(data.toString(), "hello");
  server.close();
  socket!.destroy();
  assert.equal(await new Promise((resolve) => sockets.connect(10, resolve)), undefined);
});

test("a console port has one program at a time", async () => {
  const file = path.join(directory, "port");
  let wakes = 0;
  const port = new PortSocket(() => {
    wakes++;
  });
  await port.listen(file);
  assert.equal(port.connected, false);
  assert.equal(port.write(Buffer.from("lost")), 4);
  const client = net.connect(file);
  client.write("to the guest");
  await once(client, "connect");
  while (port.length < 12) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(wakes >= 2);
  assert.equal(Buffer.from(port.read(6)).toString(), "to the");
  assert.equal(Buffer.from(port.read(100)).toString(), " guest");
  const second = net.connect(file);
  second.on("error", () => {});
  second.resume();
  await once(second, "close");
  port.write(Buffer.from("to the host"));
  const [data] = (await once(client, "data")) as [Buffer];
  assert.equal(data.toString(), "to the host");
  client.destroy();
  while (port.connected) await new Promise((resolve) => setTimeout(resolve, 5));
  port.close();
});

test("a pseudo-terminal: raw, both ways", async () => {
  let input = "";
  const pty = new Pty((bytes) => {
    input += bytes.toString("latin1");
  });
  assert.match(pty.name, /^\/dev\/pts\/\d+$/);
  const fd = openSync(pty.name, "r+");
  writeSync(fd, "typed\r");
  while (input.length < 6) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(input, "typed\r");
  pty.write(Buffer.from("shown\n"));
  await new Promise((resolve) => setTimeout(resolve, 50));
  const buffer = Buffer.alloc(100);
  assert.equal(buffer.toString("latin1", 0, readSync(fd, buffer)), "shown\n");
  closeSync(fd);
  pty.close();
});
