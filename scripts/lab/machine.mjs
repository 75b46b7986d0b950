/**
 * The KVM lab: a QEMU machine whose emulated processor has SVM, so that the Linux in it has a complete /dev/kvm (DESIGN, 5). It runs
 * Debian's generic kernel, sees the host's root directory read-only over 9p, with a RAM disk laid over it, and runs one command in it.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { ROOT } from "../lib/prepare.mjs";
import { ALIVE } from "./alive.mjs";

/** Modules in the order in which they are loaded, by their file names. */
const MODULES = [
  ...["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"],
  ...["netfs", "fscache", "9pnet", "9pnet_virtio", "9p", "overlay"],
  ...["irqbypass", "ccp", "kvm", "kvm-amd"],
];
// Without no_timer_check Linux gives up where the host is so busy that the timer it waits for comes late.
const COMMAND_LINE =
  "console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on mitigations=off no_timer_check";

/** Bytes of memory and number of processors of the lab. */
const MEMORY_MIB = 4096;
const CPUS = 2;

/** Signals that end this process, and the lab with it. */
const SIGNALS = ["SIGHUP", "SIGINT", "SIGTERM"];

/** The last line of the lab's /init, with the command's status. */
const STATUS = /^lab: status (\d+)\r?$/;

const INIT = `#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in ${MODULES.join(" ")}; do
  [ ! -e /modules/$module.ko ] || insmod /modules/$module.ko || echo "lab: $module cannot be loaded"
done
mkdir -p /host /job /ram /root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=1048576,cache=loose host /host
mount -t 9p -o trans=virtio,version=9p2000.L,msize=65536 job /job
mount -t tmpfs -o size=100% ram /ram
mkdir -p /ram/upper /ram/work
mount -t overlay -o lowerdir=/host,upperdir=/ram/upper,workdir=/ram/work root /root
# What Node loads, out of RAM: over 9p every start of it would take seconds.
read project < /job/project
for directory in dist node_modules; do
  mount -o bind /$directory "/root$project/$directory"
  mount -o remount,bind,ro "/root$project/$directory"
done
for directory in proc sys dev; do mount -o move /$directory /root/$directory; done
mkdir -p /root/dev/pts /root/dev/shm /root/run/lab
mount -t devpts pts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -o move /job /root/run/lab
ln -s /proc/self/fd /root/dev/fd
# Guests' memory is mostly never touched.
echo 1 > /root/proc/sys/vm/overcommit_memory
chroot /root /bin/sh /run/lab/command
echo "lab: status $?"
poweroff -f
`;

/** What of the project the lab has in RAM: compiled code and the dependencies that it has when it runs. */
async function projectArchive() {
  const { CpioArchive } = await import(path.join(ROOT, "dist/src/boot/cpio.js"));
  const archive = new CpioArchive();
  const add = (directory, wanted) => {
    archive.directory(directory);
    for (const entry of readdirSync(path.join(ROOT, directory), { recursive: true, withFileTypes: true })) {
      const file = path.join(entry.parentPath ?? entry.path, entry.name);
      if (entry.isFile() && wanted(file)) archive.file(path.relative(ROOT, file), readFileSync(file));
    }
  };
  add("dist", (file) => file.endsWith(".js"));
  const { packages } = JSON.parse(readFileSync(path.join(ROOT, "node_modules/.package-lock.json"), "utf8"));
  for (const [directory, { dev }] of Object.entries(packages)) {
    if (dev !== true) add(directory, () => true);
  }
  return archive.toBytes();
}

/** Seconds that the lab's processors have taken, with NLKT_LAB_TIMES=1 before each line: what does not depend on the host's load. */
function timed(pid) {
  if (process.env.NLKT_LAB_TIMES !== "1") return "";
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1")
    .replace(/^.*\) /, "")
    .split(" ");
  return `[${((Number(fields[11]) + Number(fields[12])) / 100).toFixed(1)}] `;
}

/** The lab's kernel and initramfs, from the cache or fetched and made. `progress` is told what takes long. */
async function prepare(progress) {
  const boot = path.join(ROOT, "dist/src/boot");
  const { fetchKernel, fetchBusybox } = await import(path.join(boot, "default-guest.js"));
  const { cacheDirectory, makeOnce } = await import(path.join(boot, "cache-directory.js"));
  const { extractPackage } = await import(path.join(boot, "debian-package.js"));
  const { CpioArchive } = await import(path.join(boot, "cpio.js"));
  const kernel = await fetchKernel({ package: "linux-image-amd64" }, progress);
  const { busybox } = await fetchBusybox(progress);
  const hash = createHash("sha256").update(INIT).update(kernel.image).update(kernel.version).digest("hex");
  const directory = path.join(cacheDirectory(), "lab", hash.slice(0, 16));
  await makeOnce(directory, async (temporary) => {
    progress("unpacking the lab's kernel modules");
    await extractPackage(
      kernel.deb,
      temporary,
      MODULES.map((name) => `*/${name}.ko`),
    );
    const archive = new CpioArchive();
    const program = await readFile(busybox);
    archive.file("bin/busybox", program, 0o755);
    for (const applet of ["sh", "mount", "insmod", "mkdir", "ln", "chroot", "poweroff", "echo"]) {
      archive.symlink(`bin/${applet}`, "busybox");
    }
    for (const name of ["proc", "sys", "dev"]) archive.directory(name);
    archive.device("dev/console", "character", 5, 1);
    archive.file("init", INIT, 0o755);
    for (const file of readdirSync(temporary, { recursive: true })) {
      const name = path.basename(file);
      if (name.endsWith(".ko")) archive.file(`modules/${name}`, readFileSync(path.join(temporary, file)));
    }
    for (const entry of readdirSync(temporary)) rmSync(path.join(temporary, entry), { recursive: true });
    writeFileSync(path.join(temporary, "initramfs.cpio"), archive.toBytes());
  });
  return { kernel: kernel.vmlinuz, initramfs: path.join(directory, "initramfs.cpio") };
}

/**
 * Run the shell commands of `command` in the lab; resolves to their status, or to undefined where the lab came to another end. Each
 * line that is printed there goes to `onLine`, but for those that are ALIVE. Silent for longer than `silentSeconds`, it is ended.
 */
export async function runInLab(
  command,
  { onLine = console.log, progress = console.error, seconds = 3600, silentSeconds = seconds } = {},
) {
  const { kernel, initramfs } = await prepare(progress);
  const job = mkdtempSync(path.join(tmpdir(), "nlkt-lab-"));
  writeFileSync(path.join(job, "command"), command);
  writeFileSync(path.join(job, "project"), `${ROOT.replace(/\/$/, "")}\n`);
  const initrd = path.join(job, "initrd");
  writeFileSync(initrd, Buffer.concat([readFileSync(initramfs), await projectArchive()]));
  const share = (id, directory, options) => [
    ...["-fsdev", `local,id=${id},path=${directory},security_model=none,multidevs=remap${options}`],
    ...["-device", `virtio-9p-pci,fsdev=${id},mount_tag=${id}`],
  ];
  const qemu = spawn(
    "qemu-system-x86_64",
    [
      ...["-accel", "tcg,thread=multi", "-cpu", "max,+svm", "-smp", `${CPUS}`, "-m", `${MEMORY_MIB}`],
      ...["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"],
      ...["-kernel", kernel, "-initrd", initrd, "-append", COMMAND_LINE],
      ...share("host", "/", ",readonly=on"),
      ...share("job", job, ""),
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let status;
  const timer = setTimeout(() => qemu.kill("SIGKILL"), seconds * 1000);
  const silent = setTimeout(() => {
    progress(`nothing was heard of it for ${silentSeconds} s`);
    qemu.kill("SIGKILL");
  }, silentSeconds * 1000);
  const stop = () => qemu.kill("SIGKILL");
  const interrupted = () => process.exit(1);
  process.once("exit", stop);
  for (const signal of SIGNALS) process.once(signal, interrupted);
  try {
    const ended = new Promise((resolve, reject) => {
      qemu.once("error", reject);
      qemu.once("exit", resolve);
    });
    for await (const line of createInterface({ input: qemu.stdout })) {
      silent.refresh();
      if (line.includes(ALIVE)) continue;
      const match = STATUS.exec(line);
      if (match === null) onLine(`${timed(qemu.pid)}${line.replace(/\r$/, "")}`);
      else status = Number(match[1]);
    }
    await ended;
    return status;
  } finally {
    clearTimeout(timer);
    clearTimeout(silent);
    process.off("exit", stop);
    for (const signal of SIGNALS) process.off(signal, interrupted);
    rmSync(job, { recursive: true, force: true });
  }
}
