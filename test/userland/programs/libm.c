// The mathematics library in float, double and long double, over a grid and over random bit patterns.
#include <complex.h>
#include <math.h>
#include <quadmath.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t seed = 88172645463325252u;
static uint64_t rnd(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  return seed ^= seed << 17;
}
static uint64_t hash(uint64_t h, const void *data, size_t bytes) {
  const unsigned char *p = data;
  while (bytes--) h = (h ^ *p++) * 1099511628211u;
  return h;
}
// NaNs carry what no standard fixes.
#define ADD(h, x) ((x) != (x) ? hash(h, "nan", 3) : hash(h, &(x), SIZE))
// glibc does these in long double with the x87's transcendental instructions, whose last bits differ from CPU to CPU.
#define X87(X) X(atan) X(sinh) X(cosh) X(tanh) X(asinh) X(acosh) X(atanh) X(exp) X(expm1) X(log) X(log2) X(log10) X(log1p)
// Those, and what is made of them.
#define INEXACT(name) (SIZE == 10 && strstr(" atan sinh cosh tanh asinh acosh atanh exp exp2 expm1 log log2 log10 log1p lgamma y0 atan2 ", " " name " "))
#define UNARY(X) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh) X(tanh) X(asinh) X(acosh) X(atanh) X(exp) X(exp2) \
  X(expm1) X(log) X(log2) X(log10) X(log1p) X(sqrt) X(cbrt) X(ceil) X(floor) X(trunc) X(round) X(rint) X(nearbyint) \
  X(erf) X(erfc) X(tgamma) X(lgamma) X(logb) X(j0) X(j1) X(y0) X(fabs)
#define BINARY(X) X(pow) X(atan2) X(fmod) X(remainder) X(hypot) X(fdim) X(fmax) X(fmin) X(nextafter) X(copysign) X(drem)

#define COUNT 300
#define T double
#define SIZE 8
#define F(x) x
#define NAME "double"
#define RUN run_double
#include "libm-body.h"
#undef T
#undef SIZE
#undef F
#undef NAME
#undef RUN
#define T float
#define SIZE 4
#define F(x) x##f
#define NAME "float"
#define RUN run_float
#include "libm-body.h"
#undef T
#undef SIZE
#undef F
#undef NAME
#undef RUN
#define T long double
#define SIZE 10
#define F(x) x##l
#define NAME "long double"
#define RUN run_long_double
#include "libm-body.h"

#undef T
// How far a long double function is from libquadmath's, which is integer arithmetic, in units of the last place.
static void distance(const char *name, long double (*function)(long double), __float128 (*wide)(__float128)) {
  double worst = 0;
  for (int i = 0; i < 150; i++) {
    long double x = ldexpl((long double)(rnd() >> 1), -62 - (int)(rnd() % 8)) * (i % 2 ? 1 : -1) * (i % 3 ? 1 : 8);
    __float128 right = wide(x);
    long double result = function(x), rounded = right;
    if (rounded != rounded || result != result || rounded - rounded != 0) {
      if (!((rounded != rounded && result != result) || rounded == result)) worst = INFINITY;
      continue;
    }
    long double unit = nextafterl(fabsl(rounded), INFINITY) - fabsl(rounded);
    double ulps = fabs((double)((result - right) / unit));
    if (ulps > worst) worst = ulps;
  }
  printf("long double %-10s %s\n", name, worst < 6 ? "near" : "FAR");
  if (worst >= 6) printf("%g\n", worst);
}

int main(void) {
  run_double();
  run_float();
  run_long_double();
#define FUNCTION(f) distance(#f, f##l, f##q);
  X87(FUNCTION)
  double complex z = 1.5 - 0.25 * I;
  z = cpow(z, 2.5 + I) * csqrt(z) / cexp(z);
  printf("%a %a\n", creal(z), cimag(z));
  long double complex w = clogl(-2.0L + 3.0L * I) * catanl(0.5L + 0.5L * I);
  printf("%.16Lg %.16Lg\n", creall(w), cimagl(w));
  return 0;
}
