/**
 * A guest that loads and unloads code for hours, compressed: what the engine holds of it stays bounded. The guest writes
 * functions, calls them, and overwrites them, thousands of times; each has its own constant, so that a stale one is found out.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { HotTier } from "../../src/hypervisor/soft/hot/hot-tier.js";
import type { SoftVcpu } from "../../src/hypervisor/soft/vcpu.js";
import { At, Pte } from "./support/environment.js";
import { assembler, type GuestImage, runGuest } from "./support/machine.js";
import { KVM } from "./support/provider.js";
import { softProvider } from "./support/soft-provider.js";

const MIB = 1 << 20;
/** Where functions are written; mapped by pages of 2 MiB. */
const CODE_PAGES = 4 * MIB;
/** For a page whose mapping changes; a leaf of the first 2 MiB. */
const WINDOW = 0x1a0000;
const LEAF = At.PT + 8 * (WINDOW >>> 12);

/** mov ecx, rounds; 1: add rax, imm32; dec ecx; jnz 1b; inc edx, many times; ret. */
const template = (rounds: number) => {
  const loop = [0x48, 0x05, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf6];
  const rest = Array.from({ length: 80 }, (_, i) => (i % 2 === 0 ? 0xff : 0xc2));
  return [0xb9, rounds & 0xff, (rounds >> 8) & 0xff, 0, 0, ...loop, ...rest, 0xc3];
};
const IMMEDIATE_AT = 7;

/** What RAX holds at the end: of each function, its number times its rounds. */
const expected = (functions: number, rounds: number) =>
  BigInt.asUintN(64, (BigInt(rounds) * BigInt(functions) * BigInt(functions - 1)) / 2n);

/** `functions` functions, written over one another in `pages` pages, one call each. */
function rewriting(functions: number, pages: number, rounds: number): GuestImage {
  const bytes = template(rounds);
  const code = assembler("long")
    .mov("bx", CODE_PAGES)
    .label("next")
    .hex("4889df") // mov rdi, rbx
    .mov("si", At.DATA)
    .mov("cx", bytes.length)
    .hex("f3a4") // rep movsb
    .hex("896b")
    .db(IMMEDIATE_AT) // mov [rbx + IMMEDIATE_AT], ebp
    .hex("ffd3 ffc5") // call rbx; inc ebp
    .hex("4881c3")
    .value(4096, 4) // add rbx, 4096
    .hex("4881fb")
    .value(CODE_PAGES + 4096 * pages, 4) // cmp rbx, end
    .jcc("c", "same")
    .mov("bx", CODE_PAGES)
    .label("same")
    .hex("81fd")
    .value(functions, 4) // cmp ebp, functions
    .jcc("c", "next")
    .done();
  return { mode: "long", code, memory: (env) => env.write(At.DATA, bytes) };
}

/** As `rewriting`, but each function is called through one address whose mapping is changed to its page. */
function remapping(functions: number, pages: number, rounds: number): GuestImage {
  const bytes = template(rounds);
  const code = assembler("long")
    .mov("bx", CODE_PAGES)
    .label("next")
    .hex("4889df")
    .mov("si", At.DATA)
    .mov("cx", bytes.length)
    .hex("f3a4 896b")
    .db(IMMEDIATE_AT)
    .hex("4889da 4883ca")
    .db(Number(Pte.P | Pte.W)) // mov rdx, rbx; or rdx, P | W
    .hex("48891425")
    .value(LEAF, 4) // mov [LEAF], rdx
    .hex("0f013c25")
    .value(WINDOW, 4) // invlpg [WINDOW]
    .mov("dx", WINDOW)
    .hex("ffd2 ffc5") // call rdx; inc ebp
    .hex("4881c3")
    .value(4096, 4)
    .hex("4881fb")
    .value(CODE_PAGES + 4096 * pages, 4)
    .jcc("c", "same")
    .mov("bx", CODE_PAGES)
    .label("same")
    .hex("81fd")
    .value(functions, 4)
    .jcc("c", "next")
    .done();
  return { mode: "long", code, memory: (env) => env.write(At.DATA, bytes) };
}

interface Load {
  readonly tier: "hot" | "auto" | "cold";
  readonly what: string;
  readonly image: (functions: number, pages: number, rounds: number) => GuestImage;
  readonly functions: number;
  readonly pages: number;
  /** Of each function's loop: enough to make it hot. */
  readonly rounds: number;
}

/** Regions of one page's function at a time, and of what calls it. */
const REGIONS_PER_PAGE = 4;
const OTHER_REGIONS = 64;
/** The engines of this test's machines, and what has not been collected. */
const OTHER_INSTANCES = 32;

const LOADS: readonly Load[] = [
  { tier: "hot", what: "written over", image: rewriting, functions: 1500, pages: 16, rounds: 20 },
  { tier: "hot", what: "mapped at one address", image: remapping, functions: 1000, pages: 16, rounds: 20 },
  { tier: "auto", what: "written over", image: rewriting, functions: 600, pages: 8, rounds: 60_000 },
  { tier: "cold", what: "written over", image: rewriting, functions: 100_000, pages: 256, rounds: 2 },
];

/** Regions that the table of handlers keeps, and their modules with them. */
function regionsHeld(hot: HotTier): number {
  let held = 0;
  for (let slot = hot.first; slot < hot.table.length; slot++) if (hot.table.get(slot) !== null) held++;
  return held;
}

/** Instances of WebAssembly modules that were made, as long as they live. */
const instances: WeakRef<WebAssembly.Instance>[] = [];
const { Instance } = WebAssembly;
before(() => {
  WebAssembly.Instance = new Proxy(Instance, {
    construct(target, args) {
      const instance = Reflect.construct(target, args) as WebAssembly.Instance;
      instances.push(new WeakRef(instance));
      return instance;
    },
  });
});
after(() => {
  WebAssembly.Instance = Instance;
});

async function liveInstances(): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  // What a WeakRef was made for or gave lives on until the end of the job.
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setImmediate(resolve));
    collect();
  }
  return instances.filter((ref) => ref.deref() !== undefined).length;
}

for (const { tier, what, image, functions, pages, rounds } of LOADS) {
  test(`${functions} functions ${what}, --tier ${tier}: what is held stays bounded`, async (t) => {
    if (KVM) return t.skip("of the software CPU");
    const provider = softProvider(1, tier);
    try {
      const { end, regs } = runGuest(provider, image(functions, pages, rounds));
      assert.equal(end, "done");
      assert.equal(regs.rax, expected(functions, rounds));
      const { cache, hot } = (provider.vcpu as SoftVcpu).code;
      assert.ok(
        cache.invalidations + cache.flushes * functions >= functions - pages,
        "code was written over",
      );
      assert.ok(cache.bytesUsed <= provider.vm.places[0].codeEnd - provider.vm.places[0].codeStart);
      if (hot === undefined) {
        assert.ok(cache.flushes > 0, "more code than there is room for");
        return;
      }
      assert.ok(hot.counters.regions >= functions / 2, `${hot.counters.regions} regions were made`);
      const bound = REGIONS_PER_PAGE * pages + OTHER_REGIONS;
      const held = regionsHeld(hot);
      assert.ok(held <= bound, `${held} regions are held`);
      const live = await liveInstances();
      assert.ok(live <= held + OTHER_INSTANCES, `${live} modules live of ${instances.length}`);
    } finally {
      provider.close();
    }
  });
}
