// What the machine can do at most, for benchmarks: multiply-adds in registers, reading memory.
#pragma once

#include "simd.h"

namespace symconv {
namespace SYMCONV_ISA {

// The compiler can neither hoist nor leave out what passes through a register here.
#if defined(__x86_64__) && (SYMCONV_BYTES < 64 || defined(__AVX512F__))
#define SYMCONV_OPAQUE(vector) asm volatile("" : "+x"(vector))
#elif defined(__aarch64__) && SYMCONV_BYTES == 16
#define SYMCONV_OPAQUE(vector) asm volatile("" : "+w"(vector))
#else
#define SYMCONV_OPAQUE(vector) asm volatile("" : "+m"(vector))
#endif

constexpr int chains = 12;  // enough to hide the latency of two units

// Multiplies and adds `rounds` times in each chain; returns the floating-point operations.
static double multiply_adds(int64_t rounds) {
  typedef vector_of<float> V;
  const V half = zeros<float>() + 0.5f;
  V a[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) a[i] = half;
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) {
      a[i] = a[i] * half + half;
      SYMCONV_OPAQUE(a[i]);
    }
  return 2.0 * double(rounds) * chains * Lanes<float>::count;
}

// Reads `count` floats once and returns their sum.
static float read_once(const float* from, int64_t count) {
  typedef vector_of<float> V;
  constexpr int n = Lanes<float>::count;
  V a[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) a[i] = zeros<float>();
  for (int64_t at = 0; at + 8 * n <= count; at += 8 * n)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) a[i] += load(from + at + i * n);
  float each[n], sum = 0;
  store(each, ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7])));
  for (int i = 0; i < n; ++i) sum += each[i];
  return sum;
}

}  // namespace SYMCONV_ISA
}  // namespace symconv
