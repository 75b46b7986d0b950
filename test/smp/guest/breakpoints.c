/*
 * Breakpoints on several vCPUs. `what` 0: debug registers are each vCPU's own (SDM vol. 3B, 18.2), and an INT3 that one vCPU writes is
 * what the others run, after a serializing instruction at once (SDM vol. 3A, 9.1.3), without one soon. 1: the host debugs.
 */
#include "smp.h"

enum { MAX = 8, DB = 1, BP = 3 };
static struct meeting m;

/* DR3, which is not enabled, holds the number of the vCPU. */
static inline u64 self(void) {
  u64 v;
  __asm__ volatile("mov %%dr3, %0" : "=r"(v));
  return v;
}
#define SET_DR(n, v) __asm__ volatile("mov %0, %%dr" #n ::"r"((u64)(v)) : "memory")
static inline u64 dr6(void) {
  u64 v;
  __asm__ volatile("mov %%dr6, %0" : "=r"(v));
  return v;
}

struct counts { volatile u64 data, code, breaks; u64 pad[5]; };
static struct counts counts[MAX] __attribute__((aligned(64)));

#define ENTRY(name, change_frame)                                                                                        \
  void name##_body(void);                                                                                               \
  __attribute__((naked)) static void name(void) {                                                                       \
    __asm__ volatile(change_frame                                                                                       \
                     "push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11\n" \
                     "cld; call " #name "_body\n"                                                                        \
                     "pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax; iretq");   \
  }                                                                                                                     \
  void name##_body(void)

/* RF in the frame holds an instruction breakpoint back once. */
ENTRY(on_debug, "btsq $16, 16(%rsp)\n") {
  const u64 why = dr6();
  CHECK((why & 0xf) == 1 || (why & 0xf) == 2);
  if (why & 1) counts[self()].data++;
  else counts[self()].code++;
}
/* RIP is after INT3: where a NOP was. */
ENTRY(on_break, "") { counts[self()].breaks++; }

static void gate(u32 vector, void (*handler)(void)) {
  volatile u64 *entry = (volatile u64 *)(0x2000ul + 16 * vector);
  const u64 at = (u64)handler;
  entry[0] = (at & 0xffff) | 8ul << 16 | 0x8e00ul << 32 | (at & 0xffff0000) << 32;
  entry[1] = at >> 32;
}

/* A NOP that can be a breakpoint, in functions of their own: one a vCPU, all in one page. */
__asm__(".p2align 12\nspots:\n\t.rept 8\n\tnop\n\tmovl $7, %eax\n\tret\n\t.p2align 4\n\t.endr\n\t.p2align 12");
extern u8 spots[];
enum { SPOT_BYTES = 16, NOP = 0x90, INT3 = 0xcc };
static u32 call_spot(u32 k) {
  u32 result;
  __asm__ volatile("call *%1" : "=a"(result) : "r"(spots + SPOT_BYTES * k) : "memory", "cc");
  return result;
}

static volatile u64 slots[MAX] __attribute__((aligned(64)));

/* Each vCPU watches a word and a function of its own. All write all words and call all functions. */
static void own_registers(u32 id, u32 n, u64 rounds) {
  counts[id].data = counts[id].code = 0;
  SET_DR(0, &slots[id]);
  SET_DR(1, spots + SPOT_BYTES * id);
  /* L0 and L1, DR0 on writes of 8 bytes, DR1 on execution (SDM vol. 3B, 18.2.4). */
  SET_DR(7, 1 | 4 | 1 << 16 | 2 << 18);
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++)
    for (u32 k = 0; k < n; k++) {
      slots[k] = i;
      CHECK(call_spot(k) == 7);
    }
  meet(&m, n);
  CHECK(counts[id].data == rounds);
  CHECK(counts[id].code == rounds);
  SET_DR(7, 0);
  slots[id] = 0;
  CHECK(call_spot(id) == 7);
  CHECK(counts[id].data == rounds && counts[id].code == rounds);
}

/* vCPU 0 puts INT3 there and takes it away; after the others have been told, and have serialized, it counts. */
static void written_int3(u32 id, u32 n, u64 rounds) {
  volatile u8 *spot = spots;
  counts[id].breaks = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    if (id == 0) *spot = INT3;
    meet(&m, n);
    serialize();
    CHECK(call_spot(0) == 7);
    CHECK(counts[id].breaks == i + 1);
    meet(&m, n);
    if (id == 0) *spot = NOP;
    meet(&m, n);
    serialize();
    CHECK(call_spot(0) == 7);
    CHECK(counts[id].breaks == i + 1);
    meet(&m, n);
  }
}

/* The same while the others run there all the time: one or the other at any moment, and soon the new one. */
static volatile u32 stop;
static void int3_under_way(u32 id, u32 n, u64 rounds) {
  volatile u8 *spot = spots;
  if (id == 0) stop = 0;
  counts[id].breaks = 0;
  meet(&m, n);
  if (id == 0) {
    for (u64 i = 0; i < rounds; i++) {
      u64 before[MAX];
      for (u32 k = 1; k < n; k++) before[k] = counts[k].breaks;
      *spot = INT3;
      for (u32 k = 1; k < n; k++) while (counts[k].breaks == before[k]) cpu_pause();
      *spot = NOP;
    }
    stop = 1;
  } else {
    while (!stop) CHECK(call_spot(0) == 7);
    CHECK(counts[id].breaks >= rounds);
  }
  meet(&m, n);
}

/* For the host: where the first spot and the watched words are, and how often each vCPU was there; it says when to stop. */
static void debugged(u32 id) {
  RESULTS[16] = (u64)spots;
  RESULTS[17] = (u64)slots;
  while (!RESULTS[18]) {
    CHECK(call_spot(0) == 7);
    slots[id]++;
    RESULTS[id]++;
  }
}

void guest_main(u32 id, u32 n, u64 what, u64 rounds) {
  SET_DR(3, id);
  if (what == 1) {
    debugged(id);
    return;
  }
  if (id == 0) {
    gate(DB, on_debug);
    gate(BP, on_break);
  }
  meet(&m, n);
  own_registers(id, n, rounds);
  written_int3(id, n, rounds);
  if (n > 1) int3_under_way(id, n, rounds / 4);
}
