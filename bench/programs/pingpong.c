/* Two threads on two processors hand a word back and forth and sleep on it in between: 2 × 20,000 futex waits and wakes. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "measure.h"

enum { ROUNDS = 20000 };
static atomic_int word;

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) exit(2);
}
/* Wait for the word to have the parity `mine`, then count it on. */
static void *play(void *argument) {
  const int mine = argument != NULL;
  pin(mine);
  for (int i = 0; i < ROUNDS; i++) {
    for (int seen; ((seen = atomic_load(&word)) & 1) != mine;)
      syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_add(&word, 1);
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
  }
  return NULL;
}

int main(void) {
  pthread_t other;
  begin();
  if (pthread_create(&other, NULL, play, &word) != 0) return 2;
  play(NULL);
  pthread_join(other, NULL);
  end();
  printf("%d\n", atomic_load(&word));
  return 0;
}
