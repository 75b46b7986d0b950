/** The ABI tables against the C compiler's view of <linux/kvm.h>. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Cap, Exit, Kvm } from "../../../src/hypervisor/kvm/abi/constants.js";
import { Ioctl } from "../../../src/hypervisor/kvm/abi/ioctls.js";
import { type Fields, type FieldType, Struct, Union } from "../../../src/hypervisor/kvm/abi/struct.js";
import { STRUCTS } from "../../../src/hypervisor/kvm/abi/structs.js";

const HEADER = "/usr/include/linux/kvm.h";

/** An expression in C and the value that the tables have for it. */
type Row = readonly [expression: string, value: number];

/** Every field reachable by name, with its offset from the start of the outermost structure. */
function* fieldOffsets(fields: Fields, prefix: string, base: (name: string) => number): Generator<Row> {
  for (const [name, type] of Object.entries(fields)) {
    const at = base(name);
    const anonymous = type instanceof Union && type.anonymous;
    if (!anonymous) yield [`${prefix}${name}`, at];
    yield* inside(type, anonymous ? prefix : `${prefix}${name}.`, at);
  }
}

function* inside(type: FieldType, prefix: string, at: number): Generator<Row> {
  if (type instanceof Struct) yield* fieldOffsets(type.fields, prefix, (name) => at + type.offset[name]);
  else if (type instanceof Union) yield* fieldOffsets(type.members, prefix, () => at);
}

/** Fields that C has inside a union where the tables name one member. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  "kvm_irq_routing_entry.u.pad": "u.pad[0]",
};

function rows(): Row[] {
  const result: Row[] = [];
  for (const struct of STRUCTS) {
    const { name, size, fields, offset } = struct;
    result.push([`sizeof(struct ${name})`, size]);
    for (const [path, at] of fieldOffsets(fields, "", (field) => offset[field])) {
      result.push([`offsetof(struct ${name}, ${ELSEWHERE[`${name}.${path}`] ?? path})`, at]);
    }
  }
  for (const table of [Ioctl, Cap, Exit, Kvm]) result.push(...Object.entries(table));
  return result;
}

function compile(program: string): string {
  const directory = mkdtempSync(path.join(tmpdir(), "nlkt-abi-"));
  try {
    const source = path.join(directory, "probe.c");
    const binary = path.join(directory, "probe");
    writeFileSync(source, program);
    const { status, stderr } = spawnSync("gcc", ["-o", binary, source], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
    return execFileSync(binary, { encoding: "utf8", maxBuffer: 1 << 24 });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test("numbers, sizes and offsets are those of <linux/kvm.h>", (t) => {
  if (process.arch !== "x64") return t.skip("the tables are of x86-64");
  if (!existsSync(HEADER)) return t.skip("no <linux/kvm.h> (package linux-libc-dev)");
  if (spawnSync("gcc", ["--version"]).error !== undefined) return t.skip("no gcc");
  const all = rows();
  assert.ok(all.length > 600, "the tables are whole");
  // A constant that an older header does not have is no mistake of the tables.
  const lines = all.map(([expression]) => {
    const print = `printf("%llu\\n", (unsigned long long)(${expression}));`;
    return /^KVM_CAP/.test(expression) ? `#ifdef ${expression}\n${print}\n#else\nputs("-");\n#endif` : print;
  });
  const output = compile(
    `#include <stdio.h>\n#include <stddef.h>\n#include <linux/kvm.h>\nint main(void) {\n${lines.join("\n")}\n}\n`,
  );
  const found = output.trimEnd().split("\n");
  const wrong = all.filter(([, value], i) => found[i] !== "-" && BigInt(found[i]) !== BigInt(value));
  assert.deepEqual(wrong, []);
});
