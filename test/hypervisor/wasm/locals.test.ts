/** Locals that share indices, and branch hints: functions are built, compiled and run. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { I32, I64 } from "../../../src/hypervisor/soft/wasm/expr.js";
import { FunctionBuilder, ModuleBuilder } from "../../../src/hypervisor/soft/wasm/module.js";

const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });

/** A module of the function (i32, i64) → i64 that `write` builds. */
function build(write: (f: FunctionBuilder, a: I32, b: I64) => void) {
  const module = new ModuleBuilder(1);
  const f = new FunctionBuilder({ params: ["i32", "i64"], results: ["i64"] });
  write(f, f.params[0].get as I32, f.params[1].get as I64);
  const body = f.body();
  module.export(module.add("run", ["i32", "i64"], ["i64"], body));
  const bytes = module.build();
  const compile = () => {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
    return instance.exports.run as (a: number, b: bigint) => bigint;
  };
  return { body, bytes, compile };
}

/** Number of locals in a function's body. */
function localsOf({ bytes }: { bytes: Uint8Array }): number {
  let count = 0;
  for (let i = 0; i < bytes[0]; i++) count += bytes[1 + 2 * i];
  return count;
}

test("temporary locals share an index where the one is set after the last use of the other", () => {
  const { body, compile } = build((f, _a, b) => {
    let value = b;
    for (let i = 0; i < 50; i++) value = f.let(value.mul(3).add(i));
    f.return(value);
  });
  assert.equal(localsOf(body), 1);
  let expected = 5n;
  for (let i = 0n; i < 50n; i++) expected = BigInt.asIntN(64, expected * 3n + i);
  assert.equal(compile()(0, 5n), expected);
});

test("temporary locals that are needed at the same time have an index each", () => {
  const { body, compile } = build((f, _a, b) => {
    const values = Array.from({ length: 20 }, (_, i) => f.let(b.add(i)));
    f.return(values.reduce((sum, value) => sum.mul(2).add(value)));
  });
  assert.equal(localsOf(body), 20);
  let expected = 7n;
  for (let i = 1n; i < 20n; i++) expected = expected * 2n + 7n + i;
  assert.equal(compile()(0, 7n), expected);
});

test("a temporary local that is set before a loop and read in it keeps its index to the loop's end", () => {
  const { compile } = build((f, a, b) => {
    const left = f.local("i32");
    const sum = f.local("i64");
    f.set(left, a);
    const outside = f.let(b.mul(10));
    f.loop((again) => {
      f.set(sum, sum.get.add(outside));
      // Set after the last use of `outside`, which the next turn reads.
      const inside = f.let(left.get.toI64U());
      f.set(sum, sum.get.add(inside));
      f.set(left, left.get.sub(1));
      f.brIf(again, left.get);
    });
    f.return(sum.get);
  });
  assert.equal(compile()(4, 2n), 4n * 20n + 10n);
});

test("two loops, one in the other", () => {
  const { compile } = build((f, a, b) => {
    const [outer, inner, sum] = [f.local("i32"), f.local("i32"), f.local("i64")];
    f.set(outer, a);
    const first = f.let(b.add(1));
    f.loop((next) => {
      const second = f.let(first.add(outer.get.toI64U()));
      f.set(inner, I32.const(3));
      f.loop((again) => {
        f.set(sum, sum.get.add(second));
        const third = f.let(inner.get.toI64U().mul(100));
        f.set(sum, sum.get.add(third));
        f.set(inner, inner.get.sub(1));
        f.brIf(again, inner.get);
      });
      f.set(outer, outer.get.sub(1));
      f.brIf(next, outer.get);
    });
    f.return(sum.get);
  });
  // Each turn: three times 1 + b + outer, and 300 + 200 + 100.
  assert.equal(compile()(2, 5n), 3n * (6n + 2n) + 600n + 3n * (6n + 1n) + 600n);
});

test("other locals are zero at the start, and their own", () => {
  const { compile } = build((f, a, b) => {
    f.drop(f.let(b.add(1)));
    const sum = f.local("i64");
    f.if(a, () => f.set(sum, b));
    f.drop(f.let(b.add(2)));
    f.return(sum.get);
  });
  const run = compile();
  assert.equal(run(0, 9n), 0n);
  assert.equal(run(1, 9n), 9n);
});

test("what is put at the start runs first, with temporary locals of its own", () => {
  const { compile } = build((f, _a, b) => {
    const start = f.local("i64");
    const later = f.let(b.add(start.get));
    f.atStart(() => f.set(start, f.let(b.mul(b)).add(I64.const(1))));
    f.return(later.add(start.get));
  });
  assert.equal(compile()(0, 3n), 3n + 10n + 10n);
});

test("branch hints name the places of their branches", () => {
  const { body, bytes, compile } = build((f, a, b) => {
    const result = f.local("i64");
    // Locals' indices are filled in before and after.
    f.set(result, f.let(b.add(1)));
    f.if(a, () => f.set(result, b), undefined, false);
    f.block((end) => {
      f.brIf(end, a.eq(2), true);
      f.set(result, result.get.add(1));
    });
    f.return(result.get);
  });
  const IF = 0x04;
  const BR_IF = 0x0d;
  assert.deepEqual(
    body.hints.map(({ place, likely }) => [body.bytes[place], likely]),
    [
      [IF, false],
      [BR_IF, true],
    ],
  );
  assert.ok(Buffer.from(bytes).includes("metadata.code.branch_hint"));
  const run = compile();
  assert.deepEqual([run(0, 5n), run(1, 5n), run(2, 5n)], [7n, 6n, 5n]);
});
