/*
 * Interprocessor interrupts of every kind between running and halted vCPUs (SDM vol. 3A, 11.6), in x2APIC mode or by way of the
 * xAPIC's page (`what`: 1). Nothing may be lost, nothing may come twice.
 */
#include "smp.h"

#define MAX 8
static struct meeting m;
static u32 xapic;

/* Counts that the handlers keep, one line a vCPU. */
struct counts { volatile u64 fixed, lowest, nmi, self, ping; u64 pad[3]; };
static struct counts counts[MAX] __attribute__((aligned(64)));
static volatile u64 total_lowest __attribute__((aligned(64)));

enum { VECTOR_FIXED = 0x41, VECTOR_LOWEST = 0x52, VECTOR_SELF = 0x63, VECTOR_PING = 0x74, VECTOR_SPURIOUS = 0xff };
enum { ID = 0x2, EOI = 0xb, LDR = 0xd, DFR = 0xe, SVR = 0xf, ICR = 0x30, ICR_HIGH = 0x31, SELF_IPI = 0x3f };
enum { FIXED = 0, LOWEST = 1 << 8, NMI = 4 << 8, INIT = 5 << 8, STARTUP = 6 << 8, LOGICAL = 1 << 11, PENDING = 1 << 12,
       ASSERT = 1 << 14, TO_SELF = 1 << 18, TO_ALL = 2 << 18, TO_OTHERS = 3 << 18 };

static volatile u32 *apic_register(u32 n) { return (volatile u32 *)(0xfee00000ul + 16 * n); }
static u32 apic_read(u32 n) { return xapic ? *apic_register(n) : (u32)rdmsr(0x800 + n); }
static void apic_write(u32 n, u32 v) {
  if (xapic) *apic_register(n) = v;
  else wrmsr(0x800 + n, v);
}
static void send(u32 destination, u32 low) {
  if (!xapic) {
    wrmsr(0x800 + ICR, (u64)destination << 32 | low | ASSERT);
    return;
  }
  *apic_register(ICR_HIGH) = destination << 24;
  *apic_register(ICR) = low | ASSERT;
  while (*apic_register(ICR) & PENDING) cpu_pause();
}
static u32 self(void) { return xapic ? apic_read(ID) >> 24 : apic_read(ID); }

#define HANDLER(name)                                                                                                    \
  void name##_body(void);                                                                                               \
  __attribute__((naked)) static void name(void) {                                                                       \
    __asm__ volatile("push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11\n" \
                     "cld; call " #name "_body\n"                                                                        \
                     "pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax; iretq");   \
  }                                                                                                                     \
  void name##_body(void)

HANDLER(on_fixed) { counts[self()].fixed++; apic_write(EOI, 0); }
HANDLER(on_lowest) {
  counts[self()].lowest++;
  __atomic_add_fetch(&total_lowest, 1, __ATOMIC_SEQ_CST);
  apic_write(EOI, 0);
}
HANDLER(on_self) { counts[self()].self++; apic_write(EOI, 0); }
HANDLER(on_ping) { counts[self()].ping++; apic_write(EOI, 0); }
HANDLER(on_nmi) { counts[self()].nmi++; }
HANDLER(on_spurious) { FAIL(); }

static void gate(u32 vector, void (*handler)(void)) {
  volatile u64 *entry = (volatile u64 *)(0x2000ul + 16 * vector);
  const u64 at = (u64)handler;
  entry[0] = (at & 0xffff) | 8ul << 16 | 0x8e00ul << 32 | (at & 0xffff0000) << 32;
  entry[1] = at >> 32;
}
static void sti(void) { __asm__ volatile("sti" ::: "memory"); }
static void cli(void) { __asm__ volatile("cli" ::: "memory"); }
static void halt(void) { __asm__ volatile("sti; hlt; cli" ::: "memory"); }

/* Sleep in HLT until `*counter` reaches `value`: an interrupt between the look and the HLT must not be missed. */
static void halt_until(volatile u64 *counter, u64 value) {
  while (*counter < value) halt();
}

/* The same in both modes for the first cluster: a bit a vCPU. */
static u32 logical(u32 id) { return 1u << id; }

/* One vCPU sends to each of the others in turn and waits for each: running, then halted. */
static void one_by_one(u32 id, u32 n, u64 rounds, int halted, u32 mode) {
  const u64 before = counts[id].fixed;
  meet(&m, n);
  if (id == 0) {
    for (u64 i = 1; i <= rounds; i++) {
      for (u32 to = 1; to < n; to++) {
        const u64 was = counts[to].fixed;
        send(mode & LOGICAL ? logical(to) : to, mode | VECTOR_FIXED);
        while (counts[to].fixed == was) cpu_pause();
        CHECK(counts[to].fixed == was + 1);
      }
    }
  } else if (halted) {
    halt_until(&counts[id].fixed, before + rounds);
  } else {
    sti();
    while (counts[id].fixed < before + rounds) cpu_pause();
    cli();
  }
  meet(&m, n);
  CHECK(counts[id].fixed == before + (id == 0 ? 0 : rounds));
}

/* A broadcast; each vCPU that it is for sleeps until it comes. */
static void everybody(u32 id, u32 n, u64 rounds, u32 shorthand) {
  const u64 before = counts[id].fixed;
  const int included = id != 0 || shorthand == TO_ALL;
  meet(&m, n);
  for (u64 i = 1; i <= rounds; i++) {
    if (id == 0) send(0, shorthand | VECTOR_FIXED);
    if (included) halt_until(&counts[id].fixed, before + i);
    meet(&m, n);
    CHECK(counts[id].fixed == before + (included ? i : 0));
    meet(&m, n);
  }
}

/* Lowest priority to all: exactly one takes each. */
static void lowest_priority(u32 id, u32 n, u64 rounds) {
  static volatile u32 stop;
  if (id == 0) stop = 0, total_lowest = 0;
  meet(&m, n);
  if (id == 0) {
    for (u64 i = 1; i <= rounds; i++) {
      send((1 << n) - 1, LOGICAL | LOWEST | VECTOR_LOWEST);
      sti();
      while (total_lowest < i) cpu_pause();
      cli();
      CHECK(total_lowest == i);
    }
    stop = 1;
  } else {
    sti();
    while (!stop) cpu_pause();
    cli();
  }
  meet(&m, n);
}

/* Masked interrupts do not keep an NMI out. Odd vCPUs run; even ones are in HLT, or just before it, where an NMI does not
 * keep them from sleeping: they get another one. */
static void nmis(u32 id, u32 n, u64 rounds) {
  const u64 before = counts[id].nmi;
  meet(&m, n);
  if (id == 0) {
    for (u64 i = 1; i <= rounds; i++) {
      for (u32 to = 1; to < n; to++) {
        send(to, NMI);
        for (u64 spins = 1; counts[to].nmi < i; spins++) {
          cpu_pause();
          if (!(to & 1) && spins % 100000 == 0) send(to, NMI);
        }
      }
    }
  } else {
    cli();
    while (counts[id].nmi < before + rounds) {
      if (id & 1) cpu_pause();
      else __asm__ volatile("hlt" ::: "memory");
    }
  }
  meet(&m, n);
  if (id & 1) CHECK(counts[id].nmi == before + rounds);
}

static void to_self(u32 id, u32 n, u64 rounds) {
  const u64 before = counts[id].self;
  for (u64 i = 1; i <= rounds; i++) {
    if (!xapic && (i & 1)) wrmsr(0x800 + SELF_IPI, VECTOR_SELF);
    else send(0, TO_SELF | VECTOR_SELF);
    halt_until(&counts[id].self, before + i);
    CHECK(counts[id].self == before + i);
  }
  meet(&m, n);
}

/* A ring of vCPUs that sleep until their neighbour wakes them: no wake-up may be lost. */
static void ring(u32 id, u32 n, u64 rounds) {
  const u64 before = counts[id].ping;
  meet(&m, n);
  if (id == 0) send(1, VECTOR_PING);
  for (u64 i = 1; i <= rounds; i++) {
    halt_until(&counts[id].ping, before + i);
    if (id != 0 || i < rounds) send((id + 1) % n, VECTOR_PING);
  }
  meet(&m, n);
  CHECK(counts[id].ping == before + rounds);
}

/* All send to all at once; what is pending already merges, but the last one always arrives. */
static void storm(u32 id, u32 n, u64 rounds) {
  meet(&m, n);
  sti();
  for (u64 i = 1; i <= rounds; i++) send((id + 1 + i % (n - 1)) % n, VECTOR_PING);
  meet(&m, n);
  cli();
  const u64 now = counts[id].ping;
  meet(&m, n);
  if (id == 0) for (u32 to = 1; to < n; to++) send(to, VECTOR_PING);
  else halt_until(&counts[id].ping, now + 1);
  meet(&m, n);
}

/* The time-stamp counters are in step: what one vCPU read before it told another is not later than what that one reads. */
static volatile u64 baton __attribute__((aligned(64)));
static void time_stamps(u32 id, u32 n, u64 rounds) {
  if (id == 0) baton = 0;
  static volatile u32 turn;
  if (id == 0) turn = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    while (turn != i * n + id) cpu_pause();
    const u64 now = rdtsc();
    CHECK(now >= baton);
    baton = rdtsc();
    turn = i * n + id + 1;
  }
  meet(&m, n);
}

void guest_main(u32 id, u32 n, u64 what, u64 rounds) {
  xapic = what & 1;
  if (id == 0) {
    gate(2, on_nmi);
    gate(VECTOR_FIXED, on_fixed);
    gate(VECTOR_LOWEST, on_lowest);
    gate(VECTOR_SELF, on_self);
    gate(VECTOR_PING, on_ping);
    gate(VECTOR_SPURIOUS, on_spurious);
    /* The fourth GiB, with the APIC's page: a 1 GiB page in the PDPT (test/guests/support/environment.ts). */
    *(volatile u64 *)(0x101000ul + 3 * 8) = 0xc0000000ul | 0x83;
  }
  meet(&m, n);
  wrmsr(0x1b, 0xfee00000ul | 0x800 | (xapic ? 0 : 0x400) | (id == 0 ? 0x100 : 0));
  apic_write(SVR, 0x100 | VECTOR_SPURIOUS);
  if (xapic) {
    apic_write(DFR, ~0u);
    apic_write(LDR, 1u << (24 + id));
  }
  CHECK(self() == id);
  meet(&m, n);
  one_by_one(id, n, rounds, 0, FIXED);
  one_by_one(id, n, rounds, 1, FIXED);
  one_by_one(id, n, rounds, 1, LOGICAL);
  everybody(id, n, rounds, TO_OTHERS);
  everybody(id, n, rounds, TO_ALL);
  lowest_priority(id, n, rounds);
  nmis(id, n, rounds);
  to_self(id, n, rounds);
  ring(id, n, rounds);
  storm(id, n, rounds);
  time_stamps(id, n, rounds);
}
