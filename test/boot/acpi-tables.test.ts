/**
 * The ACPI tables as a kernel finds them: from the RSDP on, against ACPI 6.5, 5.2, and with ACPICA's own
 * tools where they are installed (package acpica-tools).
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import type { AcpiOptions } from "../../src/boot/acpi/platform.js";
import { writeAcpiTables } from "../../src/boot/acpi/tables.js";
import { GuestMemory, GuestMemoryError, gpa } from "../../src/memory/guest-memory.js";
import { SharedMemory } from "../../src/memory/shared-memory.js";

const MIB = 1 << 20;
const HEADER_SIZE = 36;

function ram(): GuestMemory {
  const slot = { slot: 0, guestPhysical: gpa(0), size: MIB, offset: 0, readonly: false, logDirty: false };
  const memory = new GuestMemory(SharedMemory.create(MIB), [slot]);
  // Whatever was there before must not show through.
  memory.fill(gpa(0), MIB, 0xa5);
  return memory;
}

function sum(bytes: Uint8Array): number {
  return bytes.reduce((total, byte) => (total + byte) & 0xff, 0);
}

/** What a kernel without a hint does: scan for the signature (5.2.5.1). */
function findRsdp(memory: GuestMemory): number {
  for (let at = 0xe0000; at < 0x100000; at += 16) {
    if (Buffer.from(memory.bytes(gpa(at), 8)).toString("latin1") === "RSD PTR ") return at;
  }
  throw new Error("no RSDP");
}

interface Table {
  signature: string;
  address: number;
  bytes: Buffer;
}

function tableAt(memory: GuestMemory, address: number): Table {
  const length = memory.readU32(gpa(address + 4));
  const bytes = Buffer.from(memory.bytes(gpa(address), length));
  return { signature: bytes.toString("latin1", 0, 4), address, bytes };
}

/** All tables, found through the pointers as a kernel does. */
function tables(options: AcpiOptions): Map<string, Table> {
  const memory = ram();
  const { rsdp, end } = writeAcpiTables(memory, options);
  assert.equal(findRsdp(memory), rsdp);
  const found = new Map<string, Table>();
  const add = (address: number): Table => {
    const table = tableAt(memory, address);
    assert.ok(address >= 0xe0000 && address + table.bytes.length <= end && end <= MIB, table.signature);
    found.set(table.signature, table);
    return table;
  };
  const xsdt = add(Number(memory.readU64(gpa(rsdp + 24)))).bytes;
  for (let at = HEADER_SIZE; at < xsdt.length; at += 8) add(Number(xsdt.readBigUInt64LE(at)));
  const fadt = found.get("FACP");
  assert.ok(fadt !== undefined);
  add(fadt.bytes.readUInt32LE(36));
  add(fadt.bytes.readUInt32LE(40));
  const rsdt = add(memory.readU32(gpa(rsdp + 16))).bytes;
  const list = (bytes: Buffer, size: 4 | 8) =>
    Array.from({ length: (bytes.length - HEADER_SIZE) / size }, (_, i) =>
      bytes.readUInt32LE(HEADER_SIZE + size * i),
    );
  assert.deepEqual(list(rsdt, 4), list(xsdt, 8), "RSDT and XSDT list the same tables");
  return found;
}

function get(found: Map<string, Table>, signature: string): Buffer {
  const table = found.get(signature);
  assert.ok(table !== undefined, `no ${signature}`);
  return table.bytes;
}

describe("frame", () => {
  test("RSDP: revision 2, both checksums, aligned", () => {
    const memory = ram();
    const { rsdp } = writeAcpiTables(memory, { cpus: 1 });
    const bytes = memory.bytes(gpa(rsdp), 36);
    assert.equal(rsdp % 16, 0);
    assert.equal(bytes[15], 2);
    assert.equal(memory.readU32(gpa(rsdp + 20)), 36);
    assert.equal(sum(bytes.subarray(0, 20)), 0);
    assert.equal(sum(bytes), 0);
  });

  test("every table but the FACS sums to zero; all OEM fields are set; none overlap", () => {
    const found = [...tables({ cpus: 3 }).values()].sort((a, b) => a.address - b.address);
    const signatures = found.map(({ signature }) => signature).sort();
    assert.deepEqual(signatures, ["APIC", "DSDT", "FACP", "FACS", "MCFG", "RSDT", "XSDT"]);
    for (const [i, { signature, address, bytes }] of found.entries()) {
      if (i > 0) assert.ok(address >= found[i - 1].address + found[i - 1].bytes.length);
      if (signature === "FACS") continue;
      assert.equal(sum(bytes), 0, signature);
      assert.equal(bytes.toString("latin1", 10, 16), "NLKT  ");
      assert.equal(bytes.toString("latin1", 16, 24), "NLKTMACH");
    }
  });

  test("too many processors, or no RAM, is an error", () => {
    for (const cpus of [0, -1, 1.5, Number.NaN, 4097]) {
      assert.throws(() => writeAcpiTables(ram(), { cpus }), RangeError);
    }
    assert.throws(() => writeAcpiTables(ram(), { cpus: 4096 }), /do not fit/);
    const none = new GuestMemory(SharedMemory.create(MIB), []);
    assert.throws(() => writeAcpiTables(none, { cpus: 1 }), GuestMemoryError);
  });

  test("2000 processors fit", () => {
    const apic = get(tables({ cpus: 2000 }), "APIC");
    assert.equal(apic.length, 44 + 255 * 8 + 1745 * 16 + 12 + 2 * 10 + 6 + 12);
  });
});

describe("FACS, 5.2.10", () => {
  test("64 bytes on a 64-byte boundary, version 2, no waking vector", () => {
    const facs = tables({ cpus: 1 }).get("FACS");
    assert.ok(facs !== undefined);
    assert.equal(facs.address % 64, 0);
    assert.equal(facs.bytes.length, 64);
    assert.equal(facs.bytes[32], 2);
    assert.ok(facs.bytes.subarray(8, 32).every((byte) => byte === 0));
  });
});

describe("FADT, 5.2.9", () => {
  /** A generic address structure: space, bits, offset, access size, address. */
  const gas = (bytes: Buffer, at: number) => [
    ...bytes.subarray(at, at + 4),
    Number(bytes.readBigUInt64LE(at + 4)),
  ];

  test("is revision 6.5 and has that revision's length", () => {
    const fadt = get(tables({ cpus: 1 }), "FACP");
    assert.equal(fadt.length, 276);
    assert.equal(fadt[8], 6);
    assert.equal(fadt[131], 5);
  });

  test("names the PM blocks alike in the 32-bit and the extended fields", () => {
    const fadt = get(tables({ cpus: 1 }), "FACP");
    const blocks = [
      { at: 56, length: 88, extended: 148, port: 0x600, bytes: 4 },
      { at: 64, length: 89, extended: 172, port: 0x604, bytes: 2 },
      { at: 76, length: 91, extended: 208, port: 0x608, bytes: 4 },
    ];
    for (const { at, length, extended, port, bytes } of blocks) {
      assert.equal(fadt.readUInt32LE(at), port);
      assert.equal(fadt[length], bytes);
      const [space, bits, offset, , address] = gas(fadt, extended);
      assert.deepEqual([space, bits, offset, address], [1, 8 * bytes, 0, port]);
    }
  });

  test("has no PM1b, PM2 or GPE blocks, no SMI command port, no sleep registers", () => {
    const fadt = get(tables({ cpus: 1 }), "FACP");
    for (const at of [48, 60, 68, 72, 80, 84]) assert.equal(fadt.readUInt32LE(at), 0, `offset ${at}`);
    for (const at of [160, 184, 196, 220, 232, 244, 256]) {
      assert.ok(
        fadt.subarray(at, at + 12).every((byte) => byte === 0),
        `offset ${at}`,
      );
    }
  });

  test("has one FACS address and the DSDT in both fields", () => {
    const found = tables({ cpus: 1 });
    const fadt = get(found, "FACP");
    assert.equal(fadt.readBigUInt64LE(132), 0n);
    assert.equal(Number(fadt.readBigUInt64LE(140)), found.get("DSDT")?.address);
  });

  test("has the SCI on 9, the reset register at 0xCF9, the century in RTC RAM", () => {
    const fadt = get(tables({ cpus: 1 }), "FACP");
    assert.equal(fadt.readUInt16LE(46), 9);
    assert.deepEqual(gas(fadt, 116), [1, 8, 0, 1, 0xcf9]);
    assert.equal(fadt[128], 6);
    assert.equal(fadt[108], 0x32);
  });

  test("flags: full hardware, fixed power button, 32-bit timer, reset register", () => {
    const flags = get(tables({ cpus: 1 }), "FACP").readUInt32LE(112);
    const bit = (n: number) => (flags >>> n) & 1;
    assert.equal(bit(0), 1, "WBINVD");
    assert.equal(bit(2), 1, "PROC_C1");
    assert.equal(bit(4), 0, "PWR_BUTTON: fixed");
    assert.equal(bit(5), 1, "SLP_BUTTON: none");
    assert.equal(bit(8), 1, "TMR_VAL_EXT");
    assert.equal(bit(10), 1, "RESET_REG_SUP");
    assert.equal(bit(20), 0, "HW_REDUCED_ACPI");
  });

  test("says what legacy hardware there is", () => {
    const bootFlags = (options: Partial<AcpiOptions>) =>
      get(tables({ cpus: 1, ...options }), "FACP").readUInt16LE(109);
    assert.equal(bootFlags({}), 0b00_0111);
    assert.equal(bootFlags({ i8042: false }), 0b00_0101);
    assert.equal(bootFlags({ rtc: false }), 0b10_0111);
    assert.equal(bootFlags({ i8042: false, serialPorts: [] }), 0b00_0100);
    const none = get(tables({ cpus: 1, rtc: false, pci: false }), "FACP");
    assert.equal(none[108], 0, "no century");
    assert.equal(none.readUInt32LE(112) & (1 << 10), 0, "no reset register");
  });
});

describe("MADT, 5.2.12", () => {
  /** The structures after the flags, as arrays of bytes. */
  function entries(cpus: number): Buffer[] {
    const madt = get(tables({ cpus }), "APIC");
    assert.equal(madt.readUInt32LE(36), 0xfee00000);
    assert.equal(madt.readUInt32LE(40), 1);
    const result: Buffer[] = [];
    for (let at = 44; at < madt.length; at += madt[at + 1]) {
      assert.ok(madt[at + 1] >= 2 && at + madt[at + 1] <= madt.length);
      result.push(madt.subarray(at, at + madt[at + 1]));
    }
    return result;
  }

  test("two processors: local APICs, I/O APIC, overrides of 0 and 9, NMI on LINT1", () => {
    assert.deepEqual(
      entries(2).map((entry) => entry.toString("hex")),
      [
        "0008000001000000",
        "0008010101000000",
        "010c0000" + "0000c0fe" + "00000000",
        "020a0000" + "02000000" + "0000",
        "020a0009" + "09000000" + "0d00",
        "0406ff000001",
      ],
    );
  });

  test("APIC IDs from 255 on use the x2APIC structure, and so does their NMI", () => {
    const all = entries(300);
    const local = all.filter(([type]) => type === 0);
    const x2 = all.filter(([type]) => type === 9);
    assert.deepEqual(
      local.map((entry) => [entry[2], entry[3], entry.readUInt32LE(4)]),
      Array.from({ length: 255 }, (_, i) => [i, i, 1]),
    );
    assert.deepEqual(
      x2.map((entry) => [entry.length, entry.readUInt32LE(4), entry.readUInt32LE(8), entry.readUInt32LE(12)]),
      Array.from({ length: 45 }, (_, i) => [16, 255 + i, 1, 255 + i]),
    );
    assert.equal(all.at(-1)?.toString("hex"), "0a0c0000" + "ffffffff" + "01000000");
    assert.equal(
      entries(255).some(([type]) => type === 9 || type === 10),
      false,
    );
  });
});

describe("MCFG", () => {
  test("one segment, 256 buses at 0xE0000000", () => {
    const mcfg = get(tables({ cpus: 1 }), "MCFG");
    assert.equal(mcfg.subarray(36).toString("hex"), `${"00".repeat(8)}000000e0000000000000${"00ff"}00000000`);
    assert.equal(tables({ cpus: 1, pci: false }).has("MCFG"), false);
  });
});

test("DSDT: each device has the ports, interrupts and memory of the machine's address map", () => {
  // Descriptors as 6.4 lays them out, each with the end tag: a device's whole _CRS.
  const serial = (port: string, irqs: string) => `4701${port}${port}010823${irqs}117900`;
  const expected = {
    COM1: serial("f803", "1000"),
    COM2: serial("f802", "0800"),
    COM3: serial("e803", "1000"),
    COM4: serial("e802", "0800"),
    RTC_: "4701700070000102220001" + "7900",
    KBD_: "4701600060000101" + "4701640064000101" + "220200" + "7900",
    MOU_: "220010" + "7900",
    MBRD: "86090001000000e000000010" + "7900",
  };
  const dsdt = get(tables({ cpus: 1 }), "DSDT").toString("hex");
  for (const [device, resources] of Object.entries(expected)) {
    const start = dsdt.indexOf(Buffer.from(device).toString("hex"));
    const found = dsdt.indexOf(Buffer.from("_CRS").toString("hex"), start);
    assert.ok(start > 0 && found > start, device);
    // After the name: BufferOp, a one-byte PkgLength, a BytePrefix and the length.
    assert.equal(dsdt.substr(found + 8 + 8, resources.length), resources, device);
  }
});

test("DSDT: an interrupt that no other port uses is not shared", () => {
  const dsdt = get(tables({ cpus: 1, serialPorts: [{ port: 0x3f8, irq: 4 }] }), "DSDT").toString("hex");
  assert.ok(dsdt.includes("4701f803f8030108" + "221000" + "7900"));
});

/** Runs a tool of acpica-tools in a directory that holds the tables, or skips the test. */
class Acpica {
  readonly directory = mkdtempSync(join(tmpdir(), "nlkt-acpi-"));

  constructor(t: TestContext, found: Map<string, Table>) {
    t.after(() => rmSync(this.directory, { recursive: true, force: true }));
    for (const { signature, bytes } of found.values()) {
      writeFileSync(join(this.directory, `${signature}.dat`), bytes);
    }
  }

  static missing(t: TestContext, tool: string): boolean {
    const missing = spawnSync(tool, ["-v"]).error !== undefined;
    if (missing) t.skip(`${tool} is not installed (Debian: acpica-tools)`);
    return missing;
  }

  run(tool: string, ...args: string[]): string {
    const { status, stdout, stderr } = spawnSync(tool, args, { cwd: this.directory, encoding: "utf8" });
    const output = stdout + stderr;
    assert.equal(status, 0, output);
    return output;
  }

  read(file: string): Buffer {
    return readFileSync(join(this.directory, file));
  }

  /** Evaluate an object of the DSDT; ACPICA's output, without any complaint in it. */
  evaluate(command: string): string {
    const output = this.run("acpiexec", "-b", command, "DSDT.dat");
    assert.doesNotMatch(output, /error|warning|failed|exception/i);
    return output;
  }
}

const MACHINES: Record<string, AcpiOptions> = {
  "one processor": { cpus: 1 },
  "300 processors and a high PCI window": {
    cpus: 300,
    pciHighWindow: { base: 0x4000000000, size: 0x4000000000 },
  },
  "next to nothing": {
    cpus: 1,
    serialPorts: [{ port: 0x3f8, irq: 4 }],
    rtc: false,
    i8042: false,
    pci: false,
  },
};

for (const [what, options] of Object.entries(MACHINES)) {
  test(`iasl disassembles and recompiles all tables: ${what}`, (t) => {
    if (Acpica.missing(t, "iasl")) return;
    const found = tables(options);
    const acpica = new Acpica(t, found);
    for (const { signature, bytes } of found.values()) {
      const disassembly = acpica.run("iasl", "-d", `${signature}.dat`);
      assert.doesNotMatch(disassembly, /error|warning|invalid|unknown|could not/i, signature);
      assert.doesNotMatch(acpica.read(`${signature}.dsl`).toString(), /\*\*\*\*|unknown|invalid/i, signature);
      // -oa: no optimizations, so that the same bytes have to come out.
      const compilation = acpica.run("iasl", "-oa", "-p", "again", `${signature}.dsl`);
      assert.match(compilation, /0 Errors, 0 Warnings, 0 Remarks/, signature);
      // The compiler puts its own name and revision into the header, and the checksum with them.
      const start = signature === "FACS" ? 0 : HEADER_SIZE;
      assert.deepEqual(acpica.read("again.aml").subarray(start), bytes.subarray(start), signature);
    }
  });
}

test("ACPICA's interpreter loads the DSDT and finds the devices", (t) => {
  if (Acpica.missing(t, "acpiexec")) return;
  const acpica = new Acpica(t, tables({ cpus: 2 }));
  const namespace = acpica.evaluate("namespace");
  const devices = [...namespace.matchAll(/^ 1 +(\w{4}) Device/gm)].map(([, each]) => each);
  const expected = ["PCI0", "MBRD", "RTC_", "KBD_", "MOU_", "COM1", "COM2", "COM3", "COM4", "C000", "C001"];
  assert.deepEqual(devices, expected);
  assert.match(acpica.evaluate("execute \\_S5"), /\[Integer\] = 0+5\n/);
  const routing = acpica.evaluate("execute \\_SB.PCI0._PRT");
  assert.match(routing, /Contains 128 Elements/);
  const gsis = [...routing.matchAll(/\[Integer\] = ([0-9A-F]{16})/g)].map(([, value]) =>
    Number(`0x${value}`),
  );
  for (let i = 0; i < 128; i++) {
    const [address, pin, source, gsi] = gsis.slice(4 * i, 4 * i + 4);
    assert.deepEqual([address, pin, source], [(i >> 2) * 0x10000 + 0xffff, i & 3, 0]);
    assert.ok(gsi >= 16 && gsi < 24);
  }
});

test("_OSC grants what is asked for, and names a foreign UUID or revision", (t) => {
  if (Acpica.missing(t, "acpiexec")) return;
  const acpica = new Acpica(t, tables({ cpus: 1 }));
  const osc = (uuid: string, revision: number) => {
    const output = acpica.evaluate(
      `execute \\_SB.PCI0._OSC (${uuid}) ${revision} 3 (000000001F0000001D000000)`,
    );
    return /\[Buffer\] Length 0C = +0000: ([0-9A-F ]+)\/\//.exec(output)?.[1].replaceAll(" ", "");
  };
  const pci = "5B4DDB33F71F1C4096577441C03DD766";
  assert.equal(osc(pci, 1), "000000001F0000001D000000");
  assert.equal(osc(pci, 2), "080000001F0000001D000000");
  assert.equal(osc(`6${pci.slice(1)}`, 1), "040000001F0000001D000000");
});
