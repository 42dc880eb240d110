// Vectors of one width, chosen when this file is compiled: SYMCONV_BYTES is 16, 32 or 64.
//
// Everything below lives in a namespace named after the instruction set, and uses nothing of the
// standard library that would be emitted as a function: two translation units compiled for
// different instruction sets must share no symbol, or the linker keeps one of them for both.
#pragma once

#include <cstdint>
#include <cstring>

#if !defined(SYMCONV_BYTES) || !defined(SYMCONV_ISA)
#error "compile through CMakeLists.txt, which names the instruction set"
#endif
#if SYMCONV_BYTES >= 32
#include <immintrin.h>
#endif

#define SYMCONV_INLINE inline __attribute__((always_inline))

namespace symconv {
namespace SYMCONV_ISA {

// Brain floats: the upper half of a float32. Stored so, computed in float32.
struct bfloat16 {
  uint16_t bits;
};

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float vector __attribute__((vector_size(SYMCONV_BYTES)));
  typedef float loose __attribute__((vector_size(SYMCONV_BYTES), aligned(4), may_alias));
  typedef int32_t integers __attribute__((vector_size(SYMCONV_BYTES)));
  static constexpr int count = SYMCONV_BYTES / 4;
};
template <>
struct Lanes<double> {
  typedef double vector __attribute__((vector_size(SYMCONV_BYTES)));
  typedef double loose __attribute__((vector_size(SYMCONV_BYTES), aligned(8), may_alias));
  typedef int64_t integers __attribute__((vector_size(SYMCONV_BYTES)));
  static constexpr int count = SYMCONV_BYTES / 8;
};

// The type in which a stored type is computed.
template <class T>
struct Compute {
  typedef T type;
};
template <>
struct Compute<bfloat16> {
  typedef float type;
};

template <class T>
using vector_of = typename Lanes<T>::vector;

SYMCONV_INLINE float value(float x) { return x; }
SYMCONV_INLINE double value(double x) { return x; }
SYMCONV_INLINE float value(bfloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

SYMCONV_INLINE void put(float& to, float x) { to = x; }
SYMCONV_INLINE void put(double& to, double x) { to = x; }
SYMCONV_INLINE void put(bfloat16& to, float x) {  // to the nearest, ties to even, as torch does
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to.bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

SYMCONV_INLINE vector_of<float> load(const float* p) { return *(const Lanes<float>::loose*)p; }
SYMCONV_INLINE vector_of<double> load(const double* p) { return *(const Lanes<double>::loose*)p; }
SYMCONV_INLINE vector_of<float> load(const bfloat16* p) {
  typedef uint16_t halves __attribute__((vector_size(SYMCONV_BYTES / 2), aligned(2), may_alias));
  typedef uint32_t words __attribute__((vector_size(SYMCONV_BYTES)));
  halves narrow = *(const halves*)p;
  return (vector_of<float>)(__builtin_convertvector(narrow, words) << 16);
}

SYMCONV_INLINE void store(float* p, vector_of<float> x) { *(Lanes<float>::loose*)p = x; }
SYMCONV_INLINE void store(double* p, vector_of<double> x) { *(Lanes<double>::loose*)p = x; }
SYMCONV_INLINE void store(bfloat16* p, vector_of<float> x) {
  for (int i = 0; i < Lanes<float>::count; ++i) put(p[i], x[i]);
}

// The first `count` lanes only: nothing beyond them is written.
template <class S, class V>
SYMCONV_INLINE void store_part(S* p, V x, int count) {
  typename Compute<S>::type each[SYMCONV_BYTES / sizeof(typename Compute<S>::type)];
  store(each, x);
  for (int i = 0; i < count; ++i) put(p[i], each[i]);
}

template <class S, class V>
SYMCONV_INLINE void add_part(S* p, V x, int count) {
  typename Compute<S>::type each[SYMCONV_BYTES / sizeof(typename Compute<S>::type)];
  store(each, x);
  for (int i = 0; i < count; ++i) put(p[i], value(p[i]) + each[i]);
}

// Past the caches; p is aligned to the vector.
template <class S, class V>
SYMCONV_INLINE void store_past(S* p, V x) {
#if SYMCONV_BYTES == 64 && defined(__AVX512F__)
  _mm512_stream_ps((float*)p, (__m512)x);
#elif SYMCONV_BYTES == 32 && defined(__AVX__)
  _mm256_stream_ps((float*)p, (__m256)x);
#else
  store(p, x);
#endif
}

SYMCONV_INLINE void stores_are_done() {
#if SYMCONV_BYTES >= 32
  _mm_sfence();
#endif
}

template <class T>
SYMCONV_INLINE vector_of<T> zeros() {
  return vector_of<T>{};
}

// Ones in the bits of the first `count` lanes.
template <class T>
SYMCONV_INLINE typename Lanes<T>::integers first_lanes(int count) {
  typename Lanes<T>::integers mask;
  for (int i = 0; i < Lanes<T>::count; ++i) mask[i] = i < count ? -1 : 0;
  return mask;
}

template <class T>
SYMCONV_INLINE vector_of<T> keep(vector_of<T> x, typename Lanes<T>::integers mask) {
  return (vector_of<T>)((typename Lanes<T>::integers)x & mask);
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SYMCONV_SHUFFLEVECTOR 1
#endif
#endif

// Two rows trade the blocks of D lanes that are not on the diagonal of [a; b]:
//
//     upper: lanes l without bit D from a, the others are lanes l - D of b
//     lower: lanes l with bit D from b, the others are lanes l + D of a
template <class V, int N, int D>
struct Exchange;
#ifdef SYMCONV_SHUFFLEVECTOR
#define SYMCONV_LIST(...) __VA_ARGS__
#define SYMCONV_EXCHANGE(N, D, UPPER, LOWER)                                                       \
  template <class V>                                                                               \
  struct Exchange<V, N, D> {                                                                       \
    static SYMCONV_INLINE V upper(V a, V b) { return __builtin_shufflevector(a, b, UPPER); }       \
    static SYMCONV_INLINE V lower(V a, V b) { return __builtin_shufflevector(a, b, LOWER); }       \
  };
SYMCONV_EXCHANGE(2, 1, SYMCONV_LIST(0, 2), SYMCONV_LIST(1, 3))
SYMCONV_EXCHANGE(4, 1, SYMCONV_LIST(0, 4, 2, 6), SYMCONV_LIST(1, 5, 3, 7))
SYMCONV_EXCHANGE(4, 2, SYMCONV_LIST(0, 1, 4, 5), SYMCONV_LIST(2, 3, 6, 7))
SYMCONV_EXCHANGE(8, 1, SYMCONV_LIST(0, 8, 2, 10, 4, 12, 6, 14),
                 SYMCONV_LIST(1, 9, 3, 11, 5, 13, 7, 15))
SYMCONV_EXCHANGE(8, 2, SYMCONV_LIST(0, 1, 8, 9, 4, 5, 12, 13),
                 SYMCONV_LIST(2, 3, 10, 11, 6, 7, 14, 15))
SYMCONV_EXCHANGE(8, 4, SYMCONV_LIST(0, 1, 2, 3, 8, 9, 10, 11),
                 SYMCONV_LIST(4, 5, 6, 7, 12, 13, 14, 15))
SYMCONV_EXCHANGE(16, 1, SYMCONV_LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
                 SYMCONV_LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
SYMCONV_EXCHANGE(16, 2, SYMCONV_LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
                 SYMCONV_LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
SYMCONV_EXCHANGE(16, 4, SYMCONV_LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
                 SYMCONV_LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
SYMCONV_EXCHANGE(16, 8, SYMCONV_LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                 SYMCONV_LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#undef SYMCONV_EXCHANGE
#undef SYMCONV_LIST
#else
template <class V, int N, int D>
struct Exchange {
  static SYMCONV_INLINE V upper(V a, V b) {
    for (int l = 0; l < N; ++l)
      if (l & D) a[l] = b[l - D];
    return a;
  }
  static SYMCONV_INLINE V lower(V a, V b) {
    for (int l = 0; l < N; ++l)
      if (!(l & D)) b[l] = a[l + D];
    return b;
  }
};
#endif

// Rows become columns: blocks off the diagonal are traded, in blocks of every size.
template <class T, int D = Lanes<T>::count / 2>
SYMCONV_INLINE void transpose(vector_of<T>* rows) {
  constexpr int n = Lanes<T>::count;
  typedef Exchange<vector_of<T>, n, D> Trade;
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if (i & D) continue;
    const vector_of<T> upper = Trade::upper(rows[i], rows[i + D]);
    rows[i + D] = Trade::lower(rows[i], rows[i + D]);
    rows[i] = upper;
  }
  if constexpr (D > 1) transpose<T, D / 2>(rows);
}

// One sum per row of `rows`: lane r of the result is the sum over the lanes of rows[r].
template <class T, int D = Lanes<T>::count / 2>
SYMCONV_INLINE vector_of<T> row_sums(vector_of<T>* rows) {
  typedef Exchange<vector_of<T>, Lanes<T>::count, D> Trade;
#pragma GCC unroll 8
  for (int i = 0; i < D; ++i)
    rows[i] = Trade::upper(rows[i], rows[i + D]) + Trade::lower(rows[i], rows[i + D]);
  if constexpr (D > 1) return row_sums<T, D / 2>(rows);
  return rows[0];
}

}  // namespace SYMCONV_ISA
}  // namespace symconv
