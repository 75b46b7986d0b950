// SSE to SSE4.2, POPCNT through intrinsics over random data: a hash of all results of each.
#include <nmmintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t seed = 123456789;
static uint64_t rnd(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  return seed ^= seed << 17;
}
static uint64_t hash(uint64_t h, const void *data, size_t bytes) {
  const unsigned char *p = data;
  while (bytes--) h = (h ^ *p++) * 1099511628211u;
  return h;
}
#define COUNT 120
static __m128i a[COUNT], b[COUNT];
static __m128 fa[COUNT], fb[COUNT];
static __m128d da[COUNT], db[COUNT];
#define LOOP(name, type, expression) { uint64_t h = 14695981039346656037u; \
    for (int i = 0; i < COUNT; i++) { type r = expression; h = hash(h, &r, sizeof r); } printf("%-22s %016lx\n", name, (unsigned long)h); }
#define I2(f) LOOP(#f, __m128i, f(a[i], b[i]))
#define I1(f) LOOP(#f, __m128i, f(a[i]))
#define II(f, n) LOOP(#f " " #n, __m128i, f(a[i], n))
#define I3(f, n) LOOP(#f " " #n, __m128i, f(a[i], b[i], n))
#define S2(f) LOOP(#f, __m128, f(fa[i], fb[i]))
#define S1(f) LOOP(#f, __m128, f(fa[i]))
#define D2(f) LOOP(#f, __m128d, f(da[i], db[i]))
#define D1(f) LOOP(#f, __m128d, f(da[i]))
#define N(f, type) LOOP(#f, type, f)

int main(void) {
  for (int i = 0; i < COUNT; i++) {
    uint64_t q[4] = {rnd(), rnd(), rnd(), rnd()};
    if (i % 4 == 0) q[2] = q[0], q[3] = q[1] ^ (rnd() & 0xff00ff);
    memcpy(&a[i], q, 16);
    memcpy(&b[i], q + 2, 16);
    float f[8];
    double d[4];
    for (int j = 0; j < 8; j++) f[j] = (float)((int64_t)rnd() % 100000) / (j + 1) * (i % 3 ? 1 : 1e30f);
    for (int j = 0; j < 4; j++) d[j] = (double)((int64_t)rnd() % 1000000) / (j + 3) * (i % 5 ? 1 : 1e-300);
    if (i % 7 == 0) f[1] = f[5], d[0] = d[2];
    fa[i] = _mm_loadu_ps(f);
    fb[i] = _mm_loadu_ps(f + 4);
    da[i] = _mm_loadu_pd(d);
    db[i] = _mm_loadu_pd(d + 2);
  }
  I2(_mm_add_epi8) I2(_mm_add_epi16) I2(_mm_add_epi32) I2(_mm_add_epi64) I2(_mm_adds_epi8) I2(_mm_adds_epi16) I2(_mm_adds_epu8) I2(_mm_adds_epu16)
  I2(_mm_sub_epi8) I2(_mm_sub_epi16) I2(_mm_sub_epi32) I2(_mm_sub_epi64) I2(_mm_subs_epi8) I2(_mm_subs_epi16) I2(_mm_subs_epu8) I2(_mm_subs_epu16)
  I2(_mm_mullo_epi16) I2(_mm_mulhi_epi16) I2(_mm_mulhi_epu16) I2(_mm_mul_epu32) I2(_mm_mul_epi32) I2(_mm_mullo_epi32) I2(_mm_madd_epi16) I2(_mm_maddubs_epi16) I2(_mm_mulhrs_epi16)
  I2(_mm_avg_epu8) I2(_mm_avg_epu16) I2(_mm_sad_epu8) I2(_mm_min_epi8) I2(_mm_min_epi16) I2(_mm_min_epi32) I2(_mm_min_epu8) I2(_mm_min_epu16) I2(_mm_min_epu32)
  I2(_mm_max_epi8) I2(_mm_max_epi16) I2(_mm_max_epi32) I2(_mm_max_epu8) I2(_mm_max_epu16) I2(_mm_max_epu32)
  I2(_mm_and_si128) I2(_mm_andnot_si128) I2(_mm_or_si128) I2(_mm_xor_si128)
  I2(_mm_cmpeq_epi8) I2(_mm_cmpeq_epi16) I2(_mm_cmpeq_epi32) I2(_mm_cmpeq_epi64) I2(_mm_cmpgt_epi8) I2(_mm_cmpgt_epi16) I2(_mm_cmpgt_epi32) I2(_mm_cmpgt_epi64)
  I2(_mm_packs_epi16) I2(_mm_packs_epi32) I2(_mm_packus_epi16) I2(_mm_packus_epi32)
  I2(_mm_unpacklo_epi8) I2(_mm_unpacklo_epi16) I2(_mm_unpacklo_epi32) I2(_mm_unpacklo_epi64) I2(_mm_unpackhi_epi8) I2(_mm_unpackhi_epi16) I2(_mm_unpackhi_epi32) I2(_mm_unpackhi_epi64)
  I2(_mm_shuffle_epi8) I2(_mm_hadd_epi16) I2(_mm_hadd_epi32) I2(_mm_hadds_epi16) I2(_mm_hsub_epi16) I2(_mm_hsub_epi32) I2(_mm_hsubs_epi16) I2(_mm_sign_epi8) I2(_mm_sign_epi16) I2(_mm_sign_epi32)
  I1(_mm_abs_epi8) I1(_mm_abs_epi16) I1(_mm_abs_epi32) I1(_mm_minpos_epu16)
  I1(_mm_cvtepi8_epi16) I1(_mm_cvtepi8_epi32) I1(_mm_cvtepi8_epi64) I1(_mm_cvtepi16_epi32) I1(_mm_cvtepi16_epi64) I1(_mm_cvtepi32_epi64) I1(_mm_cvtepu8_epi16) I1(_mm_cvtepu8_epi64) I1(_mm_cvtepu16_epi32) I1(_mm_cvtepu32_epi64)
  II(_mm_slli_epi16, 3) II(_mm_slli_epi32, 17) II(_mm_slli_epi64, 33) II(_mm_srli_epi16, 5) II(_mm_srli_epi32, 9) II(_mm_srli_epi64, 41) II(_mm_srai_epi16, 7) II(_mm_srai_epi32, 20) II(_mm_slli_si128, 5) II(_mm_srli_si128, 11) II(_mm_slli_epi16, 16) II(_mm_srai_epi32, 40)
  N(_mm_sll_epi32(a[i], _mm_cvtsi32_si128(i % 40)), __m128i) N(_mm_srl_epi64(a[i], _mm_cvtsi32_si128(i % 70)), __m128i) N(_mm_sra_epi16(a[i], _mm_cvtsi32_si128(i % 20)), __m128i)
  II(_mm_shuffle_epi32, 0x1b) II(_mm_shufflelo_epi16, 0x93) II(_mm_shufflehi_epi16, 0x4e) I3(_mm_alignr_epi8, 7) I3(_mm_alignr_epi8, 20) I3(_mm_blend_epi16, 0x5a) I3(_mm_mpsadbw_epu8, 5)
  N(_mm_blendv_epi8(a[i], b[i], _mm_xor_si128(a[i], b[i])), __m128i) N(_mm_insert_epi8(a[i], i, 9), __m128i) N(_mm_extract_epi8(a[i], 13), int) N(_mm_extract_epi16(a[i], 5), int) N(_mm_extract_epi32(a[i], 2), int)
  N(_mm_movemask_epi8(a[i]), int) N(_mm_movemask_ps(fa[i]), int) N(_mm_movemask_pd(da[i]), int) N(_mm_testz_si128(a[i], b[i]), int) N(_mm_testc_si128(a[i], b[i]), int) N(_mm_testnzc_si128(a[i], b[i]), int)
  S2(_mm_add_ps) S2(_mm_sub_ps) S2(_mm_mul_ps) S2(_mm_div_ps) S2(_mm_min_ps) S2(_mm_max_ps) S2(_mm_add_ss) S2(_mm_sub_ss) S2(_mm_mul_ss) S2(_mm_div_ss) S1(_mm_sqrt_ps) S1(_mm_sqrt_ss) S2(_mm_addsub_ps) S2(_mm_hadd_ps) S2(_mm_hsub_ps)
  S2(_mm_cmpeq_ps) S2(_mm_cmplt_ps) S2(_mm_cmple_ps) S2(_mm_cmpneq_ps) S2(_mm_cmpnlt_ps) S2(_mm_cmpord_ps) S2(_mm_cmpunord_ps) S2(_mm_unpacklo_ps) S2(_mm_unpackhi_ps) S2(_mm_movehl_ps) S2(_mm_movelh_ps) S2(_mm_and_ps) S2(_mm_andnot_ps)
  D2(_mm_add_pd) D2(_mm_sub_pd) D2(_mm_mul_pd) D2(_mm_div_pd) D2(_mm_min_pd) D2(_mm_max_pd) D1(_mm_sqrt_pd) D2(_mm_addsub_pd) D2(_mm_hadd_pd) D2(_mm_hsub_pd) D2(_mm_cmpeq_pd) D2(_mm_cmplt_pd) D2(_mm_cmpnle_pd) D2(_mm_unpacklo_pd)
  N(_mm_shuffle_ps(fa[i], fb[i], 0x8d), __m128) N(_mm_shuffle_pd(da[i], db[i], 1), __m128d) N(_mm_blend_ps(fa[i], fb[i], 6), __m128) N(_mm_blend_pd(da[i], db[i], 2), __m128d) N(_mm_dp_ps(fa[i], fb[i], 0x75), __m128) N(_mm_dp_pd(da[i], db[i], 0x31), __m128d) N(_mm_insert_ps(fa[i], fb[i], 0x9a), __m128) N(_mm_movehdup_ps(fa[i]), __m128) N(_mm_moveldup_ps(fa[i]), __m128) N(_mm_movedup_pd(da[i]), __m128d)
  N(_mm_round_ps(fa[i], 0), __m128) N(_mm_round_ps(fa[i], 1), __m128) N(_mm_round_pd(da[i], 2), __m128d) N(_mm_round_pd(da[i], 3), __m128d) N(_mm_cvtps_epi32(fa[i]), __m128i) N(_mm_cvttps_epi32(fa[i]), __m128i) N(_mm_cvtpd_epi32(da[i]), __m128i) N(_mm_cvttpd_epi32(da[i]), __m128i) N(_mm_cvtepi32_ps(a[i]), __m128) N(_mm_cvtepi32_pd(a[i]), __m128d) N(_mm_cvtps_pd(fa[i]), __m128d) N(_mm_cvtpd_ps(da[i]), __m128)
#ifdef __x86_64__
  N(_mm_cvtss_si64(fa[i]), long) N(_mm_cvttsd_si64(da[i]), long) N(_mm_cvtsi64_sd(da[i], (long)seed * i), __m128d) N(_mm_insert_epi64(a[i], i, 1), __m128i)
  N(_mm_crc32_u64(i, a[i][1]), uint64_t) N(_mm_popcnt_u64(a[i][0]), long)
#endif
  N(_mm_cvtsd_si32(da[i]), int) N(_mm_comilt_ss(fa[i], fb[i]), int) N(_mm_ucomigt_sd(da[i], db[i]), int) N(_mm_comieq_sd(da[i], db[i]), int)
  N(_mm_cmpistri(a[i], b[i], 0x0c), int) N(_mm_cmpistri(a[i], b[i], 0x44), int) N(_mm_cmpistrm(a[i], b[i], 0x40), __m128i) N(_mm_cmpestri(a[i], i % 20, b[i], 9, 0x18), int) N(_mm_cmpestrm(a[i], 7, b[i], i % 18, 0x09), __m128i) N(_mm_cmpistrz(a[i], b[i], 0x0a), int) N(_mm_cmpestrs(a[i], i % 9, b[i], 16, 0x3a), int)
  N(_mm_crc32_u8(i, (uint8_t)a[i][0]), uint32_t) N(_mm_crc32_u16(i, (uint16_t)a[i][0]), uint32_t) N(_mm_crc32_u32(i, (uint32_t)a[i][0]), uint32_t) N(_mm_popcnt_u32((uint32_t)a[i][1]), int)
  return 0;
}
