/** Running guests: exits and their answers, interruption from other threads, what ends a guest. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { ExitReason, MpState } from "../../../src/hypervisor/seam.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import {
  CODE,
  makeMachine,
  noKvm,
  startLongMode,
  startRealMode,
  type TestMachine,
} from "./support/kvm-machine.js";

describe("a vCPU of KVM", { skip: noKvm }, () => {
  let machine: TestMachine;
  beforeEach(() => {
    machine = makeMachine();
  });
  afterEach(() => machine.vm.close());

  test("OUT exits with port, size and value", () => {
    // mov dx, 0x1234; mov eax, 0x55aa1234; out dx, eax; out dx, ax; out dx, al
    startRealMode(machine, "ba3412 66b83412aa55 66ef ef ee");
    const { vcpu } = machine;
    const { exit } = vcpu;
    for (const size of [4, 2, 1]) {
      assert.equal(vcpu.run(), ExitReason.IO);
      assert.deepEqual(
        [exit.port, exit.size, exit.count, exit.isWrite, Buffer.from(exit.data.subarray(0, size))],
        [0x1234, size, 1, true, Buffer.from([0x34, 0x12, 0xaa, 0x55].slice(0, size))],
      );
    }
  });

  test("IN takes the answer, and the registers have it even before the next run", () => {
    // in al, 0x60; in ax, dx
    startRealMode(machine, "e460 ed", { rdx: 0x100n });
    const { vcpu } = machine;
    assert.equal(vcpu.run(), ExitReason.IO);
    vcpu.exit.data[0] = 0x77;
    assert.equal(vcpu.getRegs().rax, 0x77n);
    assert.equal(vcpu.getRegs().rip, BigInt(CODE + 2));
    assert.equal(vcpu.run(), ExitReason.IO);
    vcpu.exit.data.set([0xcd, 0xab]);
    assert.equal(vcpu.getRegs().rax, 0xabcdn);
  });

  test("a string instruction exits with all of its units, or one after the other", () => {
    // cld; mov cx, 5; mov si, 0x2000; mov dx, 0x3f8; rep outsb; hlt
    startRealMode(machine, "fc b90500 be0020 baf803 f36e f4");
    machine.guestMemory.write(gpa(0x2000), Buffer.from("hello"));
    const { vcpu } = machine;
    let text = "";
    while (text.length < 5) {
      assert.equal(vcpu.run(), ExitReason.IO);
      text += Buffer.from(vcpu.exit.data.subarray(0, vcpu.exit.count)).toString();
    }
    assert.equal(text, "hello");
  });

  test("MMIO reads and writes", () => {
    // mov eax, [rbx]; mov [rbx+8], rax; RBX leads past the RAM
    startLongMode(machine, "8b03 48894308", { rbx: 0x3ff00000n });
    const { vcpu } = machine;
    const { exit } = vcpu;
    assert.equal(vcpu.run(), ExitReason.MMIO);
    assert.deepEqual([exit.address, exit.size, exit.isWrite], [0x3ff00000, 4, false]);
    exit.data.set([1, 2, 3, 4]);
    assert.equal(vcpu.run(), ExitReason.MMIO);
    assert.deepEqual([exit.address, exit.size, exit.isWrite], [0x3ff00008, 8, true]);
    assert.deepEqual([...exit.data.subarray(0, 8)], [1, 2, 3, 4, 0, 0, 0, 0]);
  });

  test("kick makes the next run return", () => {
    startRealMode(machine, "ebfe");
    machine.vcpu.kick();
    assert.equal(machine.vcpu.run(), ExitReason.INTR);
  });

  test("an answer that is still to be taken survives a kick", () => {
    startRealMode(machine, "e460 e662");
    const { vcpu } = machine;
    assert.equal(vcpu.run(), ExitReason.IO);
    vcpu.exit.data[0] = 0x42;
    vcpu.kick();
    assert.equal(vcpu.run(), ExitReason.INTR);
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.equal(vcpu.exit.isWrite, true);
    assert.equal(vcpu.exit.data[0], 0x42);
  });

  test("a triple fault is a shutdown", () => {
    startLongMode(machine, "0f0b");
    const sregs = machine.vcpu.getSregs();
    machine.vcpu.setSregs({ ...sregs, idt: { base: 0n, limit: 0 } });
    assert.equal(machine.vcpu.run(), ExitReason.SHUTDOWN);
  });

  for (const loadLate of [false, true]) {
    const how = loadLate ? ", loaded when it is needed" : "";
    test(`an instruction that KVM cannot emulate is done by the software CPU${how}, its MMIO access included`, async () => {
      if (loadLate) {
        machine.vm.close();
        machine = makeMachine({ loadLate });
      }
      // paddd xmm0, [rbx]; movd eax, xmm0; out 0x10, al
      startLongMode(machine, "660ffe03 660f7ec0 e610", { rbx: 0x3ff00000n });
      const { vcpu } = machine;
      const fpu = vcpu.getFpu();
      fpu.xmm[0] = 5;
      vcpu.setFpu(fpu);
      const { exit } = vcpu;
      let loads = 0;
      for (let reason = vcpu.run(); reason !== ExitReason.IO; reason = vcpu.run()) {
        if (reason === ExitReason.INTERNAL_ERROR) {
          loads++;
          assert.equal(await vcpu.recover(), true);
          continue;
        }
        assert.deepEqual([reason, exit.isWrite], [ExitReason.MMIO, false]);
        exit.data.fill(0);
        if (exit.address === 0x3ff00000) exit.data[0] = 37;
      }
      assert.equal(loads, loadLate ? 1 : 0);
      assert.equal(exit.data[0], 42);
      assert.ok(vcpu.steps >= 1);
      assert.equal(await vcpu.recover(), false);
    });
  }

  test("single-stepping", () => {
    startRealMode(machine, "90 90 90");
    const { vcpu } = machine;
    vcpu.setGuestDebug({ enable: true, singleStep: true, useSoftwareBreakpoints: false });
    for (let i = 1; i <= 3; i++) {
      assert.equal(vcpu.run(), ExitReason.DEBUG);
      assert.equal(vcpu.exit.debug.pc, BigInt(CODE + i));
    }
  });

  test("HLT sleeps in the kernel until an interrupt comes", () => {
    const { vcpu, vm, guestMemory } = machine;
    // mov al, 0x11; out 0x20, al; mov al, 8; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al;
    // xor al, al; out 0x21, al; out 0x12, al; sti; hlt; out 0x10, al; jmp $
    startRealMode(machine, "b011 e620 b008 e621 b004 e621 b001 e621 30c0 e621 e612 fb f4 e610 ebfe");
    // IRQ 4: vector 12, handler at 0x3000: out 0x11, al; mov al, 0x20; out 0x20, al; iret
    guestMemory.writeU32(gpa(4 * 12), 0x3000);
    guestMemory.write(gpa(0x3000), Buffer.from("e611b020e620cf", "hex"));
    const nextPort = () => (vcpu.run() === ExitReason.IO ? vcpu.exit.port : undefined);
    assert.equal(nextPort(), 0x12);
    vm.setIrqLine(4, true);
    assert.equal(nextPort(), 0x11);
    assert.equal(nextPort(), 0x10);
  });
});

describe("from another thread", { skip: noKvm }, () => {
  const THREAD = new URL("./support/run-thread.js", import.meta.url);

  interface Elsewhere {
    readonly machine: TestMachine;
    /** The reason of the one run's end. */
    readonly reason: Promise<unknown>;
    readonly ended: Promise<unknown>;
  }

  /** Resolves when the thread is about to run the vCPU. */
  async function runElsewhere(start: (machine: TestMachine) => void): Promise<Elsewhere> {
    const machine = makeMachine();
    start(machine);
    const worker = new Worker(THREAD, { workerData: { machine: machine.data } });
    const ended = new Promise((resolve) => worker.once("exit", resolve));
    const messages: unknown[] = [];
    const reason = new Promise((resolve) => {
      worker.on("message", (message) => {
        if (messages.push(message) === 2) resolve(message);
      });
    });
    await new Promise((resolve) => worker.once("message", resolve));
    return { machine, reason, ended };
  }

  for (const [name, code] of [
    ["a guest in an endless loop", "ebfe"],
    ["a guest that sleeps with interrupts off", "fa f4"],
  ]) {
    test(`kick stops ${name}`, async () => {
      const { machine, reason, ended } = await runElsewhere((made) => startRealMode(made, code));
      await new Promise((resolve) => setTimeout(resolve, 50));
      machine.vcpu.kick();
      assert.equal(await reason, ExitReason.INTR);
      await ended;
      machine.vm.close();
    });
  }

  test("many kicks, none lost and none left over", async () => {
    const { machine, ended } = await runElsewhere((made) => startRealMode(made, "ebfe"));
    machine.vcpu.kick();
    await ended;
    const again = new Worker(THREAD, { workerData: { machine: machine.data, rounds: 200 } });
    let rounds = 0;
    again.on("message", () => {
      rounds++;
      machine.vcpu.kick();
    });
    await new Promise((resolve) => again.once("exit", resolve));
    // One message to begin with, one a round.
    assert.equal(rounds, 201);
    machine.vm.close();
  });

  test("an NMI reaches a running vCPU", async () => {
    const { machine, reason, ended } = await runElsewhere((made) => {
      startRealMode(made, "ebfe");
      // Vector 2: out 0x22, al
      made.guestMemory.writeU32(gpa(4 * 2), 0x3000);
      made.guestMemory.write(gpa(0x3000), Buffer.from("e622ebfe", "hex"));
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    machine.vcpu.nmi();
    assert.equal(await reason, ExitReason.IO);
    await ended;
    machine.vm.close();
  });

  test("the state of a vCPU that another thread ran", async () => {
    const { machine, ended } = await runElsewhere((made) => startRealMode(made, "b8cdab e610"));
    await ended;
    assert.equal(machine.vcpu.getRegs().rax & 0xffffn, 0xabcdn);
    assert.equal(machine.vcpu.getMpState(), MpState.RUNNABLE);
    machine.vm.close();
  });
});
