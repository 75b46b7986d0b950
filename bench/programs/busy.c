/* As many processes as the argument says, each with the same work: 64-bit arithmetic over 1 MB. */
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>
#include "measure.h"

enum { WORDS = 1 << 17, TURNS = 4000 };
static uint64_t words[WORDS];

static uint64_t work(void) {
  uint64_t sum = 1;
  for (int turn = 0; turn < TURNS; turn++) {
    for (int i = 0; i < WORDS; i++) {
      sum = sum * 6364136223846793005u + words[i];
      words[i] = sum >> 7 ^ i;
    }
  }
  return sum;
}

int main(int argc, char **argv) {
  const int count = argc > 1 ? atoi(argv[1]) : 1;
  begin();
  for (int i = 0; i < count; i++) if (fork() == 0) _exit(work() & 0x7f);
  int result = 0, status;
  for (int i = 0; i < count; i++) {
    if (wait(&status) < 0 || !WIFEXITED(status)) return 2;
    result = WEXITSTATUS(status);
  }
  end();
  printf("%d\n", result);
  return 0;
}
