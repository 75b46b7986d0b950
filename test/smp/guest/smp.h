/* What the guest programs share. Every vCPU enters at _start, in 64-bit mode, with paging on and memory mapped onto itself. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef unsigned __int128 u128;

/* Ports of the test machine (test/guests/support/asm.ts, test/smp/support/smp-thread.ts). */
#define DONE_PORT 0xf4
#define FAIL_PORT 0xe8

/* Where the host looks for results. */
#define RESULTS ((volatile u64 *)0x1000000)

/* Free memory from here on, 4 MiB of it. */
#define ARENA 0x1800000ul

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
static inline void cpu_pause(void) { __asm__ volatile("pause" ::: "memory"); }
static inline void barrier_compiler(void) { __asm__ volatile("" ::: "memory"); }
static inline void mfence(void) { __asm__ volatile("mfence" ::: "memory"); }
/* The serializing instruction of SDM vol. 3A, 9.1.3. */
static inline void serialize(void) {
  u32 a = 0, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}
static inline void wrmsr(u32 index, u64 value) {
  __asm__ volatile("wrmsr" ::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline u64 rdmsr(u32 index) {
  u32 low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
  return low | (u64)high << 32;
}
static inline u64 rdtsc(void) {
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
  return low | (u64)high << 32;
}

/* The line of the source is the code that the host reports. */
#define FAIL() do { outl(FAIL_PORT, __LINE__); for (;;) __asm__ volatile("hlt"); } while (0)
#define CHECK(condition) do { if (!(condition)) FAIL(); } while (0)

/* Wait until all `count` vCPUs are here. */
struct meeting { volatile u32 arrived; volatile u32 turn; };
static inline void meet(struct meeting *m, u32 count) {
  u32 turn = m->turn;
  if (__atomic_add_fetch(&m->arrived, 1, __ATOMIC_SEQ_CST) == count) {
    m->arrived = 0;
    __atomic_add_fetch(&m->turn, 1, __ATOMIC_SEQ_CST);
  } else {
    while (m->turn == turn) cpu_pause();
  }
}

#ifndef OWN_START
/* Called on each vCPU: its number, how many there are, and what the host asks for. */
void guest_main(u32 id, u32 count, u64 what, u64 rounds);

__attribute__((naked, used)) void _start(void) {
  __asm__ volatile("call guest_main\n\tmovb $0, %al\n\toutb %al, $0xf4\n1:\thlt\n\tjmp 1b");
}
#endif
