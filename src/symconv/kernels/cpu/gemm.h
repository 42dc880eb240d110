// The one product that all local operators are made of: C (+)= A B for small strided matrices.
//
//     c[r, j] (+)= sum over segments s, k < n_s of  a[a_s + k ak + r ar] * b[b_s + k bk + j]
//
// A is read as scalars, B as vectors over j, which has unit stride, as C has. Accumulators are held
// in registers, R rows of V vectors at a time. What A and B are:
//
//     output            o in lanes:     A inputs of the batch    B filter
//                       batch in lanes: A filter                 B inputs
//     gradient to input batch in lanes: A filter                 B gradient, k runs over o
//     gradient to filter o in lanes:    A inputs, k over batch   B gradient
//
// The last vector of a row of B may read up to a vector beyond j's end: callers keep that readable.
#pragma once

#include "simd.h"

namespace symconv {
namespace SYMCONV_ISA {

enum class Write { set, add, past };  // past: set, around the caches

struct Segments {
  const int64_t* a;  // offsets into A
  const int64_t* b;  // offsets into B
  const int64_t* n;  // steps of k
  int count;
};

// What the caller will read next: fetched to the second cache on the way, a little at every step,
// as bursts of requests would be waited for.
struct Prefetch {
  const char* from = nullptr;
  int64_t bytes = 0;
};

#if SYMCONV_BYTES == 64
constexpr int accumulators = 24;
#else
constexpr int accumulators = 12;
#endif
constexpr int most_rows = 12;

// R rows; `ahead.bytes` are fetched with each segment.
template <int R, int V, class A, class B, class C>
SYMCONV_INLINE void block(const A* a, int64_t ak, int64_t ar, const B* b, int64_t bk,
                          const Segments& segments, C* c, int64_t cr, int tail, Write write,
                          Prefetch ahead) {
  typedef typename Compute<C>::type T;
  constexpr int lanes = Lanes<T>::count;
  vector_of<T> sum[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = zeros<T>();
  for (int s = 0; s < segments.count; ++s) {
    const A* at = a + segments.a[s];
    const B* bt = b + segments.b[s];
    const int64_t pace = ahead.bytes && segments.n[s] ? ahead.bytes / segments.n[s] : 0;
    const char* next = pace ? ahead.from + s * ahead.bytes : (const char*)bt;
    for (int64_t k = segments.n[s]; k > 0; --k) {
      if (R > 3) __builtin_prefetch(next, 0, 2);  // fewer rows wait for nothing else: no help then
      next += pace;
      vector_of<T> right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) right[v] = load(bt + v * lanes);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const T left = value(at[r * ar]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] += right[v] * left;
      }
      at += ak;
      bt += bk;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    C* row = c + r * cr;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      C* to = row + v * lanes;
      if (write == Write::past) {
        store_past(to, sum[r][v]);
      } else if (v == V - 1 && tail) {
        write == Write::add ? add_part(to, sum[r][v], tail) : store_part(to, sum[r][v], tail);
      } else {
        store(to, write == Write::add ? load(to) + sum[r][v] : sum[r][v]);
      }
    }
  }
}

// Blocks of R rows, one below the other.
template <int R, int V, class A, class B, class C>
void tile(const A* a, int64_t ak, int64_t ar, const B* b, int64_t bk, const Segments& segments,
          C* c, int64_t cr, int tail, Write write, int64_t blocks, Prefetch ahead) {
  const int64_t share = ahead.bytes / (segments.count * blocks);
  for (; blocks > 0; --blocks, a += R * ar, c += R * cr) {
    block<R, V>(a, ak, ar, b, bk, segments, c, cr, tail, write, {ahead.from, share});
    ahead.from += share * segments.count;
  }
}

template <class A, class B, class C>
struct Product {
  typedef typename Compute<C>::type T;
  typedef void (*Tile)(const A*, int64_t, int64_t, const B*, int64_t, const Segments&, C*, int64_t,
                       int, Write, int64_t, Prefetch);

  template <int V>
  static SYMCONV_INLINE Tile chosen(int rows) {
    static constexpr Tile table[most_rows + 1] = {
        nullptr,  entry<1, V>(), entry<2, V>(), entry<3, V>(),  entry<4, V>(),
        entry<5, V>(), entry<6, V>(), entry<7, V>(), entry<8, V>(),  entry<9, V>(),
        entry<10, V>(), entry<11, V>(), entry<12, V>()};
    return table[rows];
  }
  template <int R, int V>
  static constexpr Tile entry() {
    if constexpr (R * V <= accumulators)
      return tile<R, V, A, B, C>;
    else
      return nullptr;
  }

  // Rows in blocks of a height, columns in blocks of 4, 2 or 1 vectors.
  static void run(const A* a, int64_t ak, int64_t ar, int64_t rows, const B* b, int64_t bk,
                  int64_t columns, const Segments& segments, C* c, int64_t cr, Write write,
                  Prefetch ahead = {}) {
    constexpr int lanes = Lanes<T>::count;
    for (int64_t j = 0; j < columns;) {
      const int64_t left = (columns - j + lanes - 1) / lanes;
      const int wide = rows <= accumulators / 4 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const int64_t most = accumulators / wide < most_rows ? accumulators / wide : most_rows;
      const int64_t blocks = (rows + most - 1) / most, rest = rows - (blocks - 1) * most;
      const int64_t end = j + wide * lanes;
      const int tail = end > columns ? int(columns - (end - lanes)) : 0;
      // Full height but for the end: few rows wait for their sums, so the last two blocks share.
      const int64_t whole = rest == most ? blocks : blocks - 1;
      const int64_t full = rest < most / 2 && blocks > 1 ? blocks - 2 : whole;
      const int64_t last = rows - full * most, second = last > most ? last / 2 : 0;
      const int64_t heights[3] = {most, last - second, second};
      const int64_t counts[3] = {full, last - second > 0, second > 0};
      for (int64_t part = 0, at = 0; part < 3; at += heights[part] * counts[part], ++part) {
        if (!counts[part]) continue;
        const int high = int(heights[part]);
        Tile call = wide == 4 ? chosen<4>(high) : wide == 2 ? chosen<2>(high) : chosen<1>(high);
        call(a + at * ar, ak, ar, b + j, bk, segments, c + at * cr + j, cr, tail, write,
             counts[part], {ahead.from, ahead.bytes * high * counts[part] / rows});
        ahead.from += ahead.bytes * high * counts[part] / rows;
      }
      ahead = {};
      j = end;
    }
  }
};

}  // namespace SYMCONV_ISA
}  // namespace symconv
