/**
 * The software CPU compares accesses to the stack with the page that it was used in last, and has halves for reading and for
 * writing in a TLB entry: what may go wrong there. Translated from its first execution on, and not at all.
 */
import assert from "node:assert/strict";
import { after } from "node:test";
import type { SoftVcpu } from "../../src/hypervisor/soft/vcpu.js";
import type { Asm } from "./support/asm.js";
import { At, type Environment, Pte } from "./support/environment.js";
import { assembler, type GuestImage, runGuest } from "./support/machine.js";
import { guestProvider, KVM, test } from "./support/provider.js";
import { softProvider } from "./support/soft-provider.js";

/** Translates at once, not with other code some time later. */
function hotProvider() {
  const provider = softProvider(1, "hot");
  const { hot } = (provider.vcpu as SoftVcpu).code;
  if (hot === undefined) throw new Error("there is no hot tier");
  hot.request = (place) => hot.translate(place);
  return provider;
}

const providers = KVM ? [guestProvider()] : [hotProvider(), softProvider(1, "cold")];
const names = KVM ? ["KVM"] : ["hot", "cold"];
after(() => {
  for (const provider of providers) provider.close();
});

const { P, W, U } = Pte;
const PF = 14;
const SMAP = 1n << 21n;
/** Two linear pages, one after the other, and where they are. */
const PAGE = 0x180000;
const NEXT = PAGE + 0x1000;
const ONE = 0x1a0000;
const TWO = 0x190000;
/** Shares PAGE's entry of the data TLB. */
const FAR = PAGE + 0x400000;
const MAPPED = P | W | U;

const pages = (env: Environment) => {
  // The handler's frame goes to another stack.
  env.handlerGate(PF, { ist: 1 });
  env.page(PAGE, BigInt(ONE) | MAPPED);
  env.page(NEXT, BigInt(TWO) | MAPPED);
};
const entryOf = (page: number) => At.PT + 8 * (page >>> 12);
const PUSH_AX = "50";
const LOAD_RSP = "488b0424";
const STORE_RSP = "48890424";
const INVLPG_AX = "0f0138";

function each(
  name: string,
  image: () => GuestImage,
  check: (result: ReturnType<typeof runGuest>) => void,
): void {
  providers.forEach((provider, i) => {
    test(`${names[i]}: ${name}`, () => check(runGuest(provider, image())));
  });
}

const long = (build: (a: Asm) => Asm, more: Partial<GuestImage> = {}): GuestImage => ({
  mode: "long",
  memory: pages,
  ...more,
  code: build(assembler("long")).done(),
});

each(
  "pushes and pops across two pages that lie apart",
  () =>
    long((a) => {
      a.mov("sp", NEXT + 0x10)
        .mov("cx", 4)
        .mov("bx", 0)
        .label("again");
      for (let i = 0; i < 4; i++) a.push("cx");
      // POP RAX; ADD RBX, RAX
      for (let i = 0; i < 4; i++) a.pop("ax").hex("4801c3");
      // DEC ECX
      return a.hex("ffc9").jcc("nz", "again");
    }),
  ({ regs, env }) => {
    assert.equal(regs.rbx, 40n);
    for (const at of [TWO + 8, TWO, ONE + 0xff8, ONE + 0xff0])
      assert.equal(env.read64(at), 1n, at.toString(16));
  },
);

each(
  "an access that begins in one page and ends in the next, between aligned ones to both",
  () =>
    long((a) =>
      a
        .mov("ax", 0x1122334455667788n)
        .mov("cx", 3)
        .label("again")
        .mov("sp", NEXT + 8)
        .hex(PUSH_AX)
        .mov("sp", NEXT)
        .hex(PUSH_AX)
        .mov("sp", NEXT - 4)
        .hex(STORE_RSP)
        .hex(LOAD_RSP)
        .mov("sp", NEXT + 0x108)
        .hex(PUSH_AX)
        .hex("ffc9")
        .jcc("nz", "again"),
    ),
  ({ regs, env }) => {
    assert.equal(regs.rax, 0x1122334455667788n);
    assert.equal(env.read64(ONE + 0xff8), 0x5566778855667788n);
    assert.equal(env.read64(TWO), 0x1122334411223344n);
    assert.equal(env.read64(TWO + 0x100), 0x1122334455667788n);
  },
);

each(
  "a stack that can be read and not written: #PF at the push (SDM 3A, 4.6)",
  () =>
    long(
      (a) =>
        a
          .mov("sp", PAGE + 0x800)
          .hex(LOAD_RSP)
          .hex(LOAD_RSP)
          .hex(PUSH_AX),
      {
        memory: (env) => {
          pages(env);
          env.page(PAGE, BigInt(ONE) | P | U);
        },
      },
    ),
  ({ faults }) =>
    assert.deepEqual([faults[0].vector, faults[0].error, faults[0].cr2], [PF, 3, BigInt(PAGE + 0x7f8)]),
);

/** So often that what follows a jump is translated: two pushes, `drop`, a read and a push. The last time the PTE is `last`. */
const again = (a: Asm, last: number, drop: (a: Asm) => Asm) =>
  drop(
    a
      .mov("ax", 0x1234)
      .mov("sp", PAGE + 0x800)
      .mov("cx", 8)
      .mov("si", ONE | 7)
      .mov("bx", last)
      .label("again")
      .hex(PUSH_AX + PUSH_AX)
      // CMP ECX, 1; CMOVE RSI, RBX
      .hex("83f901480f44f3")
      .store(entryOf(PAGE), "si"),
  )
    .jmp("further")
    .label("further")
    .hex(LOAD_RSP)
    .hex(PUSH_AX)
    // ADD RSP, 24; DEC ECX
    .hex("4883c418ffc9")
    .jcc("nz", "again");
const invlpg = (a: Asm) => a.mov("di", PAGE).hex("0f013f");

each(
  "a stack that loses its W between two pushes, and INVLPG: #PF (SDM 3A, 4.10.4.1)",
  () => long((a) => again(a, ONE | 5, invlpg)),
  ({ faults }) =>
    assert.deepEqual([faults[0].vector, faults[0].error, faults[0].cr2], [PF, 3, BigInt(PAGE + 0x7e8)]),
);

each(
  "a stack that goes to another page, and MOV CR3 (SDM 3A, 4.10.4.1)",
  () =>
    long((a) => again(a, TWO | 7, (b) => b.readCr(3, "dx").writeCr(3, "dx")), {
      memory: (env) => {
        pages(env);
        env.u32(TWO + 0x7f0, 0x5678);
      },
    }),
  ({ regs, env }) => {
    assert.equal(regs.rax, 0x5678n);
    assert.deepEqual(
      [ONE + 0x7f8, ONE + 0x7f0, ONE + 0x7e8, TWO + 0x7e8].map((at) => env.read64(at)),
      [0x1234n, 0x1234n, 0x1234n, 0x5678n],
    );
  },
);

each(
  "a stack in a page of the user's, and CLAC: #PF (SDM 3A, 4.6)",
  () =>
    long(
      (a) =>
        a
          .mov("sp", PAGE + 0x800)
          .hex("0f01cb")
          .hex(PUSH_AX + PUSH_AX)
          .hex("0f01ca")
          .hex(PUSH_AX),
      {
        sregs: (s) => {
          s.cr4 |= SMAP;
        },
        memory: (env) => {
          for (let page = 0; page < 0x200000; page += 0x1000) env.page(page, BigInt(page) | P | W);
          pages(env);
        },
      },
    ),
  ({ faults }) =>
    assert.deepEqual([faults[0].vector, faults[0].error, faults[0].cr2], [PF, 3, BigInt(PAGE + 0x7e8)]),
);

each(
  "reads of one page and writes of another that shares its TLB entry, and INVLPG of the first",
  () =>
    long(
      (a) =>
        a
          .mov("cx", 3)
          .label("again")
          .load("ax", PAGE)
          .store(FAR, "ax")
          .load("ax", FAR + 8)
          .store(PAGE + 8, "ax")
          .hex("ffc9")
          .jcc("nz", "again")
          .store32(entryOf(PAGE), TWO | 7)
          .mov("ax", PAGE)
          .hex(INVLPG_AX)
          .load("bx", PAGE)
          .store(PAGE + 16, "bx")
          .store(FAR + 16, "bx"),
      {
        memory: (env) => {
          pages(env);
          env.u32(ONE, 0x11111111);
          env.u32(TWO, 0x22222222);
          env.u32(FAR + 8, 0x33333333);
        },
      },
    ),
  ({ regs, env }) => {
    assert.equal(regs.rbx, 0x22222222n);
    const words = [ONE, ONE + 8, ONE + 16, TWO + 16, FAR, FAR + 16].map((at) => env.read64(at));
    assert.deepEqual(words, [0x11111111n, 0x33333333n, 0n, 0x22222222n, 0x11111111n, 0x22222222n]);
  },
);
