// Processes, signals, threads, memory: what leans on paging, exceptions, TLS, atomic operations and debug registers.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

// Names of registers, and offsets that fit in the word.
#ifdef __x86_64__
#define R(name) "%%r" #name
#define IP regs.rip
#define CX regs.rcx
#define RED_ZONE "128"
#define NOT_CANONICAL 0x8000000000000000
#else
#define R(name) "%%e" #name
#define IP regs.eip
#define CX regs.ecx
#define RED_ZONE "0"
#define NOT_CANONICAL 0xfffff000
#endif
#define PAGE 4096
static sigjmp_buf back;
static volatile int caught, caught_code;
static volatile uintptr_t caught_address;
static void handler(int signal, siginfo_t *info, void *context) {
  // Linux leaves AC set for handlers.
  __asm__ volatile("lea -" RED_ZONE "(" R(sp) "), " R(sp) "; pushf; andl $~0x40000, (" R(sp) "); popf; lea " RED_ZONE "(" R(sp) "), " R(sp) ::: "memory", "cc");
  (void)context;
  caught = signal;
  caught_code = info->si_code;
  caught_address = (uintptr_t)info->si_addr;
  if (signal == SIGTRAP) return; // goes on after int3, or with the next step
  siglongjmp(back, 1);
}

static void faults(void) {
  static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
  stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
  sigaltstack(&stack, 0);
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, 0);
  char *map = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(map, 1, 4 * PAGE);
  mprotect(map + PAGE, PAGE, PROT_READ);
  mprotect(map + 2 * PAGE, PAGE, PROT_NONE);
#define FAULT(e) { caught = 0; caught_code = 0; if (!sigsetjmp(back, 1)) { e; } \
    printf("%-46s signal %d code %d offset %ld\n", #e, caught, caught_code, caught_address - (uintptr_t)map < 5 * PAGE ? (long)(caught_address - (uintptr_t)map) : -1); }
  volatile char sink;
  FAULT(sink = map[PAGE + 5]) FAULT(map[PAGE + 5] = 1) FAULT(sink = map[2 * PAGE + 7]) FAULT(*(volatile long *)(map + PAGE - 3) = 5)
  FAULT(*(volatile int *)(map + 2 * PAGE - 2) = 5) FAULT(memset(map + PAGE - 100, 2, 300)) FAULT(sink = *(volatile char *)0) FAULT(sink = *(volatile char *)NOT_CANONICAL)
#ifdef __x86_64__ // Linux for i386 has user memory executable, on PAE kernels too.
  FAULT(((void (*)(void))(map + 16))())
#endif
  FAULT(__asm__ volatile("ud2")) FAULT(__asm__ volatile("hlt")) FAULT(__asm__ volatile("int3")) FAULT(__asm__ volatile("int $0x50"))
  FAULT(__asm__ volatile("mov %%cr3, " R(ax) ::: "eax")) FAULT(__asm__ volatile("in $0x60, %%al" ::: "eax")) FAULT(__asm__ volatile("cli")) FAULT(__asm__ volatile("lgdt (" R(sp) ")" ::: "memory"))
  FAULT(__asm__ volatile("wrmsr")) FAULT(__asm__ volatile("movaps 1(" R(sp) "), %%xmm0" ::: "xmm0")) FAULT(__asm__ volatile("mov %0, %%ds" ::"r"(0x1234))) FAULT(__asm__ volatile("lock; .byte 0x8b, 0x00"))
  FAULT(__asm__ volatile("mov $0, %%edx; mov $5, %%eax; xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx")) FAULT(__asm__ volatile("pushf; orl $0x40000, (" R(sp) "); popf; mov 1(" R(sp) "), %%eax; pushf; andl $~0x40000, (" R(sp) "); popf" ::: "eax", "memory"))
  __asm__ volatile("pushf; andl $~0x40000, (" R(sp) "); popf" ::: "memory", "cc");
  FAULT(__asm__ volatile("pushf; orl $0x100, (" R(sp) "); popf; nop; nop; pushf; andl $~0x100, (" R(sp) "); popf; nop" ::: "memory"))
  mprotect(map + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
  // Code that is written, run, and written again, also from within its own page.
  unsigned char *code = (unsigned char *)map + 3 * PAGE;
  int total = 0;
  for (int i = 0; i < 200; i++) {
    unsigned char bytes[] = {0xb8, (unsigned char)i, 0, 0, 0, 0xc3};
    memcpy(code, bytes, sizeof bytes);
    total += ((int (*)(void))code)();
  }
  // mov byte [the immediate of the next instruction], 42; mov eax, 1; ret. RIP-relative or absolute.
  unsigned char self[] = {0xc6, 0x05, 1, 0, 0, 0, 42, 0xb8, 1, 0, 0, 0, 0xc3};
#ifndef __x86_64__
  void *target = code + 8;
  memcpy(self + 2, &target, 4);
#endif
  memcpy(code, self, sizeof self);
  printf("self-modifying %d %d\n", total, ((int (*)(void))code)());
  munmap(map, 4 * PAGE);
}

static _Thread_local int tls = 5;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static long plain, turn;
static atomic_long counter;
static void *thread(void *argument) {
  long id = (long)argument;
  tls += (int)id;
  for (int i = 0; i < 3000; i++) {
    atomic_fetch_add(&counter, id);
    pthread_mutex_lock(&mutex);
    plain += id;
    pthread_mutex_unlock(&mutex);
  }
  pthread_barrier_wait(&barrier);
  for (int round = 0; round < 20; round++) {
    pthread_mutex_lock(&mutex);
    while (turn % 6 != id) pthread_cond_wait(&cond, &mutex);
    turn++;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
  }
  return (void *)(long)tls;
}
static void threads(void) {
  pthread_t ids[6];
  pthread_barrier_init(&barrier, 0, 6);
  for (long i = 0; i < 6; i++) pthread_create(&ids[i], 0, thread, (void *)i);
  long sum = 0;
  for (int i = 0; i < 6; i++) {
    void *result;
    pthread_join(ids[i], &result);
    sum += (long)result;
  }
  printf("threads %ld %ld %ld %ld %d\n", sum, plain, (long)counter, turn, tls);
#ifdef __x86_64__
  unsigned long long expected[2] __attribute__((aligned(16))) = {1, 2}, low = 3, high = 4, rax = 1, rdx = 2;
  unsigned char done;
  __asm__ volatile("lock cmpxchg16b %1; setz %0" : "=q"(done), "+m"(expected), "+a"(rax), "+d"(rdx) : "b"(low), "c"(high) : "memory");
  printf("cmpxchg16b %d %llu %llu\n", done, expected[0], expected[1]);
#else
  unsigned long long expected = 0x100000002, replaced = __sync_val_compare_and_swap(&expected, 0x100000002, 0x300000004);
  printf("cmpxchg8b %llx %llx\n", replaced, expected);
#endif
}

static ucontext_t contexts[3];
static int trail[20], trails;
static void coroutine(int which) {
  for (int i = 0; i < 5; i++) {
    trail[trails++] = which * 10 + i;
    swapcontext(&contexts[which], &contexts[3 - which]);
  }
}
static jmp_buf jump;
static int depth(int n, volatile double x) {
  if (n == 0) longjmp(jump, 77);
  char *space = alloca(n * 10);
  memset(space, n, n * 10);
  return depth(n - 1, x * 1.5) + space[n];
}
static long sum_of(int count, ...) {
  va_list list;
  va_start(list, count);
  double sum = 0;
  for (int i = 0; i < count; i++) sum += i % 3 == 0 ? va_arg(list, int) : i % 3 == 1 ? va_arg(list, double) : (double)va_arg(list, long double);
  va_end(list);
  return (long)(sum * 1000);
}
static void control(void) {
  static char stacks[2][65536];
  for (int i = 1; i <= 2; i++) {
    getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = stacks[i - 1];
    contexts[i].uc_stack.ss_size = sizeof stacks[0];
    contexts[i].uc_link = &contexts[0];
    makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
  }
  swapcontext(&contexts[0], &contexts[1]);
  for (int i = 0; i < trails; i++) printf("%d ", trail[i]);
  printf("\nlongjmp %d, varargs %ld\n", setjmp(jump) ?: depth(50, 1.0), sum_of(9, 1, 2.5, 3.25L, 4, 5.5, 6.125L, 7, 8.75, 9.5L));
#ifdef __x86_64__
  unsigned __int128 big = 1;
  for (int i = 1; i < 34; i++) big *= i;
  printf("int128 %016lx%016lx %lu %lu\n", (unsigned long)(big >> 64), (unsigned long)big, (unsigned long)(big / 1000000007u % 1000000), (unsigned long)(big % 998244353));
#endif
}

static void memory(void) {
  size_t size = 24 << 20;
  unsigned *words = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (size_t i = 0; i < size / 4; i += 257) words[i] = (unsigned)i * 2654435761u;
  fflush(stdout);
  for (int child = 0; child < 3; child++) {
    if (fork() == 0) {
      unsigned long sum = 0;
      for (size_t i = 0; i < size / 4; i += 257) {
        if (i % 3 == 0) words[i] ^= child;
        sum += words[i];
      }
      printf("child %d %lu\n", child, sum);
      exit(0);
    }
    wait(0);
  }
  words = mremap(words, size, 2 * size, MREMAP_MAYMOVE);
  for (size_t i = size / 4; i < size / 2; i += 1021) words[i] = (unsigned)i;
  madvise(words, size / 2, MADV_DONTNEED);
  unsigned long sum = 0;
  for (size_t i = 0; i < size / 2; i += 509) sum = sum * 31 + words[i];
  printf("memory %lu\n", sum);
  munmap(words, 2 * size);
  FILE *file = tmpfile();
  for (int i = 0; i < 100000; i++) fprintf(file, "%d\n", i * 7);
  fflush(file);
  char *mapped = mmap(0, 500000, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
  for (int i = 0; i < 500000; i += 1000) mapped[i] = '#';
  rewind(file);
  int c;
  while ((c = getc(file)) != EOF) sum = sum * 33 + c;
  printf("file %lu\n", sum);
  for (int i = 0; i < 1500; i++) {
    char *p = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[0] = i;
    p[2 * PAGE] = p[0] + p[PAGE];
    sum += p[2 * PAGE];
    munmap(p, 3 * PAGE);
  }
  printf("maps %lu\n", sum);
}

static volatile long watched;
static void tracing(void) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    __asm__ volatile("mov $1000, %%ecx; 1: dec %%ecx; jnz 1b; int3" ::: "ecx");
    for (int i = 0; i < 5; i++) watched = i * i;
    _exit(9);
  }
  int status;
  waitpid(child, &status, 0);
  // Up to the loop's int3 with single steps: a loop of 2,000 instructions, less what is before it.
  int looping = 0, steps = 0;
  struct user_regs_struct regs;
  uintptr_t loop = 0;
  for (;;) {
    ptrace(PTRACE_SINGLESTEP, child, 0, 0);
    if (waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status)) break;
    ptrace(PTRACE_GETREGS, child, 0, &regs);
    if (CX == 1000 && !looping) looping = 1, loop = IP;
    if (looping) steps++;
    if (looping && (ptrace(PTRACE_PEEKTEXT, child, IP, 0) & 0xff) == 0xcc) break;
  }
  printf("steps %d, loop seen %d, rcx %lld\n", steps, loop != 0, (long long)CX);
  IP++;
  ptrace(PTRACE_SETREGS, child, 0, &regs);
  // A write watchpoint of 8 bytes.
  ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[0]), &watched);
  long set = ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[7]), 1 | 1 << 16 | 2 << 18);
  int hits = 0;
  for (;;) {
    ptrace(PTRACE_CONT, child, 0, 0);
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status)) break;
    hits++;
    printf("watchpoint: %ld, dr6 %lx\n", ptrace(PTRACE_PEEKDATA, child, &watched, 0), ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, u_debugreg[6]), 0) & 0xf);
  }
  printf("watchpoint set %ld, %d hits, exit %d\n", set, hits, WEXITSTATUS(status));
}

static atomic_int ticks;
static void tick(int signal) {
  (void)signal;
  ticks++;
}
static void timing(void) {
  struct timespec a, b;
  int backwards = 0;
  clock_gettime(CLOCK_MONOTONIC, &a);
  for (int i = 0; i < 20000; i++) {
    clock_gettime(CLOCK_MONOTONIC, &b);
    if (b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec)) backwards++;
    a = b;
  }
  signal(SIGALRM, tick);
  struct itimerval timer = {{0, 5000}, {0, 5000}};
  setitimer(ITIMER_REAL, &timer, 0);
  while (ticks < 20) __builtin_ia32_pause();
  setitimer(ITIMER_REAL, &(struct itimerval){0}, 0);
  struct timespec rest = {0, 50000000};
  clock_gettime(CLOCK_MONOTONIC, &a);
  while (nanosleep(&rest, &rest) != 0) {}
  clock_gettime(CLOCK_MONOTONIC, &b);
  long slept = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
  printf("time: backwards %d, ticks %d, slept at least %d\n", backwards, ticks >= 20, slept >= 50000000);
}

int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  faults();
  threads();
  control();
  memory();
  tracing();
  timing();
  return 0;
}
