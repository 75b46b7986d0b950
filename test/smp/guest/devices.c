/*
 * All vCPUs at the same devices at once: what one wrote to a register of its own is there, what two registers say together fits, and
 * no interrupt is lost. The kernel of a machine with 4 vCPUs.
 */
#define CPUS 4
#include "machine.h"

enum { ROUNDS = 300, BYTES = 600, TICKS = 50 };
enum { COM2 = 0x2f8, UART_IER = 1, UART_IIR = 2, UART_LCR = 3, UART_MCR = 4, UART_LSR = 5, UART_SCR = 7 };
enum { PIC1 = 0x20, PIC2 = 0xa0, ELCR = 0x4d0, PIT = 0x40, PIT_CONTROL = 0x43, RTC = 0x70, PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc, PM_TIMER = 0x608 };
enum { VECTOR_COM2 = 0x33, VECTOR_TIMER = 0x32, COM2_PIN = 3, TIMER_PIN = 2, MASKED = 1 << 16 };
#define ECAM 0xe0000000ul
#define IOAPIC ((volatile u32 *)0xfec00000ul)

static struct meeting m;

static volatile u32 locks[4][16] __attribute__((aligned(64)));
static void lock(volatile u32 *word) {
  while (__atomic_exchange_n(word, 1, __ATOMIC_SEQ_CST)) cpu_pause();
}
static void unlock(volatile u32 *word) { __atomic_store_n(word, 0, __ATOMIC_SEQ_CST); }
#define WITH(name, body) do { const u64 flags_ = disable(); lock(locks[name]); body; unlock(locks[name]); restore(flags_); } while (0)
enum { LOCK_RTC, LOCK_PCI, LOCK_PIT, LOCK_IOAPIC };

static u64 disable(void) {
  u64 flags;
  __asm__ volatile("pushfq; popq %0; cli" : "=r"(flags)::"memory");
  return flags;
}
static void restore(u64 flags) {
  if (flags & 0x200) __asm__ volatile("sti" ::: "memory");
}

static u32 ioapic_read(u32 index) { IOAPIC[0] = index; return IOAPIC[4]; }
static void ioapic_write(u32 index, u32 value) { IOAPIC[0] = index; IOAPIC[4] = value; }

static const u16 serial[] = { 0x3f8, 0x2f8, 0x3e8, 0x2e8 };

/* A port that keeps what is written to it, but for bits that are not there. */
static void keeps(u16 port, u8 value) {
  outb(port, value);
  CHECK(inb(port) == value);
}

static u32 first_ids[32];

static void uart(u32 id, u32 i) {
  /* One of each port, and one register each of the second. */
  keeps(serial[id & 3] + UART_SCR, (u8)(i * 7 + id));
  switch (id & 3) {
  case 0: keeps(COM2 + UART_LCR, i & 1 ? 0x03 : 0x1b); break;
  case 1: keeps(COM2 + UART_MCR, i & 7); break;
  case 2: keeps(COM2 + UART_IER, i & 1 ? 8 : 0); break;
  }
}
static void pic(u32 id, u32 i) {
  switch (id & 3) {
  case 0: keeps(PIC1 + 1, (u8)(i | 0x80)); break;
  case 1: keeps(PIC2 + 1, (u8)~i); break;
  case 2: keeps(ELCR, (u8)(i << 3)); break;
  case 3: keeps(ELCR + 1, (u8)(i & 0xde)); break;
  }
}
static void ioapic(u32 id, u32 i) {
  const u32 low = MASKED | (0x40 + (i & 0x7f)), high = (i & 0xf) << 24, at = 0x10 + 2 * (16 + id);
  WITH(LOCK_IOAPIC, ioapic_write(at, low); ioapic_write(at + 1, high));
  WITH(LOCK_IOAPIC, CHECK(ioapic_read(at) == low); CHECK(ioapic_read(at + 1) == high));
}
static void rtc(u32 id, u32 i) {
  WITH(LOCK_RTC, outb(RTC, 0x60 + id); outb(RTC + 1, (u8)(i * 3)));
  WITH(LOCK_RTC, outb(RTC, 0x60 + id); CHECK(inb(RTC + 1) == (u8)(i * 3)));
  /* What the calendar says, while nobody sets it: seconds in BCD. */
  WITH(LOCK_RTC, outb(RTC, 0); const u8 seconds = inb(RTC + 1); CHECK((seconds & 15) < 10 && seconds >> 4 < 6));
}
static void pci(u32 id, u32 i) {
  const u32 slot = (i + id) & 31, address = 1u << 31 | slot << 11;
  WITH(LOCK_PCI, {
    __asm__ volatile("outl %0, %1" ::"a"(address), "Nd"((u16)PCI_ADDRESS));
    CHECK(inl(PCI_ADDRESS) == address);
    CHECK(inl(PCI_DATA) == first_ids[slot]);
  });
  /* Memory-mapped, no lock is needed. */
  volatile u8 *function = (volatile u8 *)(ECAM + (slot << 15));
  CHECK(*(volatile u32 *)function == first_ids[slot]);
  if (first_ids[slot] != ~0u && (slot & 3) == (id & 3) && slot != 0) {
    /* The interrupt line is for software to keep a number in (PCI 3.0, 6.2.4). */
    function[0x3c] = (u8)i;
    CHECK(function[0x3c] == (u8)i);
  }
}
static void pit(u32 id, u32 i) {
  const u16 start = (u16)(0x8000 + i * 37 + id);
  u16 seen = 0;
  WITH(LOCK_PIT, {
    /* Counter 2, whose gate is off, mode 0: it stands where it was set (8254 data sheet). */
    outb(PIT_CONTROL, 0xb0);
    outb(PIT + 2, (u8)start);
    outb(PIT + 2, start >> 8);
    for (u32 k = 0; k < 100000 && seen != start; k++) {
      outb(PIT_CONTROL, 0x80);
      seen = inb(PIT + 2);
      seen |= (u16)inb(PIT + 2) << 8;
    }
  });
  CHECK(seen == start);
}
static u32 last_pm[MAX_CPUS];
static void pm_timer(u32 id, u32 i) {
  const u32 now = inl(PM_TIMER);
  CHECK(i == 0 || ((now - last_pm[id]) & 0xffffff) < 0x800000);
  last_pm[id] = now;
}

/* Bytes go through the second serial port's loopback; its interrupt comes to one vCPU after the other. */
static volatile u32 sent, received, ticks;
#define HANDLER(name)                                                                                                    \
  void name##_body(void);                                                                                               \
  __attribute__((naked)) static void name(void) {                                                                       \
    __asm__ volatile("push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11\n" \
                     "cld; call " #name "_body\n"                                                                        \
                     "pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax; iretq");   \
  }                                                                                                                     \
  void name##_body(void)
HANDLER(on_com2) {
  while (!(inb(COM2 + UART_IIR) & 1)) {
    while (inb(COM2 + UART_LSR) & 1) {
      CHECK(inb(COM2) == (u8)received);
      received = received + 1;
    }
  }
  wrmsr(X2APIC_EOI, 0);
}
HANDLER(on_timer) {
  __atomic_add_fetch(&ticks, 1, __ATOMIC_SEQ_CST);
  wrmsr(X2APIC_EOI, 0);
}
HANDLER(on_spurious) {}
HANDLER(on_exception) { FAIL(); }

static void route(u32 pin, u32 vector, u32 id) {
  WITH(LOCK_IOAPIC, ioapic_write(0x10 + 2 * pin, MASKED | vector); ioapic_write(0x11 + 2 * pin, id << 24); ioapic_write(0x10 + 2 * pin, vector));
}

static void interrupts(u32 id, u32 n) {
  if (id == 0) {
    outb(COM2 + UART_LCR, 3);
    outb(COM2 + UART_MCR, 0x18 | 3);
    outb(COM2 + UART_IER, 1);
    route(COM2_PIN, VECTOR_COM2, 0);
    route(TIMER_PIN, VECTOR_TIMER, 1 % n);
    /* Counter 0, mode 2, some 500 Hz. */
    outb(PIT_CONTROL, 0x34);
    outb(PIT, 2386 & 0xff);
    outb(PIT, 2386 >> 8);
  }
  meet(&m, n);
  __asm__ volatile("sti" ::: "memory");
  for (u32 i = 0; received < BYTES || ticks < TICKS; i++) {
    const u32 now = sent;
    if (now < BYTES && now % n == id) {
      if (now % 8 == 0) route(COM2_PIN, VECTOR_COM2, now / 8 % n);
      outb(COM2, (u8)now);
      while (received == now) cpu_pause();
      sent = now + 1;
    }
    if (ticks % 8 == id) route(TIMER_PIN, VECTOR_TIMER, i % n);
    keeps(serial[id & 3] + UART_SCR, (u8)i);
    ioapic(id, i);
    if (id == 2) keeps(PIC1 + 1, (u8)i);
    if (id == 3) pit(id, i);
  }
  meet(&m, n);
  __asm__ volatile("cli" ::: "memory");
}

void kernel_main(u32 id, u32 n) {
  if (id == 0) {
    for (u32 vector = 0; vector < 32; vector++) gate(vector, on_exception);
    gate(VECTOR_COM2, on_com2);
    gate(VECTOR_TIMER, on_timer);
    gate(0xff, on_spurious);
    outb(PIC1 + 1, 0xff);
    outb(PIC2 + 1, 0xff);
    outb(0x61, inb(0x61) & ~1);
    /* LVT LINT0: nothing of the PICs. */
    wrmsr(0x835, MASKED);
    for (u32 slot = 0; slot < 32; slot++) first_ids[slot] = *(volatile u32 *)(ECAM + (slot << 15));
    CHECK(first_ids[0] != ~0u);
  }
  meet(&m, n);
  static void (*const tests[])(u32, u32) = { uart, pic, ioapic, rtc, pci, pit, pm_timer };
  enum { TESTS = sizeof tests / sizeof tests[0] };
  /* All at the same device, and then each at another. */
  for (u32 k = 0; k < 2 * TESTS; k++) {
    for (u32 i = 0; i < ROUNDS; i++) tests[(k < TESTS ? k : k + id + i) % TESTS](id, i);
    meet(&m, n);
  }
  if (id == 0) {
    outb(ELCR, 0);
    outb(ELCR + 1, 0);
    outb(PIC1 + 1, 0xff);
  }
  meet(&m, n);
  interrupts(id, n);
  if (id == 0) finish(GOOD);
}
