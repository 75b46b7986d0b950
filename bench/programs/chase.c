/* A chase along pointers in random order through 64 MB: one circle through all cache lines. */
#include "measure.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define LINES (1 << 20)
#define STEPS (1 << 23)

struct line {
  struct line *next;
  uint64_t number;
  char rest[48];
};

int main(void) {
  struct line *lines = aligned_alloc(64, LINES * sizeof(struct line));
  uint32_t *order = malloc(LINES * sizeof(uint32_t));
  if (lines == NULL || order == NULL) return 1;
  for (uint32_t i = 0; i < LINES; i++) order[i] = i;
  uint64_t x = 88172645463325252;
  for (uint32_t i = LINES - 1; i > 0; i--) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    uint32_t j = x % (i + 1), t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
  for (uint32_t i = 0; i < LINES; i++) {
    lines[order[i]].next = &lines[order[(i + 1) % LINES]];
    lines[order[i]].number = i;
  }
  begin();
  struct line *at = lines;
  uint64_t sum = 0;
  for (int i = 0; i < STEPS; i++) {
    sum += at->number ^ i;
    at = at->next;
  }
  end();
  printf("%llu\n", (unsigned long long)sum);
  return 0;
}
