/* Port exits of KVM, counted for a while, and the thread's processor time: the least that C has to do for each. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

/* mov al, 0x41; out 0x80, al; jmp to the out */
static const unsigned char code[] = {0xb0, 0x41, 0xe6, 0x80, 0xeb, 0xfc};

static double now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int must(int result, const char *what) {
  if (result >= 0) return result;
  perror(what);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int device = must(open(argv[1], O_RDWR | O_CLOEXEC), argv[1]);
  double seconds = atof(argv[2]);
  int vm = must(ioctl(device, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  unsigned char *ram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memcpy(ram + 0x1000, code, sizeof code);
  struct kvm_userspace_memory_region region = {.memory_size = 0x10000, .userspace_addr = (uintptr_t)ram};
  must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  must(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
  int vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  int size = must(ioctl(device, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  volatile struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  struct kvm_sregs sregs;
  must(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  must(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
  must(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
  unsigned long exits = 0, sum = 0;
  double end = now(CLOCK_MONOTONIC) + seconds, start = now(CLOCK_THREAD_CPUTIME_ID);
  do {
    for (int i = 0; i < 1000; i++) {
      must(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
      if (run->exit_reason != KVM_EXIT_IO || run->io.port != 0x80) return 1;
      sum += *((volatile unsigned char *)run + run->io.data_offset);
    }
    exits += 1000;
  } while (now(CLOCK_MONOTONIC) < end);
  printf("%lu exits %.6f seconds\n", exits, now(CLOCK_THREAD_CPUTIME_ID) - start);
  return sum == exits * 0x41 ? 0 : 1;
}
