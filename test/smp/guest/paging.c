/*
 * Page tables that several vCPUs use and one changes (SDM vol. 3A, 4.10.5): after the INVLPG that an IPI asks for, no vCPU
 * uses what the entry was; accessed and dirty bits are set by locked operations (9.1.2.1) and never lost, nor are software's own.
 */
#include "smp.h"

#define MAX 8
static struct meeting m;
static volatile u64 acknowledged __attribute__((aligned(64)));
static volatile u64 faults[MAX][8] __attribute__((aligned(64)));
static volatile u32 stop __attribute__((aligned(64)));
static volatile u32 writable_again __attribute__((aligned(64)));

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, SOFTWARE = 0x200 };
enum { VECTOR = 0x41, EOI = 0x80b, SVR = 0x80f, ICR = 0x830, TO_OTHERS = 0xc0000 };

/* Linear addresses of the second GiB, through tables of this program. */
#define LINEAR 0x40000000ul
static u64 pd[512] __attribute__((aligned(4096)));
static volatile u64 pt[512] __attribute__((aligned(4096)));
static u8 frames[2][4096] __attribute__((aligned(4096)));

static void invlpg(u64 at) { __asm__ volatile("invlpg (%0)" ::"r"(at) : "memory"); }

void on_shootdown_body(void) {
  invlpg(LINEAR);
  __atomic_add_fetch(&acknowledged, 1, __ATOMIC_SEQ_CST);
  wrmsr(EOI, 0);
}
void on_fault_body(void) {
  u64 at;
  __asm__ volatile("mov %%cr2, %0" : "=r"(at));
  CHECK(at >> 12 == LINEAR >> 12);
  faults[rdmsr(0x802)][0]++;
  /* The shootdown's IPI has to come through while this one waits. */
  __asm__ volatile("sti" ::: "memory");
  while (!writable_again && !stop) cpu_pause();
  __asm__ volatile("cli" ::: "memory");
  if (stop) invlpg(LINEAR);
}
#define PUSH "push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11; cld\n"
#define POP "pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax\n"
__attribute__((naked)) static void on_shootdown(void) { __asm__ volatile(PUSH "call on_shootdown_body\n" POP "iretq"); }
__attribute__((naked)) static void on_fault(void) {
  __asm__ volatile(PUSH "call on_fault_body\n" POP "add $8, %rsp; iretq");
}
static void gate(u32 vector, void (*handler)(void)) {
  volatile u64 *entry = (volatile u64 *)(0x2000ul + 16 * vector);
  const u64 at = (u64)handler;
  entry[0] = (at & 0xffff) | 8ul << 16 | 0x8e00ul << 32 | (at & 0xffff0000) << 32;
  entry[1] = at >> 32;
}

static void shoot_down(u32 n) {
  acknowledged = 0;
  invlpg(LINEAR);
  wrmsr(ICR, TO_OTHERS | VECTOR | 1 << 14);
  while (acknowledged != n - 1) cpu_pause();
}

/* The page moves to the other frame; what was the frame before is then filled with what nobody may see. */
static void moving_frame(u32 id, u32 n, u64 rounds) {
  volatile u64 *value = (volatile u64 *)LINEAR;
  if (id == 0) {
    stop = 0;
    *(volatile u64 *)frames[0] = 1;
    pt[0] = (u64)frames[0] | P | W;
  }
  meet(&m, n);
  if (id == 0) {
    for (u64 i = 1; i <= rounds; i++) {
      *(volatile u64 *)frames[i & 1] = i + 1;
      pt[0] = (u64)frames[i & 1] | P | W;
      shoot_down(n);
      *(volatile u64 *)frames[~i & 1] = ~0ul;
      for (u32 k = 0; k < 50; k++) cpu_pause();
    }
    stop = 1;
  } else {
    __asm__ volatile("sti" ::: "memory");
    u64 last = 0;
    while (!stop) {
      const u64 now = *value;
      CHECK(now >= last && now <= rounds + 1);
      last = now;
    }
    __asm__ volatile("cli" ::: "memory");
  }
  meet(&m, n);
}

/* The page becomes read-only while the others write to it: after the shootdown it no longer changes. */
static void write_protection(u32 id, u32 n, u64 rounds) {
  volatile u64 *slot = (volatile u64 *)(LINEAR + 64 * id);
  if (id == 0) {
    stop = writable_again = 0;
    pt[0] = (u64)frames[0] | P | W;
  }
  meet(&m, n);
  invlpg(LINEAR);
  if (id == 0) {
    for (u64 i = 0; i < rounds; i++) {
      writable_again = 0;
      pt[0] = (u64)frames[0] | P;
      shoot_down(n);
      u64 was[MAX];
      for (u32 k = 1; k < n; k++) was[k] = *(volatile u64 *)(frames[0] + 64 * k);
      for (u32 k = 0; k < 200; k++) cpu_pause();
      for (u32 k = 1; k < n; k++) CHECK(*(volatile u64 *)(frames[0] + 64 * k) == was[k]);
      pt[0] = (u64)frames[0] | P | W;
      writable_again = 1;
      for (u32 k = 0; k < 50; k++) cpu_pause();
    }
    pt[0] = (u64)frames[0] | P | W;
    stop = 1;
  } else {
    __asm__ volatile("sti" ::: "memory");
    u64 next = *slot;
    while (!stop) {
      *slot = ++next;
      CHECK(*slot == next);
    }
    __asm__ volatile("cli" ::: "memory");
  }
  meet(&m, n);
}

/* A dirty bit that software has cleared comes back with the next write. */
static void dirty_again(u32 id, u32 n, u64 rounds) {
  volatile u64 *slot = (volatile u64 *)(LINEAR + 64 * id);
  static volatile u64 asked;
  static volatile u64 written[MAX][8];
  if (id == 0) asked = 0, stop = 0, writable_again = 1, pt[0] = (u64)frames[0] | P | W;
  written[id][0] = 0;
  meet(&m, n);
  invlpg(LINEAR);
  if (id == 0) {
    for (u64 i = 1; i <= rounds; i++) {
      __asm__ volatile("lock andq %1, %0" : "+m"(pt[0]) : "r"(~(u64)(D | A)) : "memory", "cc");
      shoot_down(n);
      asked = i;
      for (u32 k = 1; k < n; k++) while (written[k][0] != i) cpu_pause();
      CHECK((pt[0] & (D | A)) == (D | A));
    }
  } else {
    __asm__ volatile("sti" ::: "memory");
    for (u64 i = 1; i <= rounds; i++) {
      while (asked != i) cpu_pause();
      *slot = i;
      written[id][0] = i;
    }
    __asm__ volatile("cli" ::: "memory");
  }
  meet(&m, n);
}

/* Software turns a bit of its own in an entry while the processors set accessed and dirty bits in it. */
static void software_bits(u32 id, u32 n, u64 rounds) {
  volatile u64 *slot = (volatile u64 *)(LINEAR + 64 * id);
  if (id == 0) pt[0] = (u64)frames[0] | P | W;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    if (id == 0) {
      for (u32 k = 0; k < 4; k++) __asm__ volatile("lock xorq %1, %0" : "+m"(pt[0]) : "r"((u64)SOFTWARE) : "memory", "cc");
      __asm__ volatile("lock addq %1, %0" : "+m"(pt[0]) : "r"(1ul << 52) : "memory", "cc");
      __asm__ volatile("lock andq %1, %0" : "+m"(pt[0]) : "r"(~(u64)(A | D)) : "memory", "cc");
    } else {
      invlpg(LINEAR);
      if (i & 1) *slot = i;
      else CHECK(*slot == (i == 0 ? *slot : i - 1));
    }
  }
  meet(&m, n);
  if (id == 0) CHECK((pt[0] & ~(u64)(A | D)) == ((u64)frames[0] | P | W | (rounds & 0x7ff) << 52));
  meet(&m, n);
}

void guest_main(u32 id, u32 n, u64 what, u64 rounds) {
  if (id == 0) {
    gate(VECTOR, on_shootdown);
    gate(14, on_fault);
    pd[0] = (u64)pt | P | W | U;
    *(volatile u64 *)(0x101000ul + 8) = (u64)pd | P | W | U;
  }
  wrmsr(0x1b, 0xfee00000ul | 0xc00 | (id == 0 ? 0x100 : 0));
  wrmsr(SVR, 0x1ff);
  meet(&m, n);
  moving_frame(id, n, rounds);
  write_protection(id, n, rounds);
  dirty_again(id, n, rounds);
  software_bits(id, n, rounds > 2000 ? 2000 : rounds);
}
