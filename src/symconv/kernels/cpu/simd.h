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

// The even and the odd lanes of two vectors, those of a in the lower half.
template <class V, int N>
struct Neighbours;
#ifdef SYMCONV_SHUFFLEVECTOR
#define SYMCONV_LIST(...) __VA_ARGS__
#define SYMCONV_EVEN_ODD(N, EVEN, ODD)                                                             \
  template <class V>                                                                               \
  struct Neighbours<V, N> {                                                                        \
    static SYMCONV_INLINE V even(V a, V b) { return __builtin_shufflevector(a, b, EVEN); }         \
    static SYMCONV_INLINE V odd(V a, V b) { return __builtin_shufflevector(a, b, ODD); }           \
  };
SYMCONV_EVEN_ODD(2, SYMCONV_LIST(0, 2), SYMCONV_LIST(1, 3))
SYMCONV_EVEN_ODD(4, SYMCONV_LIST(0, 2, 4, 6), SYMCONV_LIST(1, 3, 5, 7))
SYMCONV_EVEN_ODD(8, SYMCONV_LIST(0, 2, 4, 6, 8, 10, 12, 14),
                 SYMCONV_LIST(1, 3, 5, 7, 9, 11, 13, 15))
SYMCONV_EVEN_ODD(16, SYMCONV_LIST(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                 SYMCONV_LIST(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))
#undef SYMCONV_EVEN_ODD
#undef SYMCONV_LIST
#else
template <class V, int N>
struct Neighbours {
  static SYMCONV_INLINE V pick(V a, V b, int first) {
    V out;
    for (int i = 0; i < N / 2; ++i) {
      out[i] = a[2 * i + first];
      out[N / 2 + i] = b[2 * i + first];
    }
    return out;
  }
  static SYMCONV_INLINE V even(V a, V b) { return pick(a, b, 0); }
  static SYMCONV_INLINE V odd(V a, V b) { return pick(a, b, 1); }
};
#endif

// One sum per row of `rows`: lane r of the result is the sum over the lanes of rows[r].
template <class T>
SYMCONV_INLINE vector_of<T> row_sums(vector_of<T>* rows) {
  constexpr int n = Lanes<T>::count;
#pragma GCC unroll 8
  for (int width = n / 2; width >= 1; width /= 2)
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i)
      rows[i] = Neighbours<vector_of<T>, n>::even(rows[2 * i], rows[2 * i + 1]) +
                Neighbours<vector_of<T>, n>::odd(rows[2 * i], rows[2 * i + 1]);
  return rows[0];
}

}  // namespace SYMCONV_ISA
}  // namespace symconv
