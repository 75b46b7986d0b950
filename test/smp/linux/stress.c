/*
 * A program for a Linux guest that keeps all its processors busy with each other: processes, futexes, signals, memory that
 * is mapped and unmapped under the eyes of other threads, pipes, migration, clocks, and processors that go off and on.
 *
 *     stress SECONDS          all of it; the last line is "stress: ok", or says what was wrong
 *     stress-exit N           exits with N
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}
static double deadline;
static int running(void) { return now() < deadline; }

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char text[256];
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  dprintf(1, "stress: FAILED: %s (errno %d)\n", text, errno);
  _exit(1);
}
#define CHECK(condition) do { if (!(condition)) fail("%s, line %d", #condition, __LINE__); } while (0)

static uint64_t random_state = 88172645463325252ull;
static uint64_t next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

static char *self;
static int may_hotplug;

/* Whether this is NLKT's default guest, and not the machine of whoever tries the program: its name is "nlkt". */
static int in_guest(void) {
  char name[64] = "";
  return gethostname(name, sizeof name - 1) == 0 && strcmp(name, "nlkt") == 0 && access("/nlkt/command", F_OK) == 0;
}

/* Processes: fork, exec, wait. */
static long processes(void) {
  long count = 0;
  while (running()) {
    pid_t children[4];
    for (int i = 0; i < 4; i++) {
      children[i] = fork();
      CHECK(children[i] >= 0);
      if (children[i] == 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", 40 + i);
        if (i & 1) execl(self, "stress-exit", number, (char *)0);
        _exit(40 + i);
      }
    }
    for (int i = 0; i < 4; i++) {
      int status;
      CHECK(waitpid(children[i], &status, 0) == children[i]);
      CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 40 + i);
      count++;
    }
  }
  return count;
}

/* Futexes: a token goes round; a counter under a mutex; a barrier. */
enum { THREADS = 6 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static int token;
static atomic_int over;
static long passes, guarded;
static atomic_long expected;

static void *pass_token(void *argument) {
  const int mine = (int)(intptr_t)argument;
  for (;;) {
    pthread_mutex_lock(&mutex);
    while (token != mine && !over) pthread_cond_wait(&moved, &mutex);
    if (over) {
      pthread_mutex_unlock(&mutex);
      return 0;
    }
    token = (token + 1) % THREADS;
    passes++;
    if (mine == 0 && !running()) over = 1;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&mutex);
    static pthread_mutex_t other = PTHREAD_MUTEX_INITIALIZER;
    for (int i = 0; i < 20; i++) {
      pthread_mutex_lock(&other);
      guarded++;
      pthread_mutex_unlock(&other);
      atomic_fetch_add(&expected, 1);
    }
  }
}
static long futexes(void) {
  pthread_t threads[THREADS];
  for (intptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], 0, pass_token, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
  CHECK(guarded == expected);
  return passes;
}

/* Signals: two processes wake each other; a timer interrupts arithmetic, whose registers must survive. */
static volatile sig_atomic_t ticks;
static void on_tick(int number) {
  volatile double x = number;
  for (int i = 0; i < 50; i++) x = x * 1.0001 + 0.5;
  ticks++;
}
static long signals(void) {
  struct sigaction action = { .sa_handler = on_tick };
  sigaction(SIGALRM, &action, 0);
  struct itimerval timer = { { 0, 2000 }, { 0, 2000 } };
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, 0);
  const pid_t parent = getpid();
  const pid_t child = fork();
  CHECK(child >= 0);
  long rounds = 0;
  if (child == 0) {
    for (;;) {
      struct timespec patience = { 60, 0 };
      if (sigtimedwait(&set, 0, &patience) < 0) _exit(errno == EAGAIN ? 3 : 0);
      if (kill(parent, SIGUSR1) != 0) _exit(0);
    }
  }
  setitimer(ITIMER_REAL, &timer, 0);
  while (running()) {
    double a = 1, b = 1, c = 0;
    for (int i = 1; i < 20000; i++) {
      a += 1.0 / i;
      b = b * 1.000001;
      c += a * b;
    }
    static double first;
    if (first == 0) first = c;
    CHECK(c == first);
    CHECK(kill(child, SIGUSR1) == 0);
    struct timespec patience = { 60, 0 };
    int got;
    do got = sigtimedwait(&set, 0, &patience);
    while (got < 0 && errno == EINTR);
    CHECK(got == SIGUSR1);
    rounds++;
  }
  timer = (struct itimerval){ { 0, 0 }, { 0, 0 } };
  setitimer(ITIMER_REAL, &timer, 0);
  kill(child, SIGKILL);
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
  CHECK(ticks > 0);
  return rounds;
}

/* Memory: what one thread maps, others read, and it is then protected, dropped and unmapped. */
enum { PAGES = 16 };
static _Atomic(volatile uint64_t *) offered;
static atomic_int readers;
static atomic_long verified;
static void *reader(void *argument) {
  (void)argument;
  while (!atomic_load(&over)) {
    atomic_fetch_add(&readers, 1);
    volatile uint64_t *map = atomic_load(&offered);
    if (map != 0) {
      const uint64_t tag = map[0];
      for (int page = 0; page < PAGES; page++) CHECK(map[page * 512] == tag && map[page * 512 + 511] == tag + page);
      atomic_fetch_add(&verified, 1);
    }
    atomic_fetch_sub(&readers, 1);
  }
  return 0;
}
static long mappings(void) {
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], 0, reader, 0) == 0);
  uint64_t tag = 1;
  while (running()) {
    uint64_t *map = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED);
    tag += 1000;
    for (int page = 0; page < PAGES; page++) {
      CHECK(map[page * 512] == 0);
      map[page * 512] = tag;
      map[page * 512 + 511] = tag + page;
    }
    if (tag % 2000 == 0) CHECK(mprotect(map, PAGES * 4096, PROT_READ) == 0);
    atomic_store(&offered, map);
    const long before = verified;
    for (int i = 0; i < 500 && (i < 20 || verified == before); i++) sched_yield();
    atomic_store(&offered, 0);
    while (atomic_load(&readers) != 0) sched_yield();
    if (tag % 3000 == 0) {
      CHECK(madvise(map, PAGES * 4096, MADV_DONTNEED) == 0);
      for (int page = 0; page < PAGES; page++) CHECK(*(volatile uint64_t *)&map[page * 512] == 0);
    }
    CHECK(munmap(map, PAGES * 4096) == 0);
  }
  atomic_store(&over, 1);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
  return verified;
}

/* Copy on write: a child and its parent change the same pages and see their own. */
static long copies(void) {
  enum { WORDS = 32 * 512 };
  uint64_t *area = mmap(0, WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(area != MAP_FAILED);
  long rounds = 0;
  while (running()) {
    for (int i = 0; i < WORDS; i += 64) area[i] = rounds;
    const pid_t child = fork();
    CHECK(child >= 0);
    const uint64_t mine = rounds * 2 + (child == 0);
    for (int i = 0; i < WORDS; i += 64) {
      CHECK(area[i] == (uint64_t)rounds);
      area[i] = mine;
    }
    for (int i = 0; i < WORDS; i += 64) CHECK(area[i] == mine);
    if (child == 0) _exit(0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    rounds++;
  }
  return rounds;
}

/* Pipes: numbers in order. */
static long pipes(void) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  static uint64_t block[1024];
  if (child == 0) {
    close(ends[0]);
    for (uint64_t i = 0; running();) {
      for (int k = 0; k < 1024; k++) block[k] = i++;
      for (size_t done = 0; done < sizeof block;) {
        const ssize_t n = write(ends[1], (char *)block + done, sizeof block - done);
        CHECK(n > 0);
        done += n;
      }
    }
    _exit(0);
  }
  close(ends[1]);
  long blocks = 0;
  for (uint64_t i = 0;;) {
    size_t done = 0;
    while (done < sizeof block) {
      const ssize_t n = read(ends[0], (char *)block + done, sizeof block - done);
      CHECK(n >= 0);
      if (n == 0) break;
      done += n;
    }
    if (done == 0) break;
    CHECK(done == sizeof block);
    for (int k = 0; k < 1024; k++) CHECK(block[k] == i++);
    blocks++;
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  return blocks;
}

/* Clocks: no thread sees a time before one that another has seen. */
static _Atomic(uint64_t) latest;
static atomic_long reads;
static void *read_clock(void *argument) {
  (void)argument;
  while (running()) {
    for (int i = 0; i < 200; i++) {
      const uint64_t before = atomic_load(&latest);
      struct timespec t;
      clock_gettime(CLOCK_MONOTONIC, &t);
      const uint64_t time = t.tv_sec * 1000000000ull + t.tv_nsec;
      CHECK(time >= before);
      uint64_t seen = before;
      while (seen < time && !atomic_compare_exchange_weak(&latest, &seen, time)) ;
      atomic_fetch_add(&reads, 1);
    }
    usleep(1000);
  }
  return 0;
}
static long clocks(void) {
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], 0, read_clock, 0) == 0);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
  return reads;
}

/* Migration: a process moves from processor to processor with its registers. */
static long migrations(void) {
  const int processors = sysconf(_SC_NPROCESSORS_CONF);
  long moves = 0;
  volatile double x = 0;
  while (running()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(next_random() % processors, &set);
    /* The processor may be off. */
    if (sched_setaffinity(0, sizeof set, &set) == 0) moves++;
    double a = 3;
    for (int i = 0; i < 2000; i++) a = a * 0.5 + 1;
    x = a;
    CHECK(x == 2);
  }
  return moves;
}

/* Processors go off and on; never those of the host, should somebody run the program there. */
static long hotplug(void) {
  const int processors = sysconf(_SC_NPROCESSORS_CONF);
  long changes = 0;
  if (processors < 2 || !may_hotplug) return 0;
  while (running()) {
    char file[64];
    const int cpu = 1 + next_random() % (processors - 1);
    snprintf(file, sizeof file, "/sys/devices/system/cpu/cpu%d/online", cpu);
    for (int on = 0; on <= 1; on++) {
      const int fd = open(file, O_WRONLY);
      CHECK(fd >= 0);
      const ssize_t n = write(fd, on ? "1" : "0", 1);
      if (n != 1) fail("processor %d does not go %s", cpu, on ? "on" : "off");
      close(fd);
      usleep(50000 + next_random() % 150000);
      changes++;
    }
  }
  return changes;
}

static const struct { const char *name; long (*run)(void); } jobs[] = {
  { "processes", processes }, { "futexes", futexes }, { "signals", signals },   { "mappings", mappings },
  { "copies", copies },       { "pipes", pipes },     { "clocks", clocks },     { "migrations", migrations },
  { "hotplug", hotplug },
};
enum { JOBS = sizeof jobs / sizeof jobs[0] };

int main(int argc, char **argv) {
  self = "/proc/self/exe";
  if (argc == 2 && strcmp(argv[0], "stress-exit") == 0) return atoi(argv[1]);
  if (argc != 2) fail("usage: stress SECONDS");
  deadline = now() + atof(argv[1]);
  may_hotplug = in_guest();
  pid_t children[JOBS];
  for (int i = 0; i < JOBS; i++) {
    children[i] = fork();
    CHECK(children[i] >= 0);
    if (children[i] == 0) {
      random_state += i * 0x9e3779b97f4a7c15ull;
      const long count = jobs[i].run();
      dprintf(1, "stress: %s: %ld\n", jobs[i].name, count);
      _exit(0);
    }
  }
  int bad = 0;
  for (int i = 0; i < JOBS; i++) {
    int status;
    CHECK(waitpid(children[i], &status, 0) == children[i]);
    if (status != 0) {
      printf("stress: %s: status 0x%x\n", jobs[i].name, status);
      bad = 1;
    }
  }
  printf(bad ? "stress: FAILED\n" : "stress: ok\n");
  return bad;
}
