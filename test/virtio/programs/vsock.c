/*
 * vsock connect PORT: connect to the host, send standard input, print what comes back.
 * vsock listen PORT: accept one stream and send back what comes.
 * vsock send PORT BYTES: connect to the host and send so many bytes.
 */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536];

static int write_all(int fd, const char *data, long length) {
  while (length > 0) {
    long written = write(fd, data, length);
    if (written <= 0) return -1;
    data += written;
    length -= written;
  }
  return 0;
}

static long copy(int from, int to) {
  long total = 0, got;
  while ((got = read(from, buffer, sizeof buffer)) > 0) {
    if (write_all(to, buffer, got) != 0) return -1;
    total += got;
  }
  return total;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_port = atoi(argv[2])};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (argv[1][0] == 'l') {
    address.svm_cid = VMADDR_CID_ANY;
    if (bind(fd, (void *)&address, sizeof address) != 0 || listen(fd, 4) != 0) return perror("listen"), 1;
    int stream = accept(fd, NULL, NULL);
    printf("echoed %ld\n", copy(stream, stream));
    return 0;
  }
  address.svm_cid = VMADDR_CID_HOST;
  if (connect(fd, (void *)&address, sizeof address) != 0) return perror("connect"), 1;
  if (argv[1][0] == 's') {
    memset(buffer, 's', sizeof buffer);
    for (long left = atol(argv[3]); left > 0; left -= sizeof buffer) {
      if (write_all(fd, buffer, left < (long)sizeof buffer ? left : (long)sizeof buffer) != 0) return perror("send"), 1;
    }
  } else copy(0, fd);
  shutdown(fd, SHUT_WR);
  copy(fd, 1);
  return 0;
}
