/** Partition tables and superblocks, as the tools make them, and what a `root=` means by them. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { defaultRoot, diskName, findRoot, readVolumes } from "../../src/boot/root-device.js";
import { hasTool } from "./tools.js";

const MIB = 2 ** 20;
const UUID = "6f1b8c1e-1d0f-4d6e-8a57-0123456789ab";

function scratch(t: TestContext): (name: string) => string {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-root-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return (name) => path.join(directory, name);
}

function blank(file: string, size: number): string {
  writeFileSync(file, "");
  truncateSync(file, size);
  return file;
}

const sfdisk = (file: string, script: string) =>
  execFileSync("sfdisk", ["-q", file], { input: script, stdio: "pipe" });

/** An ext4 file system at `offset` of `file`. */
function ext4(file: string, offset: number, size: number, label: string, uuid = UUID): void {
  const options = ["-q", "-t", "ext4", "-L", label, "-U", uuid, "-E", `offset=${offset}`];
  execFileSync("mke2fs", [...options, file, `${size / 1024}k`], { stdio: "pipe" });
}

const needs = (...tools: string[]) => {
  const missing = tools.filter((tool) => !hasTool(tool));
  return missing.length === 0 ? false : `needs ${missing.join(", ")}`;
};

test("names of disks", () => {
  const names = [0, 1, 25, 26, 27, 51, 52, 701, 702].map(diskName);
  assert.deepEqual(names, ["vda", "vdb", "vdz", "vdaa", "vdab", "vdaz", "vdba", "vdzz", "vdaaa"]);
});

test("a GPT, and a whole disk", { skip: needs("sfdisk", "mke2fs") }, async (t) => {
  const file = scratch(t);
  const disk = blank(file("gpt"), 64 * MIB);
  sfdisk(
    disk,
    [
      "label: gpt",
      "first-lba: 2048",
      'start=2048, size=16384, uuid=11111111-2222-3333-4444-555555555555, name="boot"',
      'start=32768, size=65536, uuid=0A0B0C0D-1111-2222-3333-444444444444, name="system root"',
    ].join("\n"),
  );
  ext4(disk, 32768 * 512, 32 * MIB, "system");
  const whole = blank(file("whole"), 16 * MIB);
  ext4(whole, 0, 16 * MIB, "data", "00000000-0000-4000-8000-000000000001");
  const volumes = await readVolumes([{ file: disk }, { file: whole, readOnly: true }]);
  assert.deepEqual(
    volumes.map(({ device, fileSystem }) => [device, fileSystem?.type]),
    [
      ["/dev/vda", undefined],
      ["/dev/vda1", undefined],
      ["/dev/vda2", "ext4"],
      ["/dev/vdb", "ext4"],
    ],
  );
  assert.deepEqual(volumes[2].partition, {
    number: 2,
    offset: 32768 * 512,
    size: 32 * MIB,
    uuid: "0a0b0c0d-1111-2222-3333-444444444444",
    label: "system root",
  });
  for (const root of [
    "/dev/vda2",
    `UUID=${UUID}`,
    `UUID="${UUID}"`,
    "LABEL=system",
    "PARTUUID=0A0B0C0D-1111-2222-3333-444444444444",
    "PARTLABEL=system root",
    `/dev/disk/by-uuid/${UUID}`,
    "/dev/disk/by-label/system",
  ]) {
    assert.equal(findRoot(volumes, root)?.device, "/dev/vda2", root);
  }
  for (const root of ["/dev/vda3", "LABEL=other", "PARTUUID=0", "/dev/sda1", "fd01"]) {
    assert.equal(findRoot(volumes, root), undefined, root);
  }
  assert.equal(findRoot(volumes, "LABEL=data")?.device, "/dev/vdb");
  assert.equal(defaultRoot(volumes)?.device, "/dev/vda2");
  assert.equal(defaultRoot([volumes[0], volumes[3]]), undefined, "only the first disk");
});

test("an MBR with logical partitions", { skip: needs("sfdisk", "mke2fs") }, async (t) => {
  const file = scratch(t);
  const disk = blank(file("mbr"), 64 * MIB);
  sfdisk(
    disk,
    [
      "label: dos",
      "label-id: 0xcafe0042",
      "start=2048, size=8192, type=83",
      "start=16384, size=100000, type=5",
      "start=20480, size=8192, type=83",
      "start=40960, size=32768, type=83",
    ].join("\n"),
  );
  ext4(disk, 40960 * 512, 16 * MIB, "logical");
  const volumes = await readVolumes([{ file: disk }]);
  assert.deepEqual(
    volumes.map(({ device, partition }) => [device, partition?.offset, partition?.uuid]),
    [
      ["/dev/vda", undefined, undefined],
      ["/dev/vda1", 2048 * 512, "cafe0042-01"],
      ["/dev/vda5", 20480 * 512, "cafe0042-05"],
      ["/dev/vda6", 40960 * 512, "cafe0042-06"],
    ],
  );
  assert.equal(findRoot(volumes, "PARTUUID=cafe0042-06")?.fileSystem?.label, "logical");
});

test("tables that lie", async (t) => {
  const file = scratch(t);
  const bytes = Buffer.alloc(MIB);
  bytes.writeUInt16LE(0xaa55, 510);
  // A chain of extended partitions that comes back to itself, and one far outside.
  bytes[446 + 4] = 5;
  bytes.writeUInt32LE(1, 446 + 8);
  bytes.writeUInt32LE(100, 446 + 12);
  bytes.writeUInt16LE(0xaa55, 512 + 510);
  bytes[512 + 446 + 4] = 0x83;
  bytes.writeUInt32LE(1, 512 + 446 + 8);
  bytes.writeUInt32LE(1, 512 + 446 + 12);
  bytes[512 + 462 + 4] = 5;
  bytes.writeUInt32LE(0, 512 + 462 + 8);
  bytes[462 + 4] = 0x83;
  bytes.writeUInt32LE(0xffffffff, 462 + 8);
  bytes.writeUInt32LE(0xffffffff, 462 + 12);
  writeFileSync(file("mbr"), bytes);
  assert.ok((await readVolumes([{ file: file("mbr") }])).length <= 66);
  // A GPT of 4 billion entries.
  bytes.fill(0);
  bytes.writeUInt16LE(0xaa55, 510);
  bytes[446 + 4] = 0xee;
  bytes.write("EFI PART", 512);
  bytes.writeBigUInt64LE(2n, 512 + 72);
  bytes.writeUInt32LE(0xffffffff, 512 + 80);
  bytes.writeUInt32LE(128, 512 + 84);
  bytes.fill(0xff, 1024, 40000);
  writeFileSync(file("gpt"), bytes);
  assert.equal((await readVolumes([{ file: file("gpt") }])).length, 1);
  writeFileSync(file("small"), Buffer.alloc(512, 0x55));
  assert.equal((await readVolumes([{ file: file("small") }])).length, 1);
});
