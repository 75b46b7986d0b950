/**
 * The exceptions of test/guests/support/qemu-limits.ts that say that something is not refused in the lab, proven without NLKT: a C
 * program runs the same instructions on raw KVM. Where an exception has lost its ground, its probe fails.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { before, describe, test } from "node:test";
import { hardwareVirtualization } from "../../src/hypervisor/kvm/host-cpu.js";
import { onQemu } from "../guests/support/limits.js";
import { AMD_TESTS, QEMU_TESTS } from "../guests/support/qemu-limits.js";
import { noKvm, temporaryFile } from "./support.js";

/** Runs the code of each argument in a VM of its own, in 64-bit mode at CPL 0 without an IDT, and prints how it came out. */
const SOURCE = `
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define RAM 0x200000
#define CODE 0x1000

static int must(int result, const char *what) {
  if (result < 0) { perror(what); exit(1); }
  return result;
}

static void probe(int kvm, int size, const char *hex) {
  int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  must(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
  must(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
  unsigned char *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  struct kvm_userspace_memory_region region = { .memory_size = RAM, .userspace_addr = (unsigned long)ram };
  must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  for (unsigned i = 0, byte; sscanf(hex + 2 * i, "%2x", &byte) == 1; i++) ram[CODE + i] = byte;
  *(unsigned long *)(ram + 0x2000) = 0x3003;
  *(unsigned long *)(ram + 0x3000) = 0x4003;
  *(unsigned long *)(ram + 0x4000) = 0x83;
  int vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[256]; } cpuid = { .head.nent = 256 };
  must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
  must(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
  struct kvm_sregs s;
  must(ioctl(vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
  struct kvm_segment flat = { .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
  s.ds = s.es = s.fs = s.gs = s.ss = flat;
  s.cs = flat;
  s.cs.selector = 8; s.cs.type = 11; s.cs.db = 0; s.cs.l = 1;
  s.idt.limit = 0;
  s.cr0 = 0x80000031; s.cr3 = 0x2000; s.cr4 = 0x620; s.efer = 0x500;
  must(ioctl(vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
  struct kvm_regs r = { .rip = CODE, .rsp = 0x8000, .rbx = 0x7000, .rflags = 2 };
  must(ioctl(vcpu, KVM_SET_REGS, &r), "KVM_SET_REGS");
  must(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
  printf("%u\\n", run->exit_reason);
}

int main(int argc, char **argv) {
  int kvm = must(open("/dev/kvm", O_RDWR), "/dev/kvm");
  int size = must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  for (int i = 1; i < argc; i++) probe(kvm, size, argv[i]);
}
`;

/** KVM's exits: the guest came to the OUT at the end; a fault, which is a triple fault; KVM could not go on. */
const Came = { THROUGH: 2, REFUSED: 8, NOT_ENTERED: 9 } as const;

interface Probe {
  /** The test of test/guests that is left out. */
  readonly test: string;
  /** Code that the manual has fault. OUT comes after it. */
  readonly code: string;
  /** What it comes to in the lab. */
  readonly inTheLab: number;
}

const wrmsr = (index: string, low: string, high: string) => `b9${index} b8${low} ba${high} 0f30`;

const PROBES: readonly Probe[] = [
  {
    // mov rax, cr0; bts rax, 32; mov cr0, rax
    test: "MOV CR0: bits 63–32 in 64-bit mode is #GP(0) (SDM 2, MOV CR)",
    code: "0f20c0 480fbae820 0f22c0",
    inTheLab: Came.THROUGH,
  },
  {
    // mov rax, cr4; bts rax, 32; mov cr4, rax
    test: "MOV CR4: a reserved bit in the upper half is #GP(0) (SDM 2, MOV CR)",
    code: "0f20e0 480fbae820 0f22e0",
    inTheLab: Came.THROUGH,
  },
  {
    // mov eax, 16; mov cr8, rax
    test: "MOV CR8 is the TPR's upper half; above 15 is #GP (SDM 3A, 11.8.6.1)",
    code: "b810000000 440f22c0",
    inTheLab: Came.THROUGH,
  },
  {
    // mov rax, cr3; bts rax, 51; mov cr3, rax
    test: "MOV CR3: bits beyond MAXPHYADDR are #GP(0) in IA-32e mode (SDM 2, MOV CR)",
    code: "0f20d8 480fbae833 0f22d8",
    inTheLab: Came.NOT_ENTERED,
  },
  {
    // mov rax, cr4; bts rax, 16; mov cr4, rax; bts rax, 62; wrfsbase rax
    test: "RDFSBASE and its kin need CR4.FSGSBASE, work at CPL 3, check for canonical values (SDM 2, WRFSBASE)",
    code: "0f20e0 480fbae810 0f22e0 480fbae83e f3480faed0",
    inTheLab: Came.THROUGH,
  },
  {
    // xor eax, eax; ltr ax
    test: "long: LTR, a null selector (SDM 2, LTR)",
    code: "31c0 0f00d8",
    inTheLab: Came.THROUGH,
  },
  {
    // bts rax, 62; mov [rbx+2], rax; lgdt [rbx]
    test: "LGDT and LIDT of a non-canonical base are #GP(0) (SDM 2, LGDT)",
    code: "31c0 480fbae83e 48894302 0f0113",
    inTheLab: Came.THROUGH,
  },
  ...(
    [
      ["IA32_LSTAR", "820000c0", "00000040"],
      ["IA32_CSTAR", "830000c0", "00000040"],
      ["IA32_FMASK", "840000c0", "01000000"],
      ["IA32_FS_BASE", "000100c0", "00000040"],
      ["IA32_GS_BASE", "010100c0", "00000040"],
      ["IA32_KERNEL_GS_BASE", "020100c0", "00000040"],
    ] as const
  ).map(([name, index, high]) => ({
    test: `${name}: valid values are kept, others are #GP(0) (SDM 4)`,
    code: wrmsr(index, "00000000", high),
    inTheLab: Came.THROUGH,
  })),
];

/** mov al, 1; out 0x10, al */
const END = "b001 e610";
/** Comes through everywhere, and is refused everywhere: UD2. */
const CONTROLS = [
  { code: "90", comes: Came.THROUGH },
  { code: "0f0b", comes: Came.REFUSED },
] as const;

const skip =
  noKvm !== false
    ? noKvm
    : process.arch !== "x64" ||
        !existsSync("/usr/include/linux/kvm.h") ||
        spawnSync("gcc", ["--version"]).error
      ? "no gcc, or no <linux/kvm.h>"
      : hardwareVirtualization() === undefined && "KVM's emulator is what would be asked";

describe("what processors refuse, on raw KVM", { skip }, () => {
  let exits: number[];
  before(() => {
    const [source, binary] = [temporaryFile("raw.c"), temporaryFile("raw")];
    writeFileSync(source, SOURCE);
    execFileSync("gcc", ["-o", binary, source]);
    const codes = [...CONTROLS, ...PROBES].map(({ code }) => `${code}${END}`.replaceAll(" ", ""));
    exits = execFileSync(binary, codes, { encoding: "utf8" }).trimEnd().split("\n").map(Number);
  });

  test("the probes tell what is refused", () => {
    assert.deepEqual(
      exits.slice(0, CONTROLS.length),
      CONTROLS.map(({ comes }) => comes),
    );
  });

  PROBES.forEach(({ test: name, inTheLab }, i) => {
    test(name, () => {
      const named = [...AMD_TESTS, ...QEMU_TESTS].some(({ tests }) => tests.includes(name));
      assert.ok(named, "it is an exception");
      assert.equal(exits[CONTROLS.length + i], onQemu ? inTheLab : Came.REFUSED);
    });
  });
});
