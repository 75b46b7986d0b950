static T RUN(void) {
  T last = 0;
  static T x[COUNT], y[COUNT];
  for (int i = 0; i < COUNT; i++) {
    if (i < 100) {
      x[i] = (T)(i - 50) / 7;
      y[i] = (T)(rnd() % 2000) / 97 - 10;
    } else if (SIZE == 10) {
      uint64_t bits[2] = {rnd() | 1ull << 63, (rnd() & 0x8000) | (i < 200 ? 16383 - 30 + rnd() % 60 : rnd() % 32767)};
      memcpy(&x[i], bits, 10);
      y[i] = (T)(rnd() % 2000) / 97 - 10;
    } else {
      uint64_t bits = rnd();
      memcpy(&x[i], &bits, SIZE);
      bits = rnd();
      memcpy(&y[i], &bits, SIZE);
    }
  }
#define ONE(f) { \
    uint64_t h = 14695981039346656037u; \
    for (int i = 0; i < COUNT; i++) { volatile T r = F(f)(x[i]); T s = r; h = ADD(h, s); last += s == s ? 1 : 0; } \
    if (!INEXACT(#f)) printf(NAME " %-10s %016lx\n", #f, (unsigned long)h); }
  UNARY(ONE)
#undef ONE
#define TWO(f) { \
    uint64_t h = 14695981039346656037u; \
    for (int i = 0; i < COUNT; i++) { volatile T r = F(f)(x[i], y[COUNT - 1 - i]); T s = r; h = ADD(h, s); } \
    if (!INEXACT(#f)) printf(NAME " %-10s %016lx\n", #f, (unsigned long)h); }
  BINARY(TWO)
#undef TWO
  uint64_t h = 14695981039346656037u;
  for (int i = 0; i < COUNT; i++) {
    int e;
    T s = F(frexp)(x[i], &e);
    h = ADD(h, s);
    h = hash(h, &e, s == s && s - s == 0 ? sizeof e : 0);
    s = F(ldexp)(y[i], i % 40 - 20);
    h = ADD(h, s);
    T whole;
    s = F(modf)(y[i], &whole);
    h = ADD(h, s);
    h = ADD(h, whole);
    int q = 0;
    s = F(remquo)(y[i], 0.7, &q);
    h = ADD(h, s);
    long n = F(lrint)(x[i] > -1e9 && x[i] < 1e9 ? x[i] : 3);
    h = hash(h, &n, sizeof n);
    s = F(fma)(x[i], y[i], (T)1.25);
    h = ADD(h, s);
    s = x[i] + y[i];
    h = ADD(h, s);
    s = x[i] * y[i];
    h = ADD(h, s);
    s = x[i] / y[i];
    h = ADD(h, s);
    float f = x[i];
    h = f == f ? hash(h, &f, 4) : h;
    double d = x[i];
    h = d == d ? hash(h, &d, 8) : h;
  }
  printf(NAME " others     %016lx\n", (unsigned long)h);
  char text[200];
  for (int i = 0; i < COUNT; i++) {
    int n = snprintf(text, sizeof text, "%.20Lg %La %.3Lf", (long double)x[i], (long double)x[i], (long double)(x[i] > -1e20 && x[i] < 1e20 ? x[i] : 0));
    if (!strstr(text, "nan")) h = hash(h, text, n);
  }
  printf(NAME " printf     %016lx\n", (unsigned long)h);
  return last;
}
