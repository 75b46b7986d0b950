/**
 * Debian, made with debootstrap, on a qcow2 disk: boots with systemd to a login prompt, installs packages from a second
 * disk, and has a file system in order after it shut down, and after NLKT was killed.
 *
 * Not part of `npm test`, for its time: `npm run test:disk-boot`.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { qemuCheck } from "../backends/disk/support.js";
import { DEBIAN_KERNELS, guestFiles } from "../guest/guests.js";
import { debianDisks, fsck, listDirectory, NoDebian, rawCopy, whyNot } from "./debian-disk.js";
import { Session } from "./session.js";

const TIMEOUT_SECONDS = 900;

test("a Debian root disk", async (t) => {
  const problem = await whyNot();
  if (problem !== undefined) return t.skip(problem);
  const [cloud, generic] = await Promise.all(DEBIAN_KERNELS.slice(0, 2).map((kernel) => guestFiles(kernel)));
  if (typeof cloud === "string") return t.skip(cloud);
  if (typeof generic === "string") return t.skip(generic);
  let said = "";
  const made = await debianDisks((text) => {
    if (text !== said) t.diagnostic(text);
    said = text;
  }).catch((error: Error) => error);
  if (made instanceof NoDebian) return t.skip(made.message);
  if (made instanceof Error) throw made;
  const disks = made;
  const directory = await mkdtemp(path.join(process.env.TMPDIR ?? "/var/tmp", "nlkt-disk-boot-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const overlay = path.join(directory, "overlay.qcow2");
  const raw = path.join(directory, "raw");
  const start = (kernel: string, root: string): Session => {
    const session = new Session([
      ...["-k", kernel, "-m", "512", "--timeout", `${TIMEOUT_SECONDS}`],
      ...["-d", `${disks.root},cow=${overlay}`, "-d", `${disks.packages},ro`],
      ...["-p", `root=${root} ro quiet systemd.show_status=0`],
    ]);
    // Where the test fails half-way.
    t.after(() => session.child.kill("SIGKILL"));
    return session;
  };

  await t.test("boots to a login prompt, installs packages, shuts down", async () => {
    const started = performance.now();
    const session = start(cloud.kernel, "/dev/vda");
    await session.login();
    t.diagnostic(`login after ${((performance.now() - started) / 1000).toFixed(1)} s`);
    const init = await session.command("cat /proc/1/comm; findmnt -no SOURCE,FSTYPE,OPTIONS /");
    assert.match(init, /systemd/);
    assert.match(init, /\/dev\/vda ext4 +rw/);
    await session.command("mount LABEL=packages /mnt");
    await session.command("dpkg -i /mnt/*.deb");
    assert.match(await session.command("hello"), /Hello, world!/);
    assert.match(await session.command("echo '{\"a\": [1, 2]}' | jq -Mc .a"), /\[1,2\]/);
    session.type("systemctl poweroff\n");
    assert.equal(await session.ended, 0, session.messages);
    assert.equal(qemuCheck(overlay), 0);
    await rawCopy(overlay, raw);
    const { status, output } = await fsck(raw, "-f", "-n");
    assert.equal(status, 0, output);
  });

  await t.test("is in order after it was killed while it wrote", async () => {
    // This kernel has neither the disk's driver nor ext4 built in.
    const session = start(generic.kernel, "LABEL=debian");
    await session.login();
    assert.match(await session.command("hello"), /Hello, world!/);
    await session.command("mkdir /kept; for i in 1 2 3 4 5; do echo $i >/kept/$i; done; sync");
    session.type(
      "i=0; while :; do i=$((i+1)); tree /usr >/root/file$i; cp -r /etc /root/etc$i; sync; echo round $i; done\n",
    );
    await session.expect(/round 2/);
    session.child.kill("SIGKILL");
    await session.ended;
    qemuCheck(overlay);
    await rawCopy(overlay, raw);
    const replayed = await fsck(raw, "-p", "-f");
    assert.ok(replayed.status <= 1, `e2fsck -p: ${replayed.status}: ${replayed.output}`);
    const { status, output } = await fsck(raw, "-f", "-n");
    assert.equal(status, 0, output);
    const kept = await listDirectory(raw, "/kept");
    for (const name of ["1", "2", "3", "4", "5"]) assert.ok(kept.includes(name), `file ${name} was synced`);
  });
});
