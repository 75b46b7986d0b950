/*
 * LOCK operations are atomic against each other (SDM vol. 3A, 9.1), whatever their alignment and width: all vCPUs add, swap and
 * compare at the same places, and nothing may be lost or torn. `rounds` of each on each vCPU; a check that fails names its line.
 */
#include "smp.h"

static struct meeting m;
/* Two pages that follow each other linearly; the host maps them to whatever it likes. */
static u8 area[8192] __attribute__((aligned(4096)));

#define LOCK1(op, size, at, v) __asm__ volatile("lock " op size " %1, %0" : "+m"(*(volatile u64 *)(at)) : "r"(v) : "memory", "cc")

static void add(u8 *at, u32 width, u64 v) {
  switch (width) {
  case 1: LOCK1("add", "b", at, (u8)v); break;
  case 2: LOCK1("add", "w", at, (u16)v); break;
  case 4: LOCK1("add", "l", at, (u32)v); break;
  default: LOCK1("add", "q", at, v);
  }
}
static u64 read_at(const u8 *at, u32 width) {
  u64 v = 0;
  __builtin_memcpy(&v, at, width);
  return v;
}

/* One counter of `width` bytes at `offset`, with bytes around it that must stay as they are. */
static void count(u32 id, u32 n, u32 offset, u32 width, u64 rounds) {
  u8 *at = area + offset;
  if (id == 0) {
    for (u32 i = 0; i < 24; i++) at[(int)i - 8] = 0xa5;
    for (u32 i = 0; i < width; i++) at[i] = 0;
  }
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) add(at, width, id + 1);
  meet(&m, n);
  if (id != 0) return;
  const u64 mask = width == 8 ? ~0ul : (1ul << 8 * width) - 1;
  CHECK(read_at(at, width) == (rounds * n * (n + 1) / 2 & mask));
  for (u32 i = 0; i < 8; i++) CHECK(at[(int)i - 8] == 0xa5);
  for (u32 i = width; i < 16; i++) CHECK(at[i] == 0xa5);
}

/* Neighbours that are written plainly all the time lose nothing to an unaligned LOCK operation between them. */
static void neighbours(u32 id, u32 n, u32 offset, u64 rounds) {
  u8 *at = area + offset;
  if (id == 0) for (u32 i = 0; i < 8; i++) at[i] = 0;
  meet(&m, n);
  if (id & 1) {
    volatile u8 *mine = id & 2 ? at + 6 : at;
    u8 last = 0;
    for (u64 i = 0; i < rounds; i++) {
      CHECK(*mine == last);
      *mine = ++last;
    }
  } else {
    for (u64 i = 0; i < rounds; i++) add(at + 1, 4, 1);
  }
  meet(&m, n);
  if (id == 0) CHECK(read_at(at + 1, 4) == (u32)(rounds * ((n + 1) / 2)));
}

/* Operations of several widths that overlap: two lanes of 32 bits, on either side of an 8-byte boundary. */
static void lanes(u32 id, u32 n, u32 offset, u64 rounds) {
  u8 *at = area + offset;
  if (id == 0) for (u32 i = 0; i < 16; i++) at[i] = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    switch (id & 3) {
    case 0: add(at + 4, 8, 1ul << 32 | 1); break;
    case 1: add(at + 4, 4, 1); break;
    case 2: add(at + 8, 8, 1); break;
    case 3: add(at + 3, 8, 1ul << 8 | 1ul << 40); break;
    }
  }
  meet(&m, n);
  if (id != 0) return;
  u64 low = 0, high = 0;
  for (u32 k = 0; k < n; k++) {
    low += (k & 3) != 2;
    high += (k & 3) != 1;
  }
  CHECK(read_at(at + 4, 4) == (u32)(low * rounds));
  CHECK(read_at(at + 8, 4) == (u32)(high * rounds));
  CHECK(at[3] == 0 && at[12] == 0);
}

static int cmpxchg16(volatile u64 *p, u64 *low, u64 *high, u64 new_low, u64 new_high) {
  u8 ok;
  __asm__ volatile("lock cmpxchg16b %1\n\tsete %0"
                   : "=q"(ok), "+m"(*(volatile u128 *)p), "+a"(*low), "+d"(*high)
                   : "b"(new_low), "c"(new_high)
                   : "memory", "cc");
  return ok;
}

/* CMPXCHG16B against itself, and against 8-byte operations on its halves. */
static void pair(u32 id, u32 n, u64 rounds) {
  volatile u64 *p = (volatile u64 *)(area + 64);
  if (id == 0) p[0] = p[1] = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    if ((id & 3) == 2) add((u8 *)p, 8, 5);
    else if ((id & 3) == 3) add((u8 *)(p + 1), 8, 7);
    else {
      u64 low = p[0], high = p[1];
      while (!cmpxchg16(p, &low, &high, low + 1, high + 3)) ;
    }
  }
  meet(&m, n);
  if (id != 0) return;
  u64 low = 0, high = 0;
  for (u32 k = 0; k < n; k++) {
    if ((k & 3) == 2) low += 5;
    else if ((k & 3) == 3) high += 7;
    else low += 1, high += 3;
  }
  CHECK(p[0] == low * rounds && p[1] == high * rounds);
}

/* What CMPXCHG16B stores is never seen in half by one that reads. */
static void whole(u32 id, u32 n, u64 rounds) {
  volatile u64 *p = (volatile u64 *)(area + 128);
  if (id == 0) p[0] = 0, p[1] = ~0ul;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    u64 low = 0, high = 0;
    if (id & 1) {
      /* A compare with what is not there: it only reads. */
      cmpxchg16(p, &low, &high, 0, 0);
      CHECK(high == ~low);
    } else {
      low = p[0], high = p[1];
      const u64 next = i * n + id;
      while (!cmpxchg16(p, &low, &high, next, ~next)) CHECK(high == ~low);
    }
  }
  meet(&m, n);
}

/* The halves of what one vCPU stores by CMPXCHG16B, looked at one after the other, are never of different age the wrong way round. */
static void halves(u32 id, u32 n, u64 rounds) {
  volatile u64 *p = (volatile u64 *)(area + 192);
  if (id == 0) p[0] = p[1] = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    u64 low = i, high = i;
    if (id == 0) CHECK(cmpxchg16(p, &low, &high, i + 1, i + 1));
    else if (id & 1) {
      low = p[0];
      high = p[1];
      CHECK(low <= high);
    } else {
      high = p[1];
      low = p[0];
      CHECK(high <= low);
    }
  }
  meet(&m, n);
}

/* vCPUs that have done all of their LOCK operations; the others store until then. */
static volatile u32 finished;
static volatile u64 successes;

/* Plain stores to bytes that a LOCK operation of 8 bytes reads and writes, too, are not undone by it. */
static void plain_stores(u32 id, u32 n, u32 offset, u64 rounds) {
  u8 *at = area + offset;
  const u32 lockers = (n + 1) / 2;
  if (id == 0) {
    for (u32 i = 0; i < 8; i++) at[i] = 0;
    finished = 0;
  }
  meet(&m, n);
  if (id & 1) {
    volatile u8 *mine = at + (id & 2 ? 7 : 4);
    for (u64 i = 0; finished < lockers; i++) {
      *mine = (u8)i;
      for (volatile u32 k = i & 15; k; k--) ;
      CHECK(*mine == (u8)i);
    }
  } else {
    for (u64 i = 0; i < rounds; i++) add(at, 8, 1);
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
  }
  meet(&m, n);
  if (id == 0) CHECK(read_at(at, 4) == (u32)(rounds * lockers));
}

/* So with CMPXCHG16B, whether it finds what it expects or not. */
static void plain_stores_to_pair(u32 id, u32 n, u64 rounds) {
  volatile u64 *p = (volatile u64 *)(area + 256);
  const u32 lockers = (n + 1) / 2;
  if (id == 0) {
    p[0] = p[1] = successes = 0;
    finished = 0;
  }
  meet(&m, n);
  if (id & 1) {
    /* One half of the upper half each. */
    volatile u32 *mine = (volatile u32 *)(p + 1) + (id >> 1 & 1);
    for (u32 i = 0; finished < lockers; i++) {
      *mine = i;
      for (volatile u32 k = i & 15; k; k--) ;
      CHECK(*mine == i);
    }
  } else {
    u64 mine = 0;
    for (u64 i = 0; i < rounds; i++) {
      u64 low = p[0], high = p[1];
      mine += cmpxchg16(p, &low, &high, low + 1, high);
    }
    __atomic_fetch_add(&successes, mine, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
  }
  meet(&m, n);
  if (id == 0) CHECK(p[0] == successes);
}

/* A 64-bit value across a line or page is swapped whole: each reader takes it with a locked operation. */
static void split_whole(u32 id, u32 n, u32 offset, u64 rounds) {
  volatile u64 *p = (volatile u64 *)(area + offset);
  if (id == 0) *p = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    u64 v = (i + id) & 1 ? ~0ul : 0;
    if (id & 1) {
      v = 0;
      __asm__ volatile("lock xaddq %0, %1" : "+r"(v), "+m"(*p)::"memory", "cc");
    } else {
      __asm__ volatile("xchgq %0, %1" : "+r"(v), "+m"(*p)::"memory");
    }
    CHECK(v == 0 || v == ~0ul);
  }
  meet(&m, n);
}

/* Locks made of XCHG, XADD, BTS, CMPXCHG and CMPXCHG8B keep a plain counter right. */
static volatile u32 lock_word __attribute__((aligned(64)));
static struct { volatile u32 next, owner; } ticket __attribute__((aligned(64)));
static volatile u64 lock8 __attribute__((aligned(64)));
static volatile u8 bits[64] __attribute__((aligned(64)));
static volatile u64 guarded __attribute__((aligned(64)));

static void take(u32 kind) {
  for (;;) {
    u32 v = 1;
    u8 was = 1;
    switch (kind) {
    case 0: __asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(lock_word)::"memory"); was = v; break;
    case 1:
      __asm__ volatile("lock xaddl %0, %1" : "+r"(v), "+m"(ticket.next)::"memory", "cc");
      while (ticket.owner != v) cpu_pause();
      return;
    case 2: {
      /* A bit of another byte than the operand's: the bit offset reaches back. */
      long bit = -13;
      __asm__ volatile("lock btsq %2, %1\n\tsetc %0" : "=q"(was), "+m"(*(volatile u64 *)(bits + 16)) : "r"(bit) : "memory", "cc");
      break;
    }
    case 3: {
      u32 none = 0;
      __asm__ volatile("lock cmpxchgl %3, %1\n\tsetne %0" : "=q"(was), "+m"(lock_word), "+a"(none) : "r"(v) : "memory", "cc");
      break;
    }
    case 4: {
      u32 a = 0, d = 0;
      __asm__ volatile("lock cmpxchg8b %1\n\tsetne %0" : "=q"(was), "+m"(lock8), "+a"(a), "+d"(d) : "b"(1), "c"(1) : "memory", "cc");
      break;
    }
    }
    if (!was) return;
    cpu_pause();
  }
}
static void release(u32 kind) {
  barrier_compiler();
  switch (kind) {
  case 0: case 3: lock_word = 0; break;
  case 1: ticket.owner = ticket.owner + 1; break;
  case 2: bits[16 - 2] = 0; break;
  case 4: lock8 = 0; break;
  }
}
static void locks(u32 id, u32 n, u32 kind, u64 rounds) {
  if (id == 0) guarded = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    take(kind);
    guarded = guarded + 1;
    release(kind);
  }
  meet(&m, n);
  if (id == 0) CHECK(guarded == rounds * n);
}

/* A counter in a page with code that all vCPUs run: its writes are watched. */
__asm__(".p2align 12\n\t.globl code_page\ncode_page:\n\tmovl $7, %eax\n\tret\n\t.p2align 3\n\t.globl code_counter\n"
        "code_counter:\n\t.quad 0\n\t.quad 0\n\t.quad 0\n\t.p2align 12");
extern u32 code_page(void);
extern u8 code_counter[];
static void in_code_page(u32 id, u32 n, u64 rounds) {
  if (id == 0) for (u32 i = 0; i < 24; i++) code_counter[i] = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    CHECK(code_page() == 7);
    add(code_counter, 8, 1);
    add(code_counter + 12, 4, 1);
  }
  meet(&m, n);
  if (id == 0) CHECK(read_at(code_counter, 8) == rounds * n && read_at(code_counter + 12, 4) == (u32)(rounds * n));
}

/* Every other operation that takes LOCK; those of a group undo each other in whatever order they come. */
#define OP(op) __asm__ volatile("lock " op : "+m"(*p) : [bit] "r"(bit), [mine] "r"(mine), [other] "r"(~mine), [lane] "r"(lane) : "memory", "cc")
static void every_operation(u32 id, u32 n, u32 offset, u64 rounds) {
  volatile u64 *p = (volatile u64 *)(area + offset);
  const u64 bit = 8 + 9 * id, mine = 1ul << bit, lane = 0x0123456789ul * (id + 1);
  if (id == 0) *p = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    OP("orq %[mine], %0");
    CHECK(*p & mine);
    OP("xorq %[mine], %0");
    CHECK(!(*p & mine));
    OP("btsq %[bit], %0");
    CHECK(*p & mine);
    OP("btrq %[bit], %0");
    OP("btcq %[bit], %0");
    CHECK(*p & mine);
    OP("andq %[other], %0");
    CHECK(!(*p & mine));
  }
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    OP("addq %[lane], %0");
    OP("subq %[lane], %0");
    __asm__ volatile("stc\n\tlock adcq %1, %0" : "+m"(*p) : "r"(lane) : "memory", "cc");
    __asm__ volatile("stc\n\tlock sbbq %1, %0" : "+m"(*p) : "r"(lane) : "memory", "cc");
    OP("incq %0");
    OP("decq %0");
  }
  meet(&m, n);
  if (id == 0) {
    CHECK(*p == 0);
    *p = 0x123456789abcdef;
  }
  meet(&m, n);
  for (u64 i = 0; i < 2 * rounds; i++) OP("notq %0");
  meet(&m, n);
  for (u64 i = 0; i < 2 * rounds; i++) OP("negq %0");
  meet(&m, n);
  if (id == 0) CHECK(*p == 0x123456789abcdef);
}

/* Aligned; within 8 bytes; across 8 bytes, a cache line and a page. */
static const u16 offsets[] = { 64, 65, 67, 69, 70, 71, 127 - 2, 127, 4096 - 1, 4096 - 3, 4096 - 7, 4096 - 4 };

/* Whether an operand lies within 8 aligned bytes. What does not takes the bus, from vCPUs that have to stop for it. */
static u32 splits(u32 offset, u32 width) { return (offset & 7) + width > 8; }

void guest_main(u32 id, u32 count_, u64 what, u64 rounds) {
  const u64 few = rounds / 100 + 1;
  for (u32 k = 0; k < sizeof offsets / sizeof offsets[0]; k++)
    for (u32 width = 1; width <= 8; width *= 2)
      count(id, count_, offsets[k], width, splits(offsets[k], width) ? few : rounds);
  neighbours(id, count_, 64, rounds);
  neighbours(id, count_, 64 + 61, few);
  lanes(id, count_, 64, few);
  lanes(id, count_, 128 - 8, few);
  lanes(id, count_, 4096 - 8, few);
  plain_stores(id, count_, 64, rounds);
  plain_stores(id, count_, 128 - 2, 10 * few);
  plain_stores(id, count_, 4096 - 5, 10 * few);
  pair(id, count_, rounds);
  whole(id, count_, rounds);
  halves(id, count_, 10 * rounds);
  plain_stores_to_pair(id, count_, 20 * rounds);
  split_whole(id, count_, 128 - 3, few);
  split_whole(id, count_, 4096 - 5, few);
  for (u32 kind = 0; kind < 5; kind++) locks(id, count_, kind, rounds / 8);
  in_code_page(id, count_, few);
  every_operation(id, count_, 64, rounds / 8);
  every_operation(id, count_, 61, few);
  every_operation(id, count_, 4096 - 3, few);
}
