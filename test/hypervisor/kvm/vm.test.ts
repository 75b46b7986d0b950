/** The VM: memory slots, dirty log, interrupts, doorbells, clocks, CPUID; and the vCPU's register groups. */
import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import { eventfd, signalEventfd } from "../../../src/hypervisor/kvm/host.js";
import { ExitReason, MpState, type Vcpu } from "../../../src/hypervisor/seam.js";
import { gpa } from "../../../src/memory/guest-memory.js";
import {
  hex,
  type MachineOptions,
  makeMachine,
  noKvm,
  RAM_BYTES,
  startLongMode,
  startRealMode,
  type TestMachine,
} from "./support/kvm-machine.js";

const GIB = 2 ** 30;
const PAGE = 4096;

let machine: TestMachine;
function make(options?: MachineOptions): TestMachine {
  machine = makeMachine(options);
  return machine;
}
const close = () => machine.vm.close();

describe("memory of a KVM VM", { skip: noKvm }, () => {
  afterEach(close);

  test("several slots, one of them past 4 GiB", () => {
    const high = 5 * GIB;
    const { vcpu, guestMemory } = make({
      ram: [
        [0, RAM_BYTES],
        [high, RAM_BYTES],
      ],
    });
    guestMemory.writeU64(gpa(high + 0x10), 0x1122334455667788n);
    // mov rax, [rbx+0x10]; inc rax; mov [rbx+0x18], rax; out 0x10, al
    startLongMode(machine, "488b4310 48ffc0 48894318 e610", { rbx: 0x40000000n });
    // The first page of the second GiB of linear addresses leads past 4 GiB.
    guestMemory.writeU64(gpa(0x3008), 0xa003n);
    guestMemory.writeU64(gpa(0xa000), 0xb003n);
    guestMemory.writeU64(gpa(0xb000), BigInt(high) | 3n);
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.equal(guestMemory.readU64(gpa(high + 0x18)), 0x1122334455667789n);
  });

  test("a write to a read-only slot is an MMIO exit", () => {
    const { vm, vcpu, guestMemory, data } = make();
    vm.setMemorySlot({ ...data.slots[0], size: 0 });
    vm.setMemorySlot({ ...data.slots[0], size: 0x8000 });
    const rom = { ...data.slots[0], slot: 1, guestPhysical: gpa(0x8000), size: PAGE };
    vm.setMemorySlot({ ...rom, offset: data.slots[0].offset + 0x8000, readonly: true });
    guestMemory.writeU8(gpa(0x8000), 0x5a);
    // mov al, [0x8000]; inc al; mov [0x8001], al
    startRealMode(machine, "a00080 fec0 a20180", { rsp: 0x7000n });
    assert.equal(vcpu.run(), ExitReason.MMIO);
    const { exit } = vcpu;
    assert.deepEqual([exit.address, exit.isWrite, exit.data[0]], [0x8001, true, 0x5b]);
    assert.equal(guestMemory.readU8(gpa(0x8001)), 0);
  });

  test("the dirty log has what guest and host wrote, once", () => {
    const { vm, vcpu, guestMemory, data } = make();
    // mov [0x9000], al; out 0x10, al; mov [0xb000], al; out 0x10, al
    startRealMode(machine, "a20090 e610 a200b0 e610");
    const slot = { ...data.slots[0], logDirty: true };
    guestMemory.writeU8(gpa(0x20000), 1);
    vm.setMemorySlot(slot);
    const dirty = () =>
      [...vm.getDirtyLog(0)].flatMap((byte, i) =>
        [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => (byte >> bit) & 1).map((bit) => 8 * i + bit),
      );
    vcpu.run();
    guestMemory.write(gpa(0x30fff), new Uint8Array(2));
    assert.deepEqual(
      dirty().filter((page) => page >= 9),
      [9, 0x30, 0x31],
    );
    vcpu.run();
    assert.deepEqual(
      dirty().filter((page) => page >= 9),
      [0xb],
    );
    assert.equal(vm.getDirtyLog(0).length, RAM_BYTES / PAGE / 8);
  });

  test("what is no slot is refused", () => {
    const { vm, data } = make();
    const slot = data.slots[0];
    assert.throws(() => vm.setMemorySlot({ ...slot, slot: 64 }), RangeError);
    assert.throws(() => vm.setMemorySlot({ ...slot, size: 100 }), RangeError);
    assert.throws(() => vm.getDirtyLog(1), RangeError);
    assert.throws(() => vm.setMemorySlot({ ...slot, slot: 1 }), /memory slot 1: .*EEXIST/);
  });
});

/** Long mode with an IDT at 0x5000 whose vector 0x40 leads to 0x6000, APIC on, interrupts on, in an endless loop. */
function startWithInterrupts(): void {
  const { vcpu, guestMemory } = machine;
  startLongMode(machine, "fb ebfe");
  guestMemory.writeU64(gpa(0x5000 + 16 * 0x40), 0x00008e0000086000n);
  guestMemory.writeU64(gpa(0x7008), 0x00209b0000000000n);
  guestMemory.writeU64(gpa(0x7010), 0x00cf93000000ffffn);
  // out 0x40, al: in KVM's own 8254; so out 0x50, al; add rsp, 24; jmp $
  guestMemory.write(gpa(0x6000), hex("e650 ebfe"));
  const sregs = vcpu.getSregs();
  vcpu.setSregs({ ...sregs, idt: { base: 0x5000n, limit: 0xfff }, gdt: { base: 0x7000n, limit: 0x1f } });
  const lapic = vcpu.getLapic();
  // Spurious-interrupt vector register: APIC enabled.
  lapic.set([0xff, 1], 0xf0);
  vcpu.setLapic(lapic);
}

describe("interrupts of a KVM VM", { skip: noKvm }, () => {
  afterEach(close);

  function taken(): void {
    assert.equal(machine.vcpu.run(), ExitReason.IO);
    assert.equal(machine.vcpu.exit.port, 0x50);
  }

  test("an MSI", () => {
    const { vm } = make();
    startWithInterrupts();
    vm.signalMsi({ address: 0xfee00000n, data: 0x40 });
    taken();
  });

  test("a GSI routed to an MSI", () => {
    const { vm } = make();
    startWithInterrupts();
    vm.setGsiRouting([{ gsi: 30, type: "msi", address: 0xfee00000n, data: 0x40 }]);
    vm.setIrqLine(30, true);
    taken();
  });

  test("an irqfd", async () => {
    const { vm } = make();
    startWithInterrupts();
    vm.setGsiRouting([{ gsi: 30, type: "msi", address: 0xfee00000n, data: 0x40 }]);
    const fd = eventfd();
    vm.assignIrqfd(fd, 30);
    signalEventfd(fd);
    taken();
    vm.deassignIrqfd(fd, 30);
  });

  test("the local APIC's page is written and read", () => {
    const { vcpu } = make();
    startWithInterrupts();
    const lapic = Buffer.from(vcpu.getLapic());
    assert.equal(lapic.length, 1024);
    assert.equal(lapic.readUInt32LE(0xf0), 0x1ff);
  });
});

describe("doorbells of a KVM VM", { skip: noKvm }, () => {
  afterEach(close);

  async function rung(word: number, count: number): Promise<void> {
    const { i32 } = machine.memory;
    // A wait by itself does not keep the process alive.
    const timer = setInterval(() => {}, 1000);
    for (let value = 0; value < count; value = Atomics.load(i32, word >>> 2)) {
      const result = Atomics.waitAsync(i32, word >>> 2, value);
      if (result.async) await result.value;
    }
    clearInterval(timer);
    assert.equal(Atomics.load(i32, word >>> 2), count);
  }

  test("writes that match ring the word and do not exit", async () => {
    const { vm, vcpu, words } = make();
    vm.addDoorbell({ space: "port", address: 0x500, size: 2, word: words });
    vm.addDoorbell({ space: "mmio", address: 0x3ff00000, size: 4, datamatch: 7n, word: words + 4 });
    // mov dx, 0x500; out dx, ax; mov eax, 7; mov [rbx], eax; inc eax; mov [rbx], eax
    startLongMode(machine, "66ba0005 66ef b807000000 8903 ffc0 8903", { rbx: 0x3ff00000n });
    assert.equal(vcpu.run(), ExitReason.MMIO);
    assert.equal(vcpu.exit.data[0], 8);
    await rung(words, 1);
    await rung(words + 4, 1);
  });

  test("a doorbell that was removed makes exits again, and its place is free", async () => {
    const { vm, vcpu, words } = make();
    const bell = { space: "port", address: 0x500, size: 0, word: words } as const;
    for (let i = 0; i < 600; i++) {
      vm.addDoorbell(bell);
      assert.equal(vm.removeDoorbell(bell), true);
    }
    assert.equal(vm.removeDoorbell(bell), false);
    startRealMode(machine, "ba0005 ee");
    assert.equal(vcpu.run(), ExitReason.IO);
  });

  test("two doorbells at one address are refused", () => {
    const { vm, words } = make();
    vm.addDoorbell({ space: "port", address: 0x500, size: 2, word: words });
    assert.throws(
      () => vm.addDoorbell({ space: "port", address: 0x500, size: 2, word: words }),
      /KVM_IOEVENTFD: .*EEXIST/,
    );
  });
});

describe("writes that gather", { skip: noKvm }, () => {
  afterEach(close);

  test("one-byte writes to the port wait in their order, wider ones and other ports exit", () => {
    const { vm, vcpu } = make();
    const { coalesced } = vm;
    assert.ok(coalesced !== undefined, "every Linux since 4.20 can");
    coalesced.setPort(0x3f8, true);
    // mov dx, 0x3f8; mov al, 'a'; out dx, al; inc al; out dx, al; inc al; out dx, al; out dx, ax; out dx, al; out 0x10, al
    startRealMode(machine, "baf803 b061 ee fec0 ee fec0 ee ef ee e610");
    const gathered = () => {
      const writes: [number, number, string][] = [];
      coalesced.drain(({ port, size, count, isWrite, data }) => {
        assert.deepEqual([count, isWrite], [1, true]);
        writes.push([port, size, Buffer.from(data.subarray(0, size)).toString()]);
      });
      return writes;
    };
    assert.equal(coalesced.pending, false);
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.deepEqual([vcpu.exit.port, vcpu.exit.size], [0x3f8, 2]);
    assert.equal(coalesced.pending, true);
    assert.deepEqual(gathered(), [
      [0x3f8, 1, "a"],
      [0x3f8, 1, "b"],
      [0x3f8, 1, "c"],
    ]);
    assert.equal(coalesced.pending, false);
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.equal(vcpu.exit.port, 0x10);
    assert.deepEqual(gathered(), [[0x3f8, 1, "c"]]);
  });

  test("a full ring makes exits; none is lost over several rounds of it", () => {
    const { vm, vcpu } = make();
    const coalesced = vm.coalesced!;
    coalesced.setPort(0x3f8, true);
    // mov dx, 0x3f8; mov cx, 1000; mov al, cl; out dx, al; loop -5; out 0x10, al
    startRealMode(machine, "baf803 b9e803 88c8 ee e2fb e610");
    let expected = 1000;
    const take = (port: number, value: number) => {
      assert.deepEqual([port, value], [0x3f8, expected & 0xff]);
      expected--;
    };
    let exits = 0;
    for (;;) {
      assert.equal(vcpu.run(), ExitReason.IO);
      coalesced.drain(({ port, data }) => take(port, data[0]));
      if (vcpu.exit.port === 0x10) break;
      take(vcpu.exit.port, vcpu.exit.data[0]);
      exits++;
    }
    assert.equal(expected, 0);
    assert.ok(exits > 0 && exits < 20, `${exits}`);
  });

  test("once the port is taken back, its writes exit; to do so twice is no error", () => {
    const { vm, vcpu } = make();
    const coalesced = vm.coalesced!;
    coalesced.setPort(0x3f8, true);
    coalesced.setPort(0x3f8, false);
    coalesced.setPort(0x3f8, false);
    startRealMode(machine, "baf803 ee");
    assert.equal(vcpu.run(), ExitReason.IO);
    assert.equal(vcpu.exit.port, 0x3f8);
  });
});

describe("clocks and CPUID of a KVM VM", { skip: noKvm }, () => {
  afterEach(close);

  test("kvmclock is set and goes on from there", () => {
    const { vm } = make();
    const then = 123_456_789_000_000n;
    vm.setClock(then);
    const now = vm.getClock();
    assert.ok(now >= then && now < then + 10_000_000_000n, `${now}`);
  });

  test("the TSC has a frequency", () => {
    const { vm } = make();
    assert.ok(vm.tscKhz > 100_000 && vm.tscKhz < 10_000_000, `${vm.tscKhz}`);
  });

  test("the vCPU has the CPUID that it was given", () => {
    const { vm, vcpu } = make({ cpus: 2 });
    vcpu.setCpuid(vm.supportedCpuid());
    const of = (list: ReturnType<Vcpu["getCpuid"]>) =>
      list.find(({ function: fn, index }) => fn === 0xb && index === 1);
    assert.deepEqual(of(vcpu.getCpuid()), of(vm.supportedCpuid()));
    // mov eax, 1; cpuid; out 0x10, al
    startLongMode(machine, "b801000000 0fa2 e610");
    vcpu.run();
    const { rcx, rbx } = vcpu.getRegs();
    assert.equal((rcx >> 31n) & 1n, 1n, "a hypervisor is present");
    assert.equal((rbx >> 16n) & 0xffn, 2n, "two logical processors");
  });
});

describe("register groups of a KVM vCPU", { skip: noKvm }, () => {
  let vcpu: TestMachine["vcpu"];
  const fresh = () => {
    vcpu = make().vcpu;
    vcpu.setCpuid(machine.vm.supportedCpuid());
  };
  afterEach(close);

  test("regs, sregs and FPU come back as they were set", () => {
    fresh();
    startLongMode(machine, "90");
    const regs = vcpu.getRegs();
    Object.keys(regs).forEach((name, i) => {
      Object.assign(regs, { [name]: BigInt(i + 1) << 33n });
    });
    regs.rflags = 0x246n;
    vcpu.setRegs(regs);
    assert.deepEqual(vcpu.getRegs(), regs);
    const sregs = vcpu.getSregs();
    sregs.cr2 = 0x123456789abcn;
    sregs.fs.base = 0x7fff12345678n;
    vcpu.setSregs(sregs);
    assert.deepEqual(vcpu.getSregs(), sregs);
    const fpu = vcpu.getFpu();
    fpu.xmm.forEach((_, i) => {
      fpu.xmm[i] = i;
    });
    fpu.fpr.set([1, 2, 3, 4, 5, 6, 7, 0x80, 0xff, 0x3f], 16);
    Object.assign(fpu, { fcw: 0x27f, fsw: 0x3800, ftwx: 0x81, mxcsr: 0x1fa0 });
    vcpu.setFpu(fpu);
    assert.deepEqual(vcpu.getFpu(), fpu);
  });

  test("MSRs: those that exist are read, one that cannot be set is named", () => {
    fresh();
    vcpu.setMsrs([
      { index: 0xc0000082, data: 0xffffffff81000000n },
      { index: 0xc0000102, data: 0x1234n },
    ]);
    assert.deepEqual(vcpu.getMsrs([0xc0000082, 0x12345678, 0xc0000102]), [
      { index: 0xc0000082, data: 0xffffffff81000000n },
      { index: 0xc0000102, data: 0x1234n },
    ]);
    assert.throws(() => vcpu.setMsrs([{ index: 0x12345678, data: 1n }]), /MSR 0x12345678 cannot be 0x1/);
  });

  test("events, MP state, debug registers, XCR0, XSAVE", () => {
    fresh();
    const events = vcpu.getEvents();
    events.nmi.masked = true;
    events.interrupt.shadow = 2;
    vcpu.setEvents(events);
    const found = vcpu.getEvents();
    // Processors with SVM have one shadow for both kinds, and KVM then tells of both.
    if (found.interrupt.shadow === 3) found.interrupt.shadow = 2;
    assert.deepEqual(found, events);
    vcpu.setMpState(MpState.HALTED);
    assert.equal(vcpu.getMpState(), MpState.HALTED);
    vcpu.setMpState(MpState.RUNNABLE);
    const registers = { db: [0x1000n, 0x2000n, 0x3000n, 0x4000n], dr6: 0xffff0ff0n, dr7: 0x401n } as const;
    vcpu.setDebugRegs({ ...registers, db: [...registers.db] });
    assert.deepEqual(vcpu.getDebugRegs(), registers);
    assert.equal(vcpu.getXcr0() & 1n, 1n);
    vcpu.setXcr0(vcpu.getXcr0());
    const area = vcpu.getXsave();
    assert.equal(area.length, 4096);
    vcpu.setXsave(area);
    assert.deepEqual(vcpu.getXsave(), area);
  });

  test("translate", () => {
    fresh();
    startLongMode(machine, "90");
    assert.equal(vcpu.translate(0x12345n), 0x12345);
    assert.equal(vcpu.translate(0x8000000000n), undefined);
    assert.equal(vcpu.translate(0x800000000000n), undefined, "not canonical");
    // Present and the user's, not accessed: no rights are asked for, and nothing is marked.
    const entry = gpa(0x4000 + 8 * 3);
    machine.guestMemory.writeU64(entry, 0x200000n | 0x85n);
    assert.equal(vcpu.translate(0x612345n), 0x212345);
    assert.equal(machine.guestMemory.readU64(entry), 0x200085n);
  });
});
