/* Copies of 256 MB between buffers that are in memory already. */
#include "measure.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES (256 << 20)
#define COPIES 10

int main(void) {
  uint64_t *from = malloc(BYTES), *to = malloc(BYTES);
  if (from == NULL || to == NULL) return 1;
  for (size_t i = 0; i < BYTES / 8; i++) from[i] = i * 0x9e3779b97f4a7c15;
  memset(to, 1, BYTES);
  begin();
  for (int i = 0; i < COPIES; i++) {
    from[i] = i;
    memcpy(to, from, BYTES);
    /* What is never read would not be copied. */
    __asm__ volatile("" : : "r"(to) : "memory");
  }
  end();
  uint64_t sum = 0;
  for (size_t i = 0; i < BYTES / 8; i += 61) sum = sum * 31 + to[i];
  printf("%llu\n", (unsigned long long)sum);
  return 0;
}
