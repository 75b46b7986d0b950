/* Product of two matrices of doubles, the plain three loops. */
#include <stdio.h>
#include <stdlib.h>

#define N 512

static double a[N][N], b[N][N], c[N][N];

int main(void) {
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) {
      a[i][j] = (i * 7 + j * 3) % 101 / 16.0;
      b[i][j] = (i * 5 + j * 11) % 103 / 32.0;
    }
  for (int i = 0; i < N; i++)
    for (int k = 0; k < N; k++) {
      double x = a[i][k];
      for (int j = 0; j < N; j++) c[i][j] += x * b[k][j];
    }
  double trace = 0, sum = 0;
  for (int i = 0; i < N; i++) {
    trace += c[i][i];
    for (int j = 0; j < N; j++) sum += c[i][j] * ((i + j) % 7);
  }
  printf("%.17g %.17g\n", trace, sum);
  return 0;
}
