/*
 * Litmus tests of the memory order (SDM vol. 3A, 9.2; Owens, Sarkar, Sewell, "A Better x86 Memory Model: x86-TSO"). Each is run
 * on many independent places one after the other, by all vCPUs at once; what the model forbids must not be seen on any.
 *
 * RESULTS[4 * test]: rounds, forbidden outcomes, outcomes that only a store buffer explains.
 */
#include "smp.h"

#define PLACES 4000
struct place { volatile u32 x, pad0[15]; volatile u32 y, pad1[15]; };
static struct place places[PLACES] __attribute__((aligned(64)));
static u32 seen[4][2][PLACES];
static struct meeting start, end;

#define ST(a, v) __asm__ volatile("movl %1, %0" : "=m"(a) : "r"(v) : "memory")
#define LD(a) ({ u32 v_; __asm__ volatile("movl %1, %0" : "=r"(v_) : "m"(a) : "memory"); v_; })
#define XCHG(a, v) ({ u32 v_ = (v); __asm__ volatile("xchgl %1, %0" : "+m"(a), "+r"(v_)::"memory"); v_; })
#define LOCKED() __asm__ volatile("lock addl $0, (%%rsp)" ::: "memory", "cc")

#define EACH(body) for (u32 i = 0; i < PLACES; i++) { struct place *p = &places[i]; body; }
#define R(n, v) seen[id][n][i] = (v)

enum { SB, SB_MFENCE, SB_LOCKED, SB_XCHG, MP, MP_XCHG, LB, S, R_, R_MFENCE, TWO_PLUS_TWO, CORR, N5, FORWARD,
       WRC, RWC_MFENCE, IRIW, IRIW_XCHG, TESTS };

static void thread(u32 test, u32 id) {
  switch (test * 4 + id) {
  case SB * 4: EACH(ST(p->x, 1); R(0, LD(p->y))) break;
  case SB * 4 + 1: EACH(ST(p->y, 1); R(0, LD(p->x))) break;
  case SB_MFENCE * 4: EACH(ST(p->x, 1); mfence(); R(0, LD(p->y))) break;
  case SB_MFENCE * 4 + 1: EACH(ST(p->y, 1); mfence(); R(0, LD(p->x))) break;
  case SB_LOCKED * 4: EACH(ST(p->x, 1); LOCKED(); R(0, LD(p->y))) break;
  case SB_LOCKED * 4 + 1: EACH(ST(p->y, 1); LOCKED(); R(0, LD(p->x))) break;
  case SB_XCHG * 4: EACH(XCHG(p->x, 1); R(0, LD(p->y))) break;
  case SB_XCHG * 4 + 1: EACH(XCHG(p->y, 1); R(0, LD(p->x))) break;
  case MP * 4: EACH(ST(p->x, 1); ST(p->y, 1)) break;
  case MP * 4 + 1: EACH(R(0, LD(p->y)); R(1, LD(p->x))) break;
  case MP_XCHG * 4: EACH(XCHG(p->x, 1); XCHG(p->y, 1)) break;
  case MP_XCHG * 4 + 1: EACH(R(0, XCHG(p->y, 2)); R(1, LD(p->x))) break;
  case LB * 4: EACH(R(0, LD(p->x)); ST(p->y, 1)) break;
  case LB * 4 + 1: EACH(R(0, LD(p->y)); ST(p->x, 1)) break;
  case S * 4: EACH(ST(p->x, 2); ST(p->y, 1)) break;
  case S * 4 + 1: EACH(R(0, LD(p->y)); ST(p->x, 1)) break;
  case R_ * 4: case R_MFENCE * 4: EACH(ST(p->x, 1); ST(p->y, 1)) break;
  case R_ * 4 + 1: EACH(ST(p->y, 2); R(0, LD(p->x))) break;
  case R_MFENCE * 4 + 1: EACH(ST(p->y, 2); mfence(); R(0, LD(p->x))) break;
  case TWO_PLUS_TWO * 4: EACH(ST(p->x, 1); ST(p->y, 2)) break;
  case TWO_PLUS_TWO * 4 + 1: EACH(ST(p->y, 1); ST(p->x, 2)) break;
  case CORR * 4: EACH(ST(p->x, 1)) break;
  case CORR * 4 + 1: EACH(R(0, LD(p->x)); R(1, LD(p->x))) break;
  case N5 * 4: EACH(ST(p->x, 1); R(0, LD(p->x))) break;
  case N5 * 4 + 1: EACH(ST(p->x, 2); R(0, LD(p->x))) break;
  case FORWARD * 4: EACH(ST(p->x, 1); R(0, LD(p->x)); R(1, LD(p->y))) break;
  case FORWARD * 4 + 1: EACH(ST(p->y, 1); R(0, LD(p->y)); R(1, LD(p->x))) break;
  case WRC * 4: EACH(ST(p->x, 1)) break;
  case WRC * 4 + 1: EACH(R(0, LD(p->x)); ST(p->y, 1)) break;
  case WRC * 4 + 2: EACH(R(0, LD(p->y)); R(1, LD(p->x))) break;
  case RWC_MFENCE * 4: EACH(ST(p->x, 1)) break;
  case RWC_MFENCE * 4 + 1: EACH(R(0, LD(p->x)); R(1, LD(p->y))) break;
  case RWC_MFENCE * 4 + 2: EACH(ST(p->y, 1); mfence(); R(0, LD(p->x))) break;
  case IRIW * 4: EACH(ST(p->x, 1)) break;
  case IRIW * 4 + 1: EACH(ST(p->y, 1)) break;
  case IRIW_XCHG * 4: EACH(XCHG(p->x, 1)) break;
  case IRIW_XCHG * 4 + 1: EACH(XCHG(p->y, 1)) break;
  case IRIW * 4 + 2: case IRIW_XCHG * 4 + 2: EACH(R(0, LD(p->x)); R(1, LD(p->y))) break;
  case IRIW * 4 + 3: case IRIW_XCHG * 4 + 3: EACH(R(0, LD(p->y)); R(1, LD(p->x))) break;
  }
}

static u32 forbidden(u32 test, u32 i, u32 *weak) {
  const struct place *p = &places[i];
  const u32 a = seen[0][0][i], b = seen[1][0][i];
#define S1 seen[1][1][i]
  switch (test) {
  case SB: *weak += a == 0 && b == 0; return 0;
  case SB_MFENCE: case SB_LOCKED: case SB_XCHG: return a == 0 && b == 0;
  case MP: return b == 1 && S1 == 0;
  case MP_XCHG: return b == 1 && S1 == 0;
  case LB: return a == 1 && b == 1;
  case S: return b == 1 && p->x == 2;
  case R_: *weak += p->y == 2 && b == 0; return 0;
  case R_MFENCE: return p->y == 2 && b == 0;
  case TWO_PLUS_TWO: return p->x == 1 && p->y == 1;
  case CORR: return b == 1 && S1 == 0;
  case N5: return a == 2 && b == 1;
  case FORWARD: *weak += seen[0][1][i] == 0 && S1 == 0; return a != 1 || b != 1;
  case WRC: return b == 1 && seen[2][0][i] == 1 && seen[2][1][i] == 0;
  case RWC_MFENCE: return b == 1 && S1 == 0 && seen[2][0][i] == 0;
  case IRIW: case IRIW_XCHG:
    return seen[2][0][i] == 1 && seen[2][1][i] == 0 && seen[3][0][i] == 1 && seen[3][1][i] == 0;
  }
  return 1;
}

void guest_main(u32 id, u32 count, u64 what, u64 rounds) {
  for (u32 test = 0; test < TESTS; test++) {
    u64 bad = 0;
    u32 weak = 0;
    for (u64 done = 0; done < rounds; done += PLACES) {
      meet(&start, count);
      thread(test, id);
      meet(&end, count);
      if (id != 0) continue;
      for (u32 i = 0; i < PLACES; i++) {
        bad += forbidden(test, i, &weak);
        places[i].x = places[i].y = 0;
      }
    }
    if (id == 0) {
      RESULTS[4 * test] = (rounds + PLACES - 1) / PLACES * PLACES;
      RESULTS[4 * test + 1] = bad;
      RESULTS[4 * test + 2] = weak;
    }
  }
}
