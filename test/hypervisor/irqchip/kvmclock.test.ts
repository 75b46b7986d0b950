// Written from Linux's Documentation/virt/kvm/x86/msr.rst and arch/x86/include/asm/pvclock-abi.h.
import assert from "node:assert/strict";
import test from "node:test";
import { KvmClock } from "../../../src/hypervisor/soft/irqchip/kvmclock.js";
import { GuestMemory, gpa } from "../../../src/memory/guest-memory.js";
import { SharedMemory } from "../../../src/memory/shared-memory.js";
import { StateAllocator } from "../../../src/memory/state-allocator.js";

const WALL = 0x4b564d00;
const SYSTEM = 0x4b564d01;
const RAM = 0x10000;
const WALL_TIME = 1_800_000_000_123_456_789n;

function fixture(vcpus = 1) {
  const memory = SharedMemory.create(RAM * 2);
  const slot = { slot: 0, guestPhysical: gpa(0), size: RAM, offset: RAM, readonly: false, logDirty: false };
  const guest = new GuestMemory(memory, [slot]);
  const clock = { time: 0, now: () => clock.time };
  const offsets = new Array<bigint>(vcpus).fill(0n);
  const marks: [number, number][] = [];
  guest.onWrite((offset, length) => marks.push([offset - RAM, length]));
  const kvmclock = new KvmClock(
    memory,
    new StateAllocator(memory, 64, RAM),
    clock,
    { tscOffset: (vcpu) => offsets[vcpu] },
    guest,
    vcpus,
    () => WALL_TIME + BigInt(Math.floor(clock.time)),
  );
  kvmclock.reset();
  return { memory, guest, clock, offsets, kvmclock, marks };
}

/** What the guest computes from its structure at TSC `tsc`. */
function guestTime(guest: GuestMemory, at: number, tsc: bigint): bigint {
  assert.equal(guest.readU32(gpa(at)) & 1, 0, "version is even");
  const delta = tsc - guest.readU64(gpa(at + 8));
  const shift = guest.memory.data.getInt8(guest.offset(gpa(at + 28), 1));
  const scaled = shift < 0 ? delta >> BigInt(-shift) : delta << BigInt(shift);
  return guest.readU64(gpa(at + 16)) + ((scaled * BigInt(guest.readU32(gpa(at + 24)))) >> 32n);
}

test("system time: the guest's reading is the clock at any later time", () => {
  const f = fixture();
  f.offsets[0] = 777n;
  f.clock.time = 5_000_000_123.7;
  f.kvmclock.writeMsr(0, SYSTEM, 0x2001n);
  assert.equal(f.kvmclock.readMsr(0, SYSTEM), 0x2001n);
  assert.equal(f.kvmclock.readMsr(0, 0x12), 0x2001n);
  assert.equal(guestTime(f.guest, 0x2000, 5_000_000_123n + 777n), 5_000_000_123n);
  assert.equal(guestTime(f.guest, 0x2000, 95_000_000_123n + 777n), 95_000_000_123n);
  assert.equal(f.guest.readU8(gpa(0x201d)) & 1, 1, "PVCLOCK_TSC_STABLE_BIT");
  assert.deepEqual(f.marks, [[0x2000, 32]]);
  f.clock.time = 6e9;
  assert.equal(f.kvmclock.getClock(), 6_000_000_000n);
});

test("system time: without bit 0 nothing is written; the version grows by two", () => {
  const f = fixture();
  f.kvmclock.writeMsr(0, SYSTEM, 0x2000n);
  assert.deepEqual(f.marks, []);
  f.kvmclock.writeMsr(0, SYSTEM, 0x2001n);
  const version = f.guest.readU32(gpa(0x2000));
  f.kvmclock.writeMsr(0, 0x12, 0x2001n);
  assert.equal(f.guest.readU32(gpa(0x2000)), version + 2);
  assert.equal(version % 2, 0);
});

test("setting the clock or the TSC updates what the guest has", () => {
  const f = fixture(2);
  f.kvmclock.writeMsr(0, SYSTEM, 0x2001n);
  f.kvmclock.writeMsr(1, SYSTEM, 0x2041n);
  f.clock.time = 1000;
  f.kvmclock.setClock(1_000_000n);
  assert.equal(f.kvmclock.getClock(), 1_000_000n);
  assert.equal(guestTime(f.guest, 0x2000, 1500n), 1_000_500n);
  assert.equal(guestTime(f.guest, 0x2040, 1500n), 1_000_500n);
  f.offsets[1] = 0xffffffff_fffffff0n;
  f.kvmclock.tscChanged();
  assert.equal(guestTime(f.guest, 0x2040, 1484n), 1_000_500n);
  // vCPU 0's page alone no longer does for both.
  assert.equal(f.guest.readU8(gpa(0x201d)) & 1, 0);
  assert.equal(f.guest.readU8(gpa(0x205d)) & 1, 0);
});

test("wall clock: the time at the system time's zero", () => {
  const f = fixture();
  f.clock.time = 7_000_000_000;
  f.kvmclock.writeMsr(0, WALL, 0x3000n);
  assert.equal(f.kvmclock.readMsr(0, 0x11), 0x3000n);
  assert.equal(f.guest.readU32(gpa(0x3000)) & 1, 0);
  assert.equal(f.guest.readU32(gpa(0x3004)), 1_800_000_000);
  assert.equal(f.guest.readU32(gpa(0x3008)), 123_456_789);
  f.kvmclock.setClock(7_000_000_000n + 500_000_000n);
  f.kvmclock.writeMsr(0, 0x11, 0x3000n);
  assert.equal(f.guest.readU32(gpa(0x3004)), 1_799_999_999);
  assert.equal(f.guest.readU32(gpa(0x3008)), 623_456_789);
});

test("addresses outside of RAM, at its end or misaligned get nothing", () => {
  const f = fixture();
  for (const address of [BigInt(RAM), BigInt(RAM - 28), 0x2002n, 0xffffffff_fffffffen, 0xfee00000n]) {
    f.kvmclock.writeMsr(0, SYSTEM, address | 1n);
    f.kvmclock.writeMsr(0, WALL, address === 0x2002n ? address : address + 30n);
  }
  assert.deepEqual(f.marks, []);
  f.kvmclock.writeMsr(0, SYSTEM, BigInt(RAM - 32) | 1n);
  assert.equal(f.marks.length, 1);
});

test("which MSRs are the clock's", () => {
  for (const msr of [0x11, 0x12, WALL, SYSTEM]) assert.ok(KvmClock.claimsMsr(msr));
  for (const msr of [0x10, 0x13, 0x4b564d02, 0x4b564d03, 0x4b564d04]) assert.ok(!KvmClock.claimsMsr(msr));
});
