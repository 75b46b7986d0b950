/**
 * Debian's kernels with all of the virtio devices, over every transport and with both kinds of virtqueue: disks, entropy, console
 * ports, balloon, sockets both ways.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Machine, type MachineOptions } from "../../src/api/index.js";
import { virtioGuest } from "./guest.js";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const MIB = 2 ** 20;
const CID = 42;
const ACCEL = process.env.NLKT_GUESTS === "kvm" ? "kvm" : "soft";

let directory = "";
before(() => {
  directory = mkdtempSync(path.join(tmpdir(), "nlkt-virtio-"));
});
after(() => rmSync(directory, { recursive: true, force: true }));

function has(...command: string[]): boolean {
  try {
    execFileSync(command[0], command.slice(1), { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/** The guest's program for sockets, where there is a compiler. */
function vsockProgram(): Uint8Array | undefined {
  if (!has("cc", "--version")) return undefined;
  const output = path.join(directory, "vsock");
  execFileSync("cc", ["-O1", "-static", "-o", output, path.join(ROOT, "test/virtio/programs/vsock.c")]);
  return readFileSync(output);
}

const SCRIPT = `
echo "transport: $(readlink /sys/bus/virtio/devices/virtio0 | cut -d/ -f5)"
mount -t ext4 /dev/vda /mnt && cat /mnt/hello
echo written in the guest >/mnt/answer
umount /mnt
echo "serial: $(cat /sys/block/vda/serial) size: $(cat /sys/block/vdb/size) ro: $(cat /sys/block/vdb/ro)"
echo "sum: $(md5sum </dev/vdb)"
dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync 2>/dev/null && echo "wrote to a read-only disk"
dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null
dd if=/tmp/data of=/dev/vdc bs=1M 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches
[ "$(md5sum </tmp/data)" = "$(head -c 4194304 /dev/vdc | md5sum)" ] && echo "vdc is as it was written"
echo "rng: $(cat /sys/class/misc/hw_random/rng_current) $(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c)"
port=$(basename $(dirname $(grep -l org.nlkt.test /sys/class/virtio-ports/*/name)))
exec 3<>/dev/$port
echo "port says hello" >&3
read -r line <&3
echo "port got: $line"
echo "ready for the balloon"
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  [ $(awk '/MemTotal/ { print $2 }' /proc/meminfo) -lt 170000 ] && break
  [ $(awk '/MemFree/ { print $2 }' /proc/meminfo) -lt 130000 ] && break
  sleep 0.2
done
echo "free: $(awk '/MemFree/ { print $2 }' /proc/meminfo)"
if [ -x /bin/vsock ]; then
  vsock listen 6000 >/tmp/echoed &
  echo "through the socket" | vsock connect 5000
  vsock send 5001 3000000
  wait
  cat /tmp/echoed
  echo no | vsock connect 5999
fi
echo "the end"
`;

const RUNS: readonly {
  readonly name: string;
  readonly suite?: "bookworm" | "bookworm-backports";
  readonly options: Pick<MachineOptions, "virtioTransport" | "virtioRing">;
  readonly sees: RegExp;
}[] = [
  { name: "PCI, packed rings", options: {}, sees: /transport: pci0000:00/ },
  { name: "PCI, split rings", options: { virtioRing: "split" }, sees: /transport: pci0000:00/ },
  { name: "PCI, Linux 6.12", suite: "bookworm-backports", options: {}, sees: /transport: pci0000:00/ },
  { name: "legacy PCI", options: { virtioTransport: "pci-legacy" }, sees: /transport: pci0000:00/ },
  { name: "MMIO, packed rings", options: { virtioTransport: "mmio" }, sees: /transport: (?!pci)/ },
  {
    name: "MMIO, split rings",
    options: { virtioTransport: "mmio", virtioRing: "split" },
    sees: /transport: (?!pci)/,
  },
];

/** Connects to the guest by Firecracker's convention, sends `text` and resolves to what comes back. */
function throughVsock(uds: string, port: number, text: string): Promise<{ greeting: string; rest: string }> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(uds, () => socket.write(`CONNECT ${port}\n`));
    let received = "";
    let sent = false;
    socket.setEncoding("latin1");
    socket.on("data", (chunk: string) => {
      received += chunk;
      if (!sent && received.includes("\n")) {
        sent = true;
        socket.end(text);
      }
    });
    socket.on("error", reject);
    socket.on("close", () => {
      const end = received.indexOf("\n") + 1;
      resolve({ greeting: received.slice(0, end), rest: received.slice(end) });
    });
  });
}

for (const { name, suite = "bookworm", options, sees } of RUNS) {
  test(name, { timeout: 300_000 }, async (t) => {
    if (!has("mkfs.ext4", "-V")) {
      t.skip("no mkfs.ext4");
      return;
    }
    const file = (word: string) => path.join(directory, `${name.replaceAll(/\W/g, "")}.${word}`);
    // A file system to mount, a disk only to be read, one to be written over.
    const tree = path.join(directory, "tree");
    execFileSync("mkdir", ["-p", tree]);
    writeFileSync(path.join(tree, "hello"), "hello from the disk\n");
    execFileSync("truncate", ["-s", "32M", file("ext4")]);
    execFileSync("mkfs.ext4", ["-q", "-F", "-d", tree, file("ext4")]);
    const content = randomBytes(3 * MIB);
    writeFileSync(file("ro"), content);
    execFileSync("truncate", ["-s", "8M", file("rw")]);

    const program = vsockProgram();
    const guest = await virtioGuest(suite, SCRIPT, program === undefined ? {} : { vsock: program });
    writeFileSync(file("cpio"), guest.initrd);

    // The host's programs at the guest's ports.
    let big = 0;
    const servers = [
      net
        .createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket))
        .listen(`${file("vsock")}_5000`),
      net
        .createServer((socket) =>
          socket.on("data", (chunk) => {
            big += chunk.length;
          }),
        )
        .listen(`${file("vsock")}_5001`),
    ];
    const machine = await Machine.create({
      ...options,
      accel: ACCEL,
      kernel: guest.kernel,
      initrd: file("cpio"),
      params: "quiet",
      memoryMiB: 256,
      balloon: true,
      vsock: { cid: CID, uds: file("vsock") },
      consolePorts: [{ name: "org.nlkt.test", uds: file("port") }],
      disks: [
        { file: file("ext4"), format: "raw", serial: "my serial" },
        { file: file("ro"), format: "raw", readOnly: true },
        { file: file("rw"), format: "raw" },
      ],
    });
    let text = "";
    const seen = (word: string) =>
      new Promise<void>((resolve) => {
        const look = () => {
          if (!text.includes(word)) return;
          machine.console.off("data", look);
          resolve();
        };
        machine.console.on("data", look);
        machine.console.once("end", resolve);
      });
    machine.console.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (process.env.NLKT_SHOW !== undefined) process.stderr.write(chunk);
    });
    const balloon = seen("ready for the balloon").then(async () => {
      machine.setBalloon(96);
      return await machine.balloonStats();
    });
    const port = new Promise<string>((resolve) => {
      // The io Worker listens from the start.
      const connect = () => {
        const socket = net.connect(file("port"));
        socket.on("error", () => setTimeout(connect, 100));
        socket.on("data", (chunk) => {
          socket.write("answer of the host\n");
          resolve(chunk.toString());
        });
      };
      connect();
    });
    const vsock =
      program === undefined
        ? undefined
        : seen("free:").then(async () => {
            for (;;) {
              const result = await throughVsock(file("vsock"), 6000, "from the host".repeat(1000));
              if (result.greeting !== "") return result;
              await new Promise((resolve) => setTimeout(resolve, 50));
            }
          });
    await machine.start();
    const status = await machine.wait();
    for (const server of servers) server.close();
    assert.equal(status.code, 0, text);
    assert.match(text, sees);
    assert.match(text, /hello from the disk/);
    assert.match(text, /serial: my serial size: 6144 ro: 1/);
    assert.ok(text.includes(`sum: ${createHash("md5").update(content).digest("hex")}`), text);
    assert.doesNotMatch(text, /wrote to a read-only disk/);
    assert.match(text, /vdc is as it was written/);
    assert.match(text, /rng: virtio_rng.* 64/);
    assert.match(await port, /port says hello/);
    assert.match(text, /port got: answer of the host/);
    const { wanted, stats } = await balloon;
    assert.equal(wanted, 96 * MIB);
    assert.ok((stats.totalMemory ?? 0) > 100 * MIB, JSON.stringify(stats));
    assert.ok(Number(/free: (\d+)/.exec(text)?.[1]) < 130_000, text);
    if (vsock !== undefined) {
      const { greeting, rest } = await vsock;
      assert.match(greeting, /^OK \d+\n$/);
      assert.equal(rest, "from the host".repeat(1000));
      assert.match(text, /through the socket/);
      assert.match(text, /echoed 13000/);
      assert.match(text, /connect: Connection reset by peer/);
      assert.equal(big, 3_000_000);
    }
    assert.match(text, /the end/);
    if (has("debugfs", "-V")) {
      const read = execFileSync("debugfs", ["-R", "cat answer", file("ext4")], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      });
      assert.equal(read, "written in the guest\n");
    }
  });
}
