/*
 * For programs that are a machine's kernel: entered in 32-bit protected mode (Multiboot Specification 0.6.96, 3.2). All vCPUs come to
 * `kernel_main`, in 64-bit mode with 4 GiB mapped onto themselves, in x2APIC mode, all CPUS of them. It ends the machine by `finish`.
 */
#pragma once
#define OWN_START
#include "smp.h"

enum { MAX_CPUS = 8, STACK = 0x4000, TRAMPOLINE = 0x8000 };
enum { DEBUG_EXIT = 0xf4, COM1 = 0x3f8 };

static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }

void kernel_main(u32 id, u32 count);

/* Page tables: PML4, PDPT, four page directories of 2 MiB pages. */
u64 boot_tables[6 * 512] __attribute__((aligned(4096)));
u8 boot_stacks[MAX_CPUS * STACK] __attribute__((aligned(16)));
u32 boot_ids;
static volatile u32 boot_go;
static u64 idt[512] __attribute__((aligned(16)));

__asm__(
    ".text\n\t.code32\n\t.globl _start\n"
    "_start:\n\tcli\n"
    "\tmovl $boot_tables, %edi\n"
    "\tleal 4096+3(%edi), %eax\n\tmovl %eax, (%edi)\n"
    "\txorl %ecx, %ecx\n"
    "1:\tleal 8192+3(%edi), %eax\n\tmovl %ecx, %edx\n\tshll $12, %edx\n\taddl %edx, %eax\n"
    "\tmovl %eax, 4096(%edi, %ecx, 8)\n\tincl %ecx\n\tcmpl $4, %ecx\n\tjb 1b\n"
    "\txorl %ecx, %ecx\n"
    "1:\tmovl %ecx, %eax\n\tshll $21, %eax\n\torl $0x83, %eax\n\tmovl %eax, 8192(%edi, %ecx, 8)\n"
    "\tincl %ecx\n\tcmpl $2048, %ecx\n\tjb 1b\n"
    "boot_long:\n"
    "\tmovl $boot_tables, %eax\n\tmovl %eax, %cr3\n"
    "\tmovl $0x20, %eax\n\tmovl %eax, %cr4\n"
    "\tmovl $0xc0000080, %ecx\n\trdmsr\n\torl $0x100, %eax\n\twrmsr\n"
    "\tmovl $0x80000011, %eax\n\tmovl %eax, %cr0\n"
    "\tlgdt boot_gdtr\n\tljmp $8, $boot_64\n"
    "\t.code64\n"
    "boot_64:\n\tmovl $16, %eax\n\tmovl %eax, %ds\n\tmovl %eax, %es\n\tmovl %eax, %ss\n"
    "\tmovl $1, %edi\n\tlock xaddl %edi, boot_ids\n"
    "\tmovl %edi, %esp\n\tincl %esp\n\timull $0x4000, %esp, %esp\n\taddl $boot_stacks, %esp\n"
    "\tcall boot_main\n"
    "\t.p2align 3\n"
    "boot_gdt:\n\t.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff\n"
    "boot_gdtr:\n\t.word 31\n\t.long boot_gdt\n"
    /* For TRAMPOLINE; the start-up IPI enters it in real mode, at its first byte. */
    "\t.code16\n"
    "boot_ap:\n\tcli\n\txorw %ax, %ax\n\tmovw %ax, %ds\n"
    "\tlgdtl 0x8000 + boot_ap_gdtr - boot_ap\n"
    "\tmovl $0x11, %eax\n\tmovl %eax, %cr0\n\tljmpl $24, $0x8000 + boot_ap_32 - boot_ap\n"
    "\t.code32\n"
    "boot_ap_32:\n\tmovl $16, %eax\n\tmovl %eax, %ds\n\tmovl $boot_long, %eax\n\tjmp *%eax\n"
    "boot_ap_gdtr:\n\t.word 31\n\t.long boot_gdt\n"
    "boot_ap_end:\n\t.code64\n");
extern u8 boot_ap[], boot_ap_end[];

/* The verdict: the machine's status is 2 × value + 1. */
__attribute__((noreturn)) static void finish(u8 value) {
  for (;;) outb(DEBUG_EXIT, value);
}
static void print(const char *text) {
  for (; *text; text++) outb(COM1, *text);
}
static void print_number(u32 n) {
  if (n >= 10) print_number(n / 10);
  const char digit[] = { (char)('0' + n % 10), 0 };
  print(digit);
}
enum { GOOD = 0x10, BAD = 0x20 };
__attribute__((noreturn)) static void fail(u32 line) {
  print("failed at line ");
  print_number(line);
  print("\n");
  finish(BAD);
}
#undef FAIL
#define FAIL() fail(__LINE__)

static void gate(u32 vector, void (*handler)(void)) {
  const u64 at = (u64)handler;
  idt[2 * vector + 1] = at >> 32;
  idt[2 * vector] = (at & 0xffff) | 8ul << 16 | 0x8e00ul << 32 | (at & 0xffff0000) << 32;
}
static void load_idt(void) {
  const struct { u16 limit; u64 base; } __attribute__((packed)) idtr = { sizeof idt - 1, (u64)idt };
  __asm__ volatile("lidt %0" ::"m"(idtr));
}

enum { X2APIC_ID = 0x802, X2APIC_EOI = 0x80b, X2APIC_SVR = 0x80f, X2APIC_ICR = 0x830 };

void boot_main(u32 id) {
  load_idt();
  wrmsr(0x1b, 0xfee00c00 | (id == 0 ? 0x100 : 0));
  wrmsr(X2APIC_SVR, 0x1ff);
  if (id == 0) {
    for (u8 *from = boot_ap, *to = (u8 *)TRAMPOLINE; from != boot_ap_end;) *to++ = *from++;
    /* To all but itself: INIT, and two start-up IPIs (SDM vol. 3A, 9.4.4.1). */
    wrmsr(X2APIC_ICR, 0xc4500);
    wrmsr(X2APIC_ICR, 0xc4600 | TRAMPOLINE >> 12);
    wrmsr(X2APIC_ICR, 0xc4600 | TRAMPOLINE >> 12);
    while (*(volatile u32 *)&boot_ids != CPUS) cpu_pause();
    boot_go = 1;
  } else {
    while (!boot_go) cpu_pause();
  }
  kernel_main(id, CPUS);
  for (;;) __asm__ volatile("hlt");
}
