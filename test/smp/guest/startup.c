/* INIT and start-up IPIs to vCPUs that really run beside this one (SDM vol. 3A, 9.4.4): only vCPU 0 enters here. */
#include "smp.h"

enum { ICR = 0x830, INIT = 0x4500, STARTUP = 0x4600, TO_OTHERS = 0xc0000 };
#define PAGE 0x90000ul
static volatile u32 *const came = (volatile u32 *)0x7c00;

/* 16-bit code at PAGE: INC DWORD [0x7c00] with LOCK, then wait for 0x7c04 to change, then OUT DONE_PORT. */
static const u8 code[] = {
  0xfa,                               /* CLI */
  0x31, 0xc0, 0x8e, 0xd8,             /* XOR AX, AX; MOV DS, AX */
  0xf0, 0x66, 0xff, 0x06, 0x00, 0x7c, /* LOCK INC DWORD [7C00] */
  0xf3, 0x90,                         /* PAUSE */
  0x83, 0x3e, 0x04, 0x7c, 0x00,       /* CMP WORD [7C04], 0 */
  0x74, 0xf7,                         /* JE PAUSE */
  0xb0, 0x2a, 0xe6, 0xf4, 0xf4,       /* MOV AL, 42; OUT F4, AL; HLT */
};

static void delay(u64 ns) { for (const u64 start = rdtsc(); rdtsc() - start < ns;) cpu_pause(); }

void guest_main(u32 id, u32 n, u64 what, u64 rounds) {
  CHECK(id == 0);
  for (u32 i = 0; i < sizeof code; i++) ((volatile u8 *)PAGE)[i] = code[i];
  wrmsr(0x1b, 0xfee00d00);
  wrmsr(0x80f, 0x1ff);
  came[1] = 0;
  /* Again and again: an INIT stops what the last start-up IPI started. */
  for (u64 i = 1; i <= rounds; i++) {
    came[0] = 0;
    if (i & 1) {
      wrmsr(ICR, TO_OTHERS | INIT);
      delay(10000);
      wrmsr(ICR, TO_OTHERS | STARTUP | PAGE >> 12);
      delay(10000);
      wrmsr(ICR, TO_OTHERS | STARTUP | PAGE >> 12);
    } else {
      for (u64 to = 1; to < n; to++) {
        wrmsr(ICR, to << 32 | INIT);
        wrmsr(ICR, to << 32 | STARTUP | PAGE >> 12);
      }
    }
    while (*(volatile u32 *)came != n - 1) cpu_pause();
    delay(100000);
    CHECK(*(volatile u32 *)came == n - 1);
  }
  came[1] = 1;
}
