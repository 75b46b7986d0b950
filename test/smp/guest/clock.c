/*
 * Clocks of several vCPUs: time-stamp counters and kvmclock (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW) never
 * go back from one vCPU to another. `rounds` turns of a token, and so many races.
 */
#include "smp.h"

enum { MAX = 8, MSR_SYSTEM_TIME = 0x4b564d01, MSR_TSC = 0x10, MSR_TSC_ADJUST = 0x3b, STABLE = 1 };
#define SECOND 1000000000ul
static struct meeting m;

struct time_info {
  volatile u32 version, pad0;
  volatile u64 tsc_timestamp, system_time;
  volatile u32 tsc_to_system_mul;
  volatile signed char tsc_shift;
  volatile u8 flags, pad[2];
};
static struct time_info infos[MAX] __attribute__((aligned(64)));

static u64 tsc(void) {
  __asm__ volatile("lfence" ::: "memory");
  return rdtsc();
}

/* As the guest is told to compute it, from the vCPU's own structure. */
static u64 kvmclock(u32 id, u8 *flags) {
  const struct time_info *info = &infos[id];
  for (;;) {
    const u32 version = info->version;
    barrier_compiler();
    u64 delta = tsc() - info->tsc_timestamp;
    if (info->tsc_shift >= 0) delta <<= info->tsc_shift;
    else delta >>= -info->tsc_shift;
    const u64 time = info->system_time + (u64)((u128)delta * info->tsc_to_system_mul >> 32);
    *flags = info->flags;
    barrier_compiler();
    if (!(version & 1) && version == info->version) return time;
  }
}
static u64 stable_clock(u32 id) {
  u8 flags;
  const u64 time = kvmclock(id, &flags);
  CHECK(flags & STABLE);
  return time;
}
static u64 any_clock(u32 id) {
  u8 flags;
  const u64 time = kvmclock(id, &flags);
  CHECK(!(flags & STABLE));
  return time;
}
static u64 tsc_of(u32 id) { (void)id; return tsc(); }

/* What one vCPU read before it hands the token on is not later than what the next one reads. */
static volatile u64 baton, turn __attribute__((aligned(64)));
static void token(u32 id, u32 n, u64 rounds, u64 (*now)(u32)) {
  if (id == 0) baton = turn = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    while (turn != i * n + id) cpu_pause();
    CHECK(now(id) >= baton);
    baton = now(id);
    turn = i * n + id + 1;
  }
  meet(&m, n);
}

/* All at once: no time is before one that some vCPU has published. */
static volatile u64 latest __attribute__((aligned(64)));
static void race(u32 id, u32 n, u64 rounds, u64 (*now)(u32)) {
  if (id == 0) latest = 0;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    u64 last = __atomic_load_n(&latest, __ATOMIC_SEQ_CST);
    const u64 time = now(id);
    CHECK(time >= last);
    while (last < time && !__atomic_compare_exchange_n(&latest, &last, time, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) ;
  }
  meet(&m, n);
}

static void enable(u32 id) { wrmsr(MSR_SYSTEM_TIME, (u64)&infos[id] | 1); }

/* While the structures, which one vCPU's MSR changes on all, are written anew all the time. */
static u64 rewritten_clock(u32 id) {
  if (id == 0) enable(id);
  return stable_clock(id);
}

void guest_main(u32 id, u32 n, u64 what, u64 rounds) {
  meet(&m, n);
  enable(id);
  meet(&m, n);
  token(id, n, rounds, tsc_of);
  token(id, n, rounds, stable_clock);
  race(id, n, 10 * rounds, tsc_of);
  race(id, n, 10 * rounds, stable_clock);
  race(id, n, rounds, rewritten_clock);
  token(id, n, rounds / 4, stable_clock);
  /* The last vCPU's counter goes its own way: the clock does not, but it is no longer said to be the same on all. */
  meet(&m, n);
  if (n == 1) return;
  if (id == n - 1) {
    const u64 before = tsc();
    wrmsr(MSR_TSC_ADJUST, rdmsr(MSR_TSC_ADJUST) + 1000 * SECOND);
    CHECK(tsc() - before >= 1000 * SECOND && tsc() - before < 1100 * SECOND);
  }
  meet(&m, n);
  token(id, n, rounds / 4, any_clock);
  race(id, n, rounds, any_clock);
  meet(&m, n);
  /* And back. */
  if (id == n - 1) wrmsr(MSR_TSC_ADJUST, rdmsr(MSR_TSC_ADJUST) - 1000 * SECOND);
  meet(&m, n);
  token(id, n, rounds / 4, tsc_of);
  race(id, n, rounds, stable_clock);
}
