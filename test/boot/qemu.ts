/**
 * QEMU's software CPU as a second opinion on a `BootState`: its memory is filled with ours, and a ROM of a few
 * instructions, the only firmware there is, enters the kernel in the state that we say.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { GUEST_STATUS_PORT } from "../../src/boot/guest-command.js";
import type { BootState } from "../../src/boot/kernel-image.js";
import { type GuestMemory, gpa } from "../../src/memory/guest-memory.js";
import { hasTool } from "./tools.js";

export const QEMU_TOOLS = ["qemu-system-x86_64", "as", "ld", "objcopy"];

/** The first of `QEMU_TOOLS` that is missing. */
export function missingTool(): string | undefined {
  return QEMU_TOOLS.find((name) => !hasTool(name));
}

const ROM_SIZE = 65536;
const TIMEOUT_MS = 60_000;

/** Offsets of the values that the ROM's first bytes hold. */
const Field = { CR0: 0, CR3: 8, CR4: 16, EFER: 24, RIP: 32, RAX: 40, RBX: 48, RSI: 56, GDTR: 64 } as const;

/** At F000:0000; starts at the reset vector in real mode, ends in 32-bit or 64-bit mode at RIP. */
const ROM_SOURCE = `
        .code16
        .text
state:  .fill 256, 1, 0
gdt:    .quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdtr:   .word . - gdt - 1
        .long 0xf0000 + (gdt - state)
start:  cli
        cs lgdtl gdtr
        mov $1, %eax
        mov %eax, %cr0
        ljmpl $0x10, $(0xf0000 + (flat - state))
        .code32
flat:   mov $0x18, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %fs
        mov %eax, %gs
        mov %eax, %ss
        mov $0xf0000, %ebp
        mov ${Field.CR4}(%ebp), %eax
        mov %eax, %cr4
        mov ${Field.CR3}(%ebp), %eax
        mov %eax, %cr3
        mov $0xc0000080, %ecx
        mov ${Field.EFER}(%ebp), %eax
        and $~0x400, %eax
        xor %edx, %edx
        wrmsr
        mov ${Field.CR0}(%ebp), %eax
        mov %eax, %cr0
        testl $0x400, ${Field.EFER}(%ebp)
        jnz long
        lgdt ${Field.GDTR}(%ebp)
        mov $0x18, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %fs
        mov %eax, %gs
        mov %eax, %ss
        mov ${Field.RAX}(%ebp), %eax
        mov ${Field.RBX}(%ebp), %ebx
        mov ${Field.RSI}(%ebp), %esi
        mov $0x600, %esp
        pushl $0x10
        pushl ${Field.RIP}(%ebp)
        xor %ebp, %ebp
        xor %edi, %edi
        lret
long:   ljmpl $0x20, $(0xf0000 + (long64 - state))
        .code64
long64: mov $0xf0000, %ebp
        lgdt ${Field.GDTR}(%rbp)
        mov $0x18, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %fs
        mov %eax, %gs
        mov %eax, %ss
        mov ${Field.RAX}(%rbp), %rax
        mov ${Field.RBX}(%rbp), %rbx
        mov ${Field.RSI}(%rbp), %rsi
        mov $0x600, %esp
        pushq $0x10
        pushq ${Field.RIP}(%rbp)
        xor %ebp, %ebp
        lretq
        .org 0xfff0
        .code16
        ljmp $0xf000, $(start - state)
        .org ${ROM_SIZE}
`;

function makeRom(directory: string, { regs, sregs }: BootState): string {
  const [source, object, elf, binary] = ["s", "o", "elf", "bin"].map((suffix) =>
    path.join(directory, `rom.${suffix}`),
  );
  writeFileSync(source, ROM_SOURCE);
  execFileSync("as", ["--64", "-o", object, source]);
  execFileSync("ld", ["-Ttext=0", "-e", "0", "-o", elf, object]);
  execFileSync("objcopy", ["-O", "binary", "-j", ".text", elf, binary]);
  const rom = readFileSync(binary);
  const fields = [
    [Field.CR0, sregs.cr0],
    [Field.CR3, sregs.cr3],
    [Field.CR4, sregs.cr4],
    [Field.EFER, sregs.efer],
    [Field.RIP, regs.rip],
    [Field.RAX, regs.rax],
    [Field.RBX, regs.rbx],
    [Field.RSI, regs.rsi],
  ] as const;
  for (const [offset, value] of fields) rom.writeBigUInt64LE(value, offset);
  rom.writeUInt16LE(sregs.gdt.limit, Field.GDTR);
  rom.writeBigUInt64LE(sregs.gdt.base, Field.GDTR + 2);
  writeFileSync(binary, rom);
  return binary;
}

/** Runs the prepared machine; its console, and the status that the guest reported, if it did. */
export function bootInQemu(directory: string, memory: GuestMemory, state: BootState) {
  const loaders: string[] = [];
  const { ramSize } = memory;
  const end = Math.ceil(ramSize / 2 ** 20) * 2 ** 20;
  for (const [start, size] of [
    [0, 0xa0000],
    [0x100000, end - 0x100000],
  ]) {
    const file = path.join(directory, `ram-${start}`);
    writeFileSync(file, Buffer.from(memory.bytes(gpa(start), size)));
    loaders.push("-device", `loader,file=${file},addr=${start},force-raw=on`);
  }
  const machine = [
    "-M",
    "pc",
    "-accel",
    "tcg",
    "-m",
    String(end / 2 ** 20),
    "-display",
    "none",
    "-no-reboot",
  ];
  const ports = ["-serial", "stdio", "-monitor", "none"];
  const exit = ["-device", `isa-debug-exit,iobase=${GUEST_STATUS_PORT},iosize=1`];
  const rom = ["-bios", makeRom(directory, state)];
  const { status, stdout } = spawnSync(
    "qemu-system-x86_64",
    [...machine, ...ports, ...exit, ...rom, ...loaders],
    {
      timeout: TIMEOUT_MS,
      input: "",
      maxBuffer: 2 ** 24,
    },
  );
  // QEMU's device ends it with status (V << 1) | 1.
  return {
    console: stdout.toString(),
    status: status === null || status % 2 === 0 ? undefined : status >> 1,
  };
}
