/*
 * Disk throughput as fio's libaio engine measures it: direct I/O through io_submit(2), a fixed number of requests in flight.
 *
 *   disk FILE read|write random|sequential BLOCK DEPTH OPERATIONS
 *
 * makes so many operations four times and prints the seconds that the last round took: what comes before warms up translated code.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_DEPTH 64

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static uint64_t state = 88172645463325252ull;
static uint64_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  int writes = argv[2][0] == 'w', random = argv[3][0] == 'r';
  long block = atol(argv[4]), depth = atol(argv[5]);
  uint64_t operations = atol(argv[6]);
  int fd = open(argv[1], (writes ? O_RDWR : O_RDONLY) | O_DIRECT);
  uint64_t size = 0;
  if (fd < 0 || depth < 1 || depth > MAX_DEPTH || ioctl(fd, BLKGETSIZE64, &size) != 0) {
    perror(argv[1]);
    return 1;
  }
  uint64_t blocks = size / block, at = 0, sent = 0, done = 0;
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, MAX_DEPTH, &context) != 0) {
    perror("io_setup");
    return 1;
  }
  struct iocb requests[MAX_DEPTH], *pointers[MAX_DEPTH];
  struct io_event events[MAX_DEPTH];
  memset(requests, 0, sizeof requests);
  for (long i = 0; i < depth; i++) {
    void *buffer;
    if (posix_memalign(&buffer, 4096, block) != 0) return 1;
    memset(buffer, 0x5a + i, block);
    requests[i].aio_fildes = fd;
    requests[i].aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    requests[i].aio_buf = (uintptr_t)buffer;
    requests[i].aio_nbytes = block;
    requests[i].aio_data = i;
  }
  double start = now();
  long ready = depth, flying = 0;
  for (long i = 0; i < depth; i++) pointers[i] = &requests[i];
  while (done < 4 * operations) {
    long batch = 4 * operations - sent < (uint64_t)ready ? (long)(4 * operations - sent) : ready;
    for (long i = 0; i < batch; i++) {
      uint64_t which = random ? next_random() % blocks : at++ % blocks;
      pointers[i]->aio_offset = which * block;
    }
    if (batch > 0 && syscall(SYS_io_submit, context, batch, pointers) != batch) {
      perror("io_submit");
      return 1;
    }
    sent += batch;
    flying += batch;
    ready = 0;
    long got = syscall(SYS_io_getevents, context, 1, flying, events, NULL);
    for (long i = 0; i < got; i++) {
      if (events[i].res != block) {
        fprintf(stderr, "disk: %lld\n", (long long)events[i].res);
        return 1;
      }
      pointers[ready++] = &requests[events[i].data];
    }
    if (done < 3 * operations && done + got >= 3 * operations) start = now();
    flying -= got;
    done += got;
  }
  printf("%.4f\n", now() - start);
  return 0;
}
