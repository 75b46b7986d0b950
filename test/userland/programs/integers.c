// Integers of all widths, bit operations, strings and memory, sorting, conversions between text and numbers.
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <wchar.h>

static uint64_t seed = 99;
static uint64_t rnd(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  return seed ^= seed << 17;
}
static uint64_t h;
static void add(uint64_t value) { h = (h ^ value) * 1099511628211u + (value >> 29); }
static void say(const char *name) {
  printf("%-12s %016" PRIx64 "\n", name, h);
  h = 0;
}

#define WIDTH(S, U, bits) \
  static __attribute__((noinline)) void width##bits(void) { \
    for (int i = 0; i < 3000; i++) { \
      U a = (U)rnd(), b = (U)(rnd() >> (rnd() & (bits - 1) & 63)); \
      S s = (S)a, t = (S)b; \
      int n = (int)(b % bits); \
      add((U)(a + b)); add((U)(a - b)); add((U)(a * b)); add((U)(a << n)); add((U)(a >> n)); add((U)(s >> n)); \
      add((U)(a << n | a >> ((bits - n) % bits))); \
      if (b != 0) { add((U)(a / b)); add((U)(a % b)); } \
      if (t != 0 && t != -1) { add((U)(s / t)); add((U)(s % t)); } \
      add((U)(s / 7)); add((U)(a / 10)); add((U)(s % 1000)); add((U)(a % 3)); \
      U r; S q; \
      add(__builtin_add_overflow(a, b, &r)); add(r); add(__builtin_mul_overflow(s, t, &q)); add((U)q); add(__builtin_sub_overflow(s, t, &q)); add((U)q); \
      add(s < t); add(a < b); add((S)(s < 0 ? -s : s)); add(a == b ? a : b & 0x55); \
      add((uint64_t)(int64_t)s); add((uint64_t)(double)s); add((uint64_t)(int64_t)((double)s / 3)); \
    } \
    say("width " #bits); \
  }
WIDTH(int8_t, uint8_t, 8)
WIDTH(int16_t, uint16_t, 16)
WIDTH(int32_t, uint32_t, 32)
WIDTH(int64_t, uint64_t, 64)

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

int main(void) {
  width8();
  width16();
  width32();
  width64();
  for (int i = 0; i < 3000; i++) {
    uint64_t a = rnd() | 1ull << (rnd() & 63);
    uint32_t b = (uint32_t)a | 1;
    add(__builtin_popcountll(a)); add(__builtin_clzll(a)); add(__builtin_ctzll(a)); add(__builtin_ffsll(a)); add(__builtin_parityll(a)); add(__builtin_bswap64(a));
    add(__builtin_clz(b)); add(__builtin_ctz(b)); add(__builtin_bswap32(b)); add(__builtin_bswap16((uint16_t)b));
    static uint64_t bits[16];
    unsigned n = rnd() & 1023;
    bits[n >> 6] ^= 1ull << (n & 63); add(bits[n >> 6] >> (b & 63) & 1); add(bits[b >> 28] & ~(1ull << (n & 63)));
    struct { unsigned a : 3; int b : 7; uint64_t c : 37; unsigned char d : 5; } f = {.a = b, .b = (int)b >> 3, .c = a, .d = b >> 8};
    f.a += 3; f.b -= 5; f.c *= 3; f.d ^= 9; add(f.a); add((uint64_t)f.b); add(f.c); add(f.d);
  }
  say("bits");
#ifdef __SIZEOF_INT128__
  for (int i = 0; i < 1000; i++) {
    unsigned __int128 a = (unsigned __int128)rnd() << 64 | rnd(), b = ((unsigned __int128)rnd() << 64 | rnd()) >> (rnd() % 120) | 1;
    unsigned __int128 values[] = {a / b, a % b, a * b, a << (i & 127), a >> (i & 127), (__int128)a / (__int128)b, (__int128)a >> 3, a + b, a - b};
    for (unsigned j = 0; j < sizeof values / sizeof *values; j++) add((uint64_t)values[j]), add((uint64_t)(values[j] >> 64));
  }
#endif
  say(sizeof(long) == 8 ? "128 bits" : "no 128 bits");
  static unsigned char from[5000], to[5000];
  for (int i = 0; i < 5000; i++) from[i] = (unsigned char)rnd();
  for (int i = 0; i < 1500; i++) {
    size_t a = rnd() % 2000, b = rnd() % 2000, n = i % 5 ? rnd() % 200 : rnd() % 2900;
    memcpy(to + a, from + b, n);
    memmove(from + a, from + b, n);
    memset(to + b, i, n / 3);
    add(memcmp(to + a, from + b, n) > 0);
    unsigned char *p = memchr(from + a, i & 255, n);
    add(p ? p - from : -1);
    add(memrchr(from + a, i & 255, n) != 0);
    for (size_t j = 0; j < 20; j++) add(to[(a + j * 97) % 5000]);
  }
  say("memory");
  for (int i = 0; i < 800; i++) {
    char text[300], other[300];
    int n = rnd() % 200;
    for (int j = 0; j < n; j++) text[j] = "abcdefgh ,0123456789XYZ"[rnd() % 23];
    text[n] = 0;
    strcpy(other, text);
    other[rnd() % (n + 1)] = 'q';
    add(strlen(text)); add(strcmp(text, other) > 0); add(strncmp(text, other, 20) < 0); add(strspn(text, "abc")); add(strcspn(text, "XYZ")); add(strcasecmp(text, other) > 0);
    char *p = strstr(text, "ab"), *q = strchr(text, 'X'), *r = strrchr(text, '5'), *s = strpbrk(text, "9Z");
    add(p ? p - text : -1); add(q ? q - text : -1); add(r ? r - text : -1); add(s ? s - text : -1);
    for (char *t = strtok(text, " ,"); t; t = strtok(0, " ,")) add(strtoull(t, 0, 16) + strlen(t));
  }
  say("strings");
  static uint32_t numbers[6000];
  for (int i = 0; i < 6000; i++) numbers[i] = (uint32_t)rnd();
  qsort(numbers, 6000, sizeof *numbers, compare);
  for (int i = 0; i < 6000; i += 37) add(numbers[i]), add(bsearch(&numbers[i], numbers, 6000, sizeof *numbers, compare) != 0);
  say("sorting");
  for (int i = 0; i < 1500; i++) {
    char text[400];
    uint64_t bits = rnd();
    double d;
    memcpy(&d, &bits, 8);
    if (i % 2) d = (double)(int64_t)bits / (1 << (i % 30));
    if (d != d) d = 1;
    int n = snprintf(text, sizeof text, "%.17g|%d|%u|%" PRIx64 "|%+.3e|%20.10s|%-8d|%c|%a|%#o|%ls|%.12f", d, (int)bits, (unsigned)bits, bits, d, "precision and width", i, 33 + i % 90, d, i, L"wide \u00e4", i / 7.0);
    for (int j = 0; j < n; j++) add((unsigned char)text[j]);
    add(strtod(text, 0) == d);
    float f = strtof(text, 0);
    uint32_t fbits;
    memcpy(&fbits, &f, 4);
    add(fbits);
    long double l = strtold(text, 0);
    add(l == (long double)d);
    int a;
    unsigned b;
    add(sscanf(text, "%lf|%d|%u|%" SCNx64, &d, &a, &b, &bits)); add(a); add(b); add(bits);
  }
  say("text");
  // A few classic loops.
  uint32_t crc = ~0u;
  for (int i = 0; i < 5000; i++) {
    crc ^= from[i];
    for (int j = 0; j < 8; j++) crc = crc >> 1 ^ (0xedb88320 & -(crc & 1));
  }
  add(~crc);
  static double m[3][40][40];
  for (int i = 0; i < 1600; i++) m[0][i / 40][i % 40] = (double)rnd() / 1e19, m[1][i / 40][i % 40] = (double)(int64_t)rnd() / 1e18;
  for (int i = 0; i < 40; i++) for (int j = 0; j < 40; j++) for (int k = 0; k < 40; k++) m[2][i][j] += m[0][i][k] * m[1][k][j];
  for (int i = 0; i < 1600; i++) { uint64_t bits; memcpy(&bits, &m[2][i / 40][i % 40], 8); add(sizeof(long) == 8 ? bits : bits >> 12); }
  static unsigned char sieve[60000];
  int primes = 0;
  for (int i = 2; i < 60000; i++) if (!sieve[i]) { primes++; for (int j = 2 * i; j < 60000; j += i) sieve[j] = 1; }
  add(primes);
  say("loops");
  return 0;
}
