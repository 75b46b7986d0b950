/**
 * The program `/nlkt/report-status N` of the default guest: writes the byte N to `GUEST_STATUS_PORT`.
 *
 * busybox has no applet that reaches I/O ports, and Debian's cloud kernels have no /dev/port (CONFIG_DEVPORT), but
 * ioperm(2) is in every distribution's kernel. So this is a static ELF program of one segment, small enough to be
 * written down as machine code. Exit status 0, or 1 where the kernel refuses the port.
 */
import { GUEST_STATUS_PORT } from "./guest-command.js";

const SYS_IOPERM = 173;
const SYS_EXIT = 60;

const u32 = (value: number) => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24];

/** Machine code, and what it is in GNU assembler syntax; the test assembles the latter and compares. */
export const STATUS_PROGRAM: readonly (readonly [code: readonly number[], assembly: string])[] = [
  [[0x48, 0x8b, 0x74, 0x24, 0x10], "mov rsi, [rsp + 16]"], // argv[1] (System V ABI, AMD64, 3.4.1)
  [[0x31, 0xdb], "xor ebx, ebx"],
  [[0x31, 0xc0], "xor eax, eax"],
  [[0xac], "digit: lodsb"],
  [[0x2c, 0x30], "sub al, '0'"],
  [[0x72, 0x07], "jb number"], // the NUL at the end
  [[0x6b, 0xdb, 0x0a], "imul ebx, ebx, 10"],
  [[0x01, 0xc3], "add ebx, eax"],
  [[0xeb, 0xf4], "jmp digit"],
  [[0xbf, ...u32(GUEST_STATUS_PORT)], `number: mov edi, ${GUEST_STATUS_PORT}`],
  [[0xbe, ...u32(1)], "mov esi, 1"],
  [[0x89, 0xf2], "mov edx, esi"],
  [[0xb8, ...u32(SYS_IOPERM)], `mov eax, ${SYS_IOPERM}`],
  [[0x0f, 0x05], "syscall"], // ioperm(port, 1, 1)
  [[0x85, 0xc0], "test eax, eax"],
  [[0x75, 0x07], "jnz refused"],
  [[0x89, 0xfa], "mov edx, edi"],
  [[0x89, 0xd8], "mov eax, ebx"],
  [[0xee], "out dx, al"],
  [[0x31, 0xf6], "xor esi, esi"],
  [[0x89, 0xf7], "refused: mov edi, esi"], // ESI is still 1 where ioperm failed
  [[0xb8, ...u32(SYS_EXIT)], `mov eax, ${SYS_EXIT}`],
  [[0x0f, 0x05], "syscall"],
];

const BASE = 0x400000;
const EHDR_SIZE = 64;
const PHDR_SIZE = 56;

/** The program as an ELF file (System V ABI, generic: "ELF Header", "Program Header"). */
export function statusProgram(): Uint8Array {
  const code = Buffer.from(STATUS_PROGRAM.flatMap(([bytes]) => bytes));
  const headers = EHDR_SIZE + PHDR_SIZE;
  const size = headers + code.length;
  const file = Buffer.alloc(size);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // magic, ELFCLASS64, ELFDATA2LSB, EV_CURRENT
  file.writeUInt16LE(2, 16); // e_type = ET_EXEC
  file.writeUInt16LE(62, 18); // e_machine = EM_X86_64
  file.writeUInt32LE(1, 20); // e_version
  file.writeBigUInt64LE(BigInt(BASE + headers), 24); // e_entry
  file.writeBigUInt64LE(BigInt(EHDR_SIZE), 32); // e_phoff
  file.writeUInt16LE(EHDR_SIZE, 52); // e_ehsize
  file.writeUInt16LE(PHDR_SIZE, 54); // e_phentsize
  file.writeUInt16LE(1, 56); // e_phnum
  file.writeUInt32LE(1, EHDR_SIZE); // p_type = PT_LOAD
  file.writeUInt32LE(5, EHDR_SIZE + 4); // p_flags = PF_R | PF_X
  file.writeBigUInt64LE(BigInt(BASE), EHDR_SIZE + 16); // p_vaddr
  file.writeBigUInt64LE(BigInt(BASE), EHDR_SIZE + 24); // p_paddr
  file.writeBigUInt64LE(BigInt(size), EHDR_SIZE + 32); // p_filesz
  file.writeBigUInt64LE(BigInt(size), EHDR_SIZE + 40); // p_memsz
  file.writeBigUInt64LE(0x1000n, EHDR_SIZE + 48); // p_align
  file.set(code, headers);
  return file;
}
