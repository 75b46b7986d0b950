// Rounding modes, exceptions and their traps, denormals, in SSE and x87; precision control; state over signals and fork.
#define _GNU_SOURCE
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xmmintrin.h>
#pragma STDC FENV_ACCESS ON

static sigjmp_buf back;
static volatile int code;
static void handler(int signal, siginfo_t *info, void *context) {
  (void)context;
  code = signal * 100 + info->si_code;
  siglongjmp(back, 1);
}
static void noop(int signal) {
  // A handler that computes: the interrupted code's registers have to be its own afterwards.
  volatile long double x = signal;
  for (int i = 0; i < 20; i++) x = sqrtl(x + 1.1L);
  volatile float f[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  for (int i = 0; i < 8; i++) f[i] = f[i] * f[7 - i];
  fesetround(FE_UPWARD);
}

int main(void) {
  static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
  volatile double one = 1, three = 3, tiny = 1e-310, big = 1e308, half = 2.5;
  volatile float onef = 1, threef = 3;
  volatile long double onel = 1, threel = 3;
  for (int m = 0; m < 4; m++) {
    fesetround(modes[m]);
    feclearexcept(FE_ALL_EXCEPT);
    printf("%d: %a %a %La %a %a\n", m, one / three, (double)(onef / threef), onel / threel, -one / three, sqrt(three));
    printf("   %ld %lld %a %a %a %d\n", lrint(half), llrintl(-half), rint(half), nearbyint(-half), (double)(float)(one / three), (int)half);
    printf("   %a %a %La\n", strtod("0.1", 0), exp(1), expl(1));
    printf("   flags %x\n", fetestexcept(FE_ALL_EXCEPT));
  }
  fesetround(FE_TONEAREST);
#define FLAGS(e) { feclearexcept(FE_ALL_EXCEPT); volatile double r = (e); (void)r; printf("%-18s %a %x\n", #e, r, fetestexcept(FE_ALL_EXCEPT)); }
  volatile double zero = 0, inf = INFINITY, minus = -1;
  FLAGS(one / zero) FLAGS(zero / zero == 0) FLAGS(big * big) FLAGS(tiny / big) FLAGS(tiny * 3) FLAGS(inf - inf == 0) FLAGS(sqrt(minus) == 0) FLAGS((int)big) FLAGS(one + tiny) FLAGS(0.5 + half)
#define FLAGSL(e) { feclearexcept(FE_ALL_EXCEPT); volatile long double r = (e); (void)r; printf("%-18s %La %x\n", #e, r, fetestexcept(FE_ALL_EXCEPT)); }
  volatile long double zerol = 0, bigl = LDBL_MAX, tinyl = LDBL_MIN;
  FLAGSL(onel / zerol) FLAGSL(bigl * bigl) FLAGSL(tinyl / threel) FLAGSL(onel / threel) FLAGSL((long double)tiny) FLAGSL(tinyl / 4) FLAGSL(sqrtl(threel)) FLAGSL((double)bigl)
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGFPE, &action, 0);
#define TRAP(which, e) { code = 0; feclearexcept(FE_ALL_EXCEPT); if (!sigsetjmp(back, 1)) { feenableexcept(which); e; } fedisableexcept(FE_ALL_EXCEPT); printf("%-34s %d\n", #e, code); }
  volatile int izero = 0, imin = -2147483647 - 1, iminus = -1, iresult;
  volatile double result;
  volatile long double resultl;
  TRAP(0, iresult = 7 / izero) TRAP(0, iresult = imin / iminus) TRAP(FE_DIVBYZERO, result = one / zero) TRAP(FE_INVALID, result = zero / zero)
  TRAP(FE_OVERFLOW, result = big * big) TRAP(FE_UNDERFLOW, result = tiny / 3) TRAP(FE_INEXACT, result = one / three)
  TRAP(FE_DIVBYZERO, resultl = onel / zerol; resultl += 1) TRAP(FE_OVERFLOW, resultl = bigl * bigl; resultl += 1) TRAP(FE_INEXACT, resultl = onel / threel; resultl += 1)
  TRAP(FE_INVALID, resultl = sqrtl(-threel); resultl += 1) TRAP(FE_UNDERFLOW, resultl = tinyl / threel; resultl += 1)
  TRAP(FE_INVALID, iresult = (int)big) TRAP(FE_DIVBYZERO, __m128 v = _mm_div_ps(_mm_set1_ps(onef), _mm_set1_ps(zero)); onef = _mm_cvtss_f32(v))
  onef = 1;
  unsigned csr = _mm_getcsr();
  _mm_setcsr(csr | 0x8040); // flush to zero, denormals are zero
  printf("ftz %a %a\n", tiny * 0.5, tiny + 0);
  _mm_setcsr(csr);
  for (int precision = 0; precision < 4; precision++) {
    if (precision == 1) continue;
    unsigned short word = 0x7f | precision << 8;
    __asm__ volatile("fldcw %0" ::"m"(word));
    printf("precision %d: %La %La\n", precision, onel / threel, onel + tinyl);
  }
  __asm__ volatile("fninit");
  signal(SIGALRM, noop);
  ualarm(2000, 2000);
  volatile double sum = 0;
  long double suml = 0;
  for (int i = 1; i < 200000; i++) {
    sum += 1.0 / i;
    suml += 1.0L / i;
  }
  ualarm(0, 0);
  printf("over signals: %a %La, rounding %d\n", sum, suml, fegetround());
  fesetround(FE_DOWNWARD);
  fflush(stdout);
  if (fork() == 0) {
    printf("child: rounding %d %a %La\n", fegetround(), one / three, suml / 3);
    exit(0);
  }
  wait(0);
  fenv_t environment;
  feholdexcept(&environment);
  feraiseexcept(FE_OVERFLOW | FE_INEXACT);
  feupdateenv(&environment);
  printf("rounding %d flags %x\n", fegetround(), fetestexcept(FE_ALL_EXCEPT));
  return 0;
}
