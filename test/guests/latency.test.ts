/**
 * Guest code of every kind looks for interrupts often: from the moment that another thread asks for one to the moment that guest code
 * is left, less than 100 µs of guest time pass. The TSC counts nanoseconds of the host's clock, so a host that is busy
 * with other things counts too: of some samples in a row the fastest quarter has to be within the limit, which a loop that looks
 * seldom does not come to by chance.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ExitReason } from "../../src/hypervisor/seam.js";
import { O } from "../../src/hypervisor/soft/vcpu-state.js";
import type { Asm } from "./support/asm.js";
import { At } from "./support/environment.js";
import { Kicker } from "./support/kicker.js";
import { assembler, type GuestImage, runGuest } from "./support/machine.js";
import { KVM } from "./support/provider.js";
import { softProvider } from "./support/soft-provider.js";

const LIMIT_MICROSECONDS = 100;
/** Samples in a row, and how often they are taken until they are good. */
const SAMPLES = 32;
const ATTEMPTS = 10;
/** Kicks until what runs is hot. */
const WARM_UP = 12;
const MIB = 1 << 20;

const provider = softProvider();
const { vm, vcpu } = provider;
const { address } = vm.places[0].state;
const kicker = new Kicker({
  memory: vm.memory.memory,
  epoch: vm.clock.epoch,
  poll: address + O.poll,
  requests: address + O.requests,
});
after(() => {
  kicker.close();
  provider.close();
});

const long = (body: (a: Asm) => Asm): GuestImage => ({ mode: "long", code: body(assembler("long")) });

/** Guests that never end. */
const LOOPS: Readonly<Record<string, GuestImage>> = {
  "a loop of two instructions": long((a) => a.label("x").hex("48ffc8").jcc("nz", "x").jmp("x")),
  "a jump to itself": long((a) => a.label("x").jmp("x")),
  "a loop over memory": long((a) =>
    a
      .mov("bx", 4 * MIB)
      .label("x")
      .hex("48ff03 4883c340 4881fb")
      .value(12 * MIB, 4)
      .jcc("c", "x")
      .mov("bx", 4 * MIB)
      .jmp("x"),
  ),
  "nested loops": long((a) =>
    a.label("y").mov("cx", 1000).label("x").hex("4801c8 ffc9").jcc("nz", "x").hex("48ffc3").jmp("y"),
  ),
  "calls and returns": long((a) =>
    a.label("x").call("f").jmp("x").label("f").call("g").hex("c3").label("g").hex("48ffc0 c3"),
  ),
  recursion: long((a) =>
    a
      .label("y")
      .mov("cx", 200)
      .call("f")
      .jmp("y")
      .label("f")
      .hex("ffc9")
      .jcc("z", "end")
      .call("f")
      .label("end")
      .hex("c3"),
  ),
  "code of 4,000 instructions without a branch": long((a) => {
    a.label("x");
    for (let i = 0; i < 4000; i++) a.hex("4801c8");
    return a.jmp("x");
  }),
  "a loop over two pages": long((a) =>
    a
      .jmp("x")
      .padTo(At.CODE + 0xff0)
      .label("x")
      .hex("48ffc0 48ffc0 48ffc0 48ffc0 48ffc0 48ffc0")
      .jmp("x"),
  ),
  "an indirect jump": long((a) => a.movLabel("bx", "x").label("x").hex("48ffc0 ffe3")),
  "REP MOVSB of 4 MiB": long((a) =>
    a
      .label("x")
      .mov("si", 4 * MIB)
      .mov("di", 8 * MIB)
      .mov("cx", 4 * MIB)
      .hex("f3a4")
      .jmp("x"),
  ),
  "REP STOSQ of 8 MiB": long((a) =>
    a
      .label("x")
      .mov("di", 4 * MIB)
      .mov("cx", MIB)
      .hex("f348ab")
      .jmp("x"),
  ),
  "REP LODSB of 8 MiB": long((a) =>
    a
      .label("x")
      .mov("si", 4 * MIB)
      .mov("cx", 8 * MIB)
      .hex("f3ac")
      .jmp("x"),
  ),
  "REPE CMPSB of 4 MiB": long((a) =>
    a
      .label("x")
      .mov("si", 4 * MIB)
      .mov("di", 8 * MIB)
      .mov("cx", 4 * MIB)
      .hex("f3a6")
      .jmp("x"),
  ),
  "REPNE SCASB of 8 MiB": long((a) =>
    a
      .label("x")
      .mov("ax", 1)
      .mov("di", 4 * MIB)
      .mov("cx", 8 * MIB)
      .hex("f2ae")
      .jmp("x"),
  ),
  "REP MOVSB downwards": long((a) =>
    a
      .hex("fd")
      .label("x")
      .mov("si", 8 * MIB - 1)
      .mov("di", 12 * MIB - 1)
      .mov("cx", 4 * MIB)
      .hex("f3a4")
      .jmp("x"),
  ),
  divisions: long((a) => a.mov("cx", 3).label("x").hex("31d2 48f7f1 48ffc0").jmp("x")),
  "x87 sines": long((a) => a.hex("d9e8").label("x").hex("d9fe").jmp("x")),
  "32-bit code": { mode: "protected32", code: assembler("protected32").label("x").hex("40").jmp("x") },
  "16-bit code": { mode: "real", code: assembler("real").label("x").hex("40").jmp("x") },
  "LOOP to itself": long((a) => a.label("y").mov("cx", -1n).label("x").hex("e2fe").jmp("y")),
};

for (const [name, image] of Object.entries(LOOPS)) {
  test(`${name}: guest code is left within ${LIMIT_MICROSECONDS} µs`, (t) => {
    if (KVM) return t.skip("of the software CPU");
    const sample = () => {
      kicker.go();
      assert.equal(vcpu.run(), ExitReason.INTR);
      return (vm.clock.now() - kicker.sent) / 1000;
    };
    // The first run, which makes the guest.
    kicker.go();
    assert.throws(() => runGuest(provider, image), /guest does not end/);
    for (let i = 0; i < WARM_UP; i++) sample();
    const quarters: number[] = [];
    while (quarters.length < ATTEMPTS && !(quarters.at(-1)! <= LIMIT_MICROSECONDS)) {
      const latencies = Array.from({ length: SAMPLES }, sample).sort((a, b) => a - b);
      quarters.push(latencies[SAMPLES >> 2]);
    }
    const best = Math.min(...quarters);
    assert.ok(best <= LIMIT_MICROSECONDS, `${best.toFixed(0)} µs`);
  });
}
