/*
 * Code that one vCPU changes and others run (SDM vol. 3A, 9.1.3): after the writer has said so and the reader has gone through a
 * serializing instruction, only the new code runs. vCPU 0 writes, all others run.
 */
#include "smp.h"

static struct meeting m;
static volatile u64 stage __attribute__((aligned(64)));
static volatile u64 acknowledged[16][8] __attribute__((aligned(64)));
static u8 pages[64 * 4096] __attribute__((aligned(4096)));

typedef u32 function(void);

/* MOV EAX, value; RET, with MOV EAX's immediate at offset 1. */
static void write_function(u8 *at, u32 value) {
  at[0] = 0xb8;
  __builtin_memcpy(at + 1, &value, 4);
  at[5] = 0xc3;
}
static u32 run(u8 *at) {
  barrier_compiler();
  u32 value;
  __asm__ volatile("call *%1" : "=a"(value) : "r"(at) : "memory", "cc", "rcx", "rdx");
  return value;
}

/* Everybody has seen `stage` reach `s`, and has done what it asked for. */
static void wait_for_all(u32 n, u64 s) {
  for (u32 k = 1; k < n; k++) while (acknowledged[k][0] != s) cpu_pause();
}

/* The algorithm of 9.1.3, with the same function again and again. */
static void same_place(u32 id, u32 n, u8 *at, u64 rounds) {
  if (id == 0) {
    write_function(at, 0);
    stage = 0;
    for (u32 k = 0; k < n; k++) acknowledged[k][0] = 0;
  }
  meet(&m, n);
  for (u64 i = 1; i <= rounds; i++) {
    if (id == 0) {
      /* Alternate between one store of four bytes and four stores. */
      const u32 value = (u32)i * 0x01030507u;
      if (i & 1) *(volatile u32 *)(at + 1) = value;
      else for (u32 k = 0; k < 4; k++) *(volatile u8 *)(at + 1 + k) = value >> 8 * k;
      stage = i;
      wait_for_all(n, i);
    } else {
      while (stage < i) cpu_pause();
      serialize();
      CHECK(run(at) == (u32)i * 0x01030507u);
      acknowledged[id][0] = i;
    }
  }
  meet(&m, n);
}

/* A page that the writer has just written, so that it may have it in its TLB, gets its first code run elsewhere, and is
 * then written again: no store may go unnoticed. Many pages, so that entries come and go. */
static void first_use(u32 id, u32 n, u64 rounds) {
  if (id == 0) stage = 0;
  if (id == 0) for (u32 k = 0; k < n; k++) acknowledged[k][0] = 0;
  meet(&m, n);
  for (u64 i = 1; i <= rounds; i++) {
    u8 *page = pages + i % 64 * 4096;
    u8 *at = page + i * 64 % 4096;
    const u64 s = 2 * i;
    if (id == 0) {
      write_function(at, (u32)i);
      stage = s - 1;
      wait_for_all(n, s - 1);
      *(volatile u32 *)(at + 1) = ~(u32)i;
      stage = s;
      wait_for_all(n, s);
      /* The page is data again: what it held is wiped. */
      if (i % 3 == 0) for (u32 k = 0; k < 4096; k += 8) *(volatile u64 *)(page + k) = 0x0b0f0b0f0b0f0b0f;
    } else {
      while (stage < s - 1) cpu_pause();
      serialize();
      CHECK(run(at) == (u32)i);
      acknowledged[id][0] = s - 1;
      while (stage < s) cpu_pause();
      serialize();
      CHECK(run(at) == ~(u32)i);
      acknowledged[id][0] = s;
    }
  }
  meet(&m, n);
}

/* As a just-in-time compiler does it: new code at a place where none was, then a pointer to it. The readers do not serialize. */
static u8 *volatile published;
static void new_places(u32 id, u32 n, u64 rounds) {
  if (id == 0) published = 0;
  if (id == 0) for (u32 k = 0; k < n; k++) acknowledged[k][0] = 0;
  meet(&m, n);
  for (u64 turn = 0; turn < rounds; turn++) {
    u8 *page = pages + turn % 32 * 4096;
    if (id == 0) for (u32 k = 0; k < 4096; k++) page[k] = 0xcc;
    meet(&m, n);
    for (u32 slot = 0; slot < 64; slot++) {
      u8 *at = page + 64 * slot;
      const u32 value = (u32)(turn << 8 | slot);
      if (id == 0) {
        write_function(at, value);
        published = at;
        wait_for_all(n, turn * 64 + slot + 1);
      } else {
        u8 *p;
        while ((p = published) != at) cpu_pause();
        CHECK(run(p) == value);
        acknowledged[id][0] = turn * 64 + slot + 1;
      }
    }
    meet(&m, n);
  }
}

/* Data that changes all the time in a page that others run code of: the code stays what it is. */
static void data_beside_code(u32 id, u32 n, u64 rounds) {
  u8 *at = pages + 3 * 4096 + 0x80;
  volatile u64 *data = (volatile u64 *)(pages + 3 * 4096 + 0x800);
  if (id == 0) write_function(at, 4711);
  meet(&m, n);
  if (id == 0) {
    for (u64 i = 0; i < rounds; i++) {
      data[i & 63] = i;
      CHECK(data[i & 63] == i);
    }
  } else for (u64 i = 0; i < rounds; i++) CHECK(run(at) == 4711);
  meet(&m, n);
}

/* All vCPUs write code of their own into one page, and run it at once (SDM vol. 3A, 12.6). */
static void everybody_writes(u32 id, u32 n, u64 rounds) {
  u8 *at = pages + 7 * 4096 + 100 * id;
  meet(&m, n);
  for (u64 i = 0; i < rounds; i++) {
    write_function(at, (u32)i << 4 | id);
    CHECK(run(at) == ((u32)i << 4 | id));
  }
  meet(&m, n);
}

/* An instruction across two pages, changed in either. */
static void across_pages(u32 id, u32 n, u64 rounds) {
  u8 *at = pages + 12 * 4096 - 3;
  same_place(id, n, at, rounds);
}

/* A loop that is never left is changed under way: a poke at its jump ends it, at the next serializing instruction at the latest. */
static void running_loop(u32 id, u32 n, u64 rounds) {
  u8 *at = pages + 20 * 4096;
  for (u64 i = 0; i < rounds; i++) {
    if (id == 0) {
      /* 1: INC ECX; JMP 1; RET */
      static const u8 loop[] = { 0xff, 0xc1, 0xeb, 0xfc, 0xc3 };
      for (u32 k = 0; k < sizeof loop; k++) at[k] = loop[k];
    }
    meet(&m, n);
    if (id == 0) {
      for (u32 k = 0; k < 2000; k++) cpu_pause();
      /* JMP to the next instruction. */
      *(volatile u8 *)(at + 3) = 0;
    } else {
      serialize();
      run(at);
    }
    meet(&m, n);
  }
}

void guest_main(u32 id, u32 count, u64 what, u64 rounds) {
  same_place(id, count, pages + 0x123, rounds);
  across_pages(id, count, rounds);
  first_use(id, count, rounds);
  new_places(id, count, rounds / 64 + 1);
  data_beside_code(id, count, 8 * rounds);
  everybody_writes(id, count, rounds);
  running_loop(id, count, rounds / 16 + 1);
}
