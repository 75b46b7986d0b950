/* Fast Fourier transforms, radix 2, in place, there and back. */
#include <math.h>
#include <stdio.h>

#define BITS 17
#define N (1 << BITS)
#define ROUNDS 12

static double re[N], im[N], cosine[N / 2], sine[N / 2];

static void transform(int sign) {
  for (unsigned i = 0, j = 0; i < N; i++) {
    if (i < j) {
      double t = re[i];
      re[i] = re[j];
      re[j] = t;
      t = im[i];
      im[i] = im[j];
      im[j] = t;
    }
    unsigned bit = N >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j |= bit;
  }
  for (int size = 2; size <= N; size *= 2) {
    int half = size / 2, step = N / size;
    for (int start = 0; start < N; start += size)
      for (int k = 0; k < half; k++) {
        double wr = cosine[k * step], wi = sign * sine[k * step];
        double *ar = &re[start + k], *ai = &im[start + k];
        double *br = ar + half, *bi = ai + half;
        double xr = *br * wr - *bi * wi, xi = *br * wi + *bi * wr;
        *br = *ar - xr;
        *bi = *ai - xi;
        *ar += xr;
        *ai += xi;
      }
  }
}

int main(void) {
  unsigned x = 1;
  for (int i = 0; i < N; i++) {
    x = x * 1664525 + 1013904223;
    re[i] = (x >> 8) / 16777216.0 - 0.5;
  }
  for (int i = 0; i < N / 2; i++) {
    cosine[i] = cos(2 * M_PI * i / N);
    sine[i] = sin(2 * M_PI * i / N);
  }
  for (int round = 0; round < ROUNDS; round++) {
    transform(-1);
    transform(1);
    for (int i = 0; i < N; i++) {
      re[i] /= N;
      im[i] /= N;
    }
  }
  double sum = 0;
  for (int i = 0; i < N; i++) sum += re[i] * (i % 13);
  /* libm picks functions by the CPU's features: the last digits may differ. */
  printf("%.6f\n", sum);
  return 0;
}
