// Between torch's layout, where positions are contiguous, and the kernels', where they come last.
//
// A row of the kernels' layout holds, for one position, the entries q of all channels and of the
// batch; `offset[q]` is where entry q begins in the tensor, or negative where it is filler.
#pragma once

#include "gemm.h"

namespace symconv {
namespace SYMCONV_ISA {

SYMCONV_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
SYMCONV_INLINE int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }
SYMCONV_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0
SYMCONV_INLINE int64_t rounded(int64_t a, int64_t to) { return ceil_div(a, to) * to; }

constexpr int64_t cache_line = 64;
constexpr int64_t piece = 256;  // positions of a row that are laid out together

// to[p * entries + q] = from[offset[q] + p * step], zero for filler; p < count.
template <class S, class T>
void lay(const S* from, const int64_t* offset, int64_t entries, int64_t step, int64_t count, T* to,
         int64_t row) {
  constexpr int n = Lanes<T>::count;
  int64_t q = 0;
  if (step == 1) {
    for (; q + n <= entries; q += n) {
      int64_t p = 0;
      for (; p + n <= count; p += n) {
        vector_of<T> block[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i)
          block[i] = offset[q + i] < 0 ? zeros<T>() : load(from + offset[q + i] + p);
        transpose<T>(block);
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) store(to + (p + i) * row + q, block[i]);
      }
      for (; p < count; ++p)
        for (int i = 0; i < n; ++i)
          to[p * row + q + i] = offset[q + i] < 0 ? T(0) : value(from[offset[q + i] + p]);
    }
  }
  for (int64_t p = 0; p < count; ++p)
    for (int64_t i = q; i < entries; ++i)
      to[p * row + i] = offset[i] < 0 ? T(0) : value(from[offset[i] + p * step]);
}

// Fetches ahead a share of the lines in which `count` positions of all entries lie. They are many
// and far apart, often by a power of two, so that each would be waited for.
template <int Writes, class S>
void fetch(const S* at, const int64_t* offset, int64_t entries, int64_t count, int64_t share,
           int64_t shares) {
  for (int64_t q = entries * share / shares; q < entries * (share + 1) / shares; ++q) {
    if (offset[q] < 0) continue;
    __builtin_prefetch(at + offset[q], Writes, 2);
    __builtin_prefetch(at + offset[q] + count - 1, Writes, 2);
  }
}

// to[offset[q] + p] = from[p * row + q], and the bias of its channel; filler is left out.
template <class S, class T>
void unlay(const T* from, int64_t row, const int64_t* offset, int64_t entries, int64_t count, S* to,
           const S* bias = nullptr, const int64_t* bias_offset = nullptr) {
  constexpr int n = Lanes<T>::count;
  int64_t q = 0;
  for (; q + n <= entries; q += n) {
    int64_t p = 0;
    for (; p + n <= count; p += n) {
      vector_of<T> block[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) block[i] = load(from + (p + i) * row + q);
      transpose<T>(block);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (offset[q + i] < 0) continue;
        if (bias) block[i] += load(bias + bias_offset[q + i] + p);
        store(to + offset[q + i] + p, block[i]);
      }
    }
    for (; p < count; ++p)
      for (int i = 0; i < n; ++i) {
        if (offset[q + i] < 0) continue;
        const T add = bias ? value(bias[bias_offset[q + i] + p]) : T(0);
        put(to[offset[q + i] + p], from[p * row + q + i] + add);
      }
  }
  for (; q < entries; ++q) {
    if (offset[q] < 0) continue;
    for (int64_t p = 0; p < count; ++p) {
      const T add = bias ? value(bias[bias_offset[q] + p]) : T(0);
      put(to[offset[q] + p], from[p * row + q] + add);
    }
  }
}

}  // namespace SYMCONV_ISA
}  // namespace symconv
