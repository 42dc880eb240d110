// A product with k chosen inputs for each output, and its two gradients.
//
// The batch is laid out last, in slices of a few vectors, so that a connection reads (or adds to)
// one stretch of memory, a cache line or more, and a slice of all inputs stays in the second cache.
// Weights and connections are read in their order, once for each slice. A batch of one is not laid
// out: scalars are quicker there than gathering vectors.
//
// No result depends on the number of threads: outputs are independent, and the gradient to the
// input is made in a number of copies that follows from the sizes alone, added up in their order.
#pragma once

#include "job.h"
#include "layout.h"

namespace symconv {
namespace SYMCONV_ISA {

constexpr int64_t slice_bytes = 1 << 18;  // of the inputs: half of a small second cache
constexpr int64_t copies_bytes = 1 << 24;
constexpr int64_t most_parts = 8;         // of the gradient to the input
constexpr int64_t past_bytes = 4 << 20;   // results from this size on go around the caches
constexpr int64_t buffer_bytes = 1 << 20;

// Eight connections as integers: narrow ones are read four at a time, loads being what counts.
template <class I>
SYMCONV_INLINE void eight(const I* from, int64_t* to) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) to[i] = from[i];
}
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
template <>
SYMCONV_INLINE void eight(const uint16_t* from, int64_t* to) {
  uint64_t four[2];
  std::memcpy(four, from, 16);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) to[i] = int64_t(four[i / 4] >> (16 * (i % 4)) & 0xffff);
}
#endif

// The lines that `count` entries occupy, about a kilobyte ahead of what is being read.
template <class E>
SYMCONV_INLINE void fetch_ahead(const E* at, int count) {
#pragma GCC unroll 4
  for (int64_t p = 0; p < int64_t(count * sizeof(E)); p += cache_line)
    __builtin_prefetch((const char*)at + 1024 + p, 0, 3);
}

template <class T>
SYMCONV_INLINE void copy_past(T* to, const T* from, int64_t count) {
  constexpr int64_t n = Lanes<T>::count;
  int64_t i = 0;
  for (; i < count && int64_t(to + i) % cache_line; ++i) to[i] = from[i];
  for (; i + n <= count; i += n) store_past(to + i, load(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

template <class S, class I>
struct SparseKernel {
  typedef typename Compute<S>::type T;
  static constexpr int64_t lanes = Lanes<T>::count;
  static constexpr bool stored_as_computed = sizeof(S) == sizeof(T);

  // -- plans and scratch --------------------------------------------------------------------------

  static void slice(Sparse& j) {
    const int64_t most = SYMCONV_BYTES * j.inputs;
    j.vectors = j.batch > 1;
    while (j.vectors && j.vectors < 4 && j.vectors * lanes < j.batch &&
           (j.vectors * SYMCONV_BYTES < cache_line || 2 * j.vectors * most <= slice_bytes))
      j.vectors *= 2;
    j.width = largest(1, j.vectors * lanes);
    j.slices = ceil_div(j.batch, j.width);
    j.copies = 1;
  }

  // Rows of outputs that are worked on together: about so many connections, and 64 KB of outputs.
  static void chunk(Sparse& j, int64_t connections) {
    const int64_t most = least(connections / j.fan_in, (1 << 16) / (j.width * int64_t(sizeof(T))));
    j.rows = largest(1, least(most, ceil_div(j.outputs, 8)));
    if (j.rows > 8) j.rows = rounded(j.rows, 16);
    j.chunks = ceil_div(j.outputs, j.rows);
    j.bytes_worker = rounded(j.rows * j.width * sizeof(T), cache_line);
  }

  static void scratch(Sparse& j, bool laid) {
    j.bytes_laid = laid ? j.copies * laid_size(j) * sizeof(T) : 0;
    j.bytes_laid = rounded(j.bytes_laid, cache_line);
    j.bytes_shared = j.bytes_laid + 3 * 8 * j.slices * j.width;
  }

  static void plan_forward(Sparse& j) {
    slice(j);
    chunk(j, 1 << 14);
    j.in_place = j.width == 1 && stored_as_computed && j.x_strides[1] == 1;
    scratch(j, !j.in_place);
  }

  static void plan_adjoint(Sparse& j) {
    slice(j);
    chunk(j, 1 << 13);
    const int64_t each = j.outputs * j.fan_in / j.inputs;  // connections of an input
    while (j.copies * j.slices < most_parts && 2 * j.copies <= j.outputs && 24 * j.copies <= each &&
           2 * j.copies * laid_size(j) * int64_t(sizeof(T)) <= copies_bytes)
      j.copies *= 2;
    scratch(j, true);
  }

  static void plan_weight(Sparse& j) {
    slice(j);
    chunk(j, j.slices == 1 ? 1 << 14 : 1 << 15);
    // With one slice, what is written next stays in the first cache; more slices come back to it.
    j.block = j.slices == 1 ? least(j.rows, largest(8, (1 << 12) / j.fan_in)) : j.rows;
    j.in_place = j.width == 1 && stored_as_computed && j.x_strides[1] == 1;
    scratch(j, !j.in_place);
    const int64_t buffer = j.block * j.fan_in * sizeof(T);
    j.past = stored_as_computed && j.slices == 1 && buffer <= buffer_bytes &&
             j.outputs * j.fan_in * int64_t(sizeof(T)) >= past_bytes;
    if (j.past || !stored_as_computed) j.bytes_worker += rounded(buffer, cache_line);
  }

  static int64_t laid_size(const Sparse& j) { return j.slices * j.inputs * j.width; }
  static T* laid(const Sparse& j, int64_t slice, int64_t copy = 0) {
    if (j.in_place) return (T*)j.x;
    return (T*)j.shared + (copy * j.slices + slice) * j.inputs * j.width;
  }
  // Where the entries of the batch begin in x and in y; and zeros, for a bias that all share.
  static int64_t* offsets(const Sparse& j, int which, int64_t slice) {
    return (int64_t*)(j.shared + j.bytes_laid) + (which * j.slices + slice) * j.width;
  }

  static void fill_tables(const Sparse& j) {
    for (int64_t b = 0; b < j.slices * j.width; ++b) {
      offsets(j, 0, 0)[b] = b < j.batch ? b * j.x_strides[0] : int64_t(-1);
      offsets(j, 1, 0)[b] = b < j.batch ? b * j.y_strides[0] : int64_t(-1);
      offsets(j, 2, 0)[b] = 0;
    }
  }

  // Calls use(Count<V>) with the number of vectors in a slice, 0 for a single scalar.
  template <int V>
  struct Count {
    static constexpr int value = V;
  };
  template <class Use>
  static SYMCONV_INLINE void with_vectors(const Sparse& j, const Use& use) {
    j.vectors == 0   ? use(Count<0>())
    : j.vectors == 1 ? use(Count<1>())
    : j.vectors == 2 ? use(Count<2>())
                     : use(Count<4>());
  }

  // -- layout -------------------------------------------------------------------------------------

  static int64_t pieces(const Sparse& j) { return ceil_div(j.inputs, piece); }

  static void lay_input(const Sparse& j, int64_t task, int) {
    const int64_t s = task / pieces(j), from = task % pieces(j) * piece;
    lay_features(j, (const S*)j.x + from * j.x_strides[1], offsets(j, 0, s), j.x_strides[1],
                 least(piece, j.inputs - from), laid(j, s) + from * j.width);
  }

  static void lay_features(const Sparse& j, const S* from, const int64_t* offset, int64_t step,
                           int64_t count, T* to) {
    if (j.width == 1) {
      for (int64_t p = 0; p < count; ++p) to[p] = value(from[p * step]);
      return;
    }
    lay(from, offset, j.width, step, count, to, j.width);
  }

  static void unlay_features(const Sparse& j, const T* from, const int64_t* offset, int64_t count,
                             S* to, const S* bias) {
    if (j.width == 1) {
      for (int64_t p = 0; p < count; ++p) put(to[p], bias ? from[p] + value(bias[p]) : from[p]);
      return;
    }
    unlay(from, j.width, offset, j.width, count, to, bias, offsets(j, 2, 0));
  }

  static const T* laid_outputs(const Sparse& j, int64_t slice, int64_t from, int64_t to, T* room) {
    if (j.width == 1 && stored_as_computed && j.y_strides[1] == 1) return (const T*)j.y + from;
    lay_features(j, (const S*)j.y + from * j.y_strides[1], offsets(j, 1, slice), j.y_strides[1],
                 to - from, room);
    return room;
  }

  // -- output -------------------------------------------------------------------------------------

  static void forward(const Sparse& j, int64_t task, int worker) {
    const int64_t s = task / j.chunks, from = task % j.chunks * j.rows;
    const int64_t to = least(from + j.rows, j.outputs);
    const T* x = laid(j, s);
    T* y = (T*)(j.worker + worker * j.bytes_worker);
    with_vectors(j, [&](auto v) {
      for (int64_t o = from; o < to; ++o)
        dot<v.value>((const S*)j.w + o * j.fan_in, (const I*)j.index + o * j.fan_in, j.fan_in, x,
                     y + (o - from) * j.width);
    });
    unlay_features(j, y, offsets(j, 1, s), to - from, (S*)j.result + from,
                   j.bias ? (const S*)j.bias + from : nullptr);
  }

  // y[lane] = sum over k of w[k] x[c[k], lane]; several sums, as one would wait for itself.
  template <int V>
  static SYMCONV_INLINE void dot(const S* w, const I* c, int64_t n, const T* x, T* y) {
    if constexpr (V == 0) {
      *y = dot_one(w, c, n, x);
    } else {
      constexpr int sums = V == 1 ? 4 : 2;
      vector_of<T> sum[sums][V];
#pragma GCC unroll 4
      for (int u = 0; u < sums; ++u)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[u][v] = zeros<T>();
      int64_t k = 0;
      for (; k + 16 <= n; k += 16) {
        fetch_ahead(w + k, 16);
        fetch_ahead(c + k, 16);
#pragma GCC unroll 16
        for (int u = 0; u < 16; ++u) accumulate<V>(w[k + u], c[k + u], x, sum[u % sums]);
      }
      for (; k + sums <= n; k += sums)
#pragma GCC unroll 4
        for (int u = 0; u < sums; ++u) accumulate<V>(w[k + u], c[k + u], x, sum[u]);
      for (; k < n; ++k) accumulate<V>(w[k], c[k], x, sum[0]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
#pragma GCC unroll 4
        for (int u = sums / 2; u > 0; u /= 2)
#pragma GCC unroll 2
          for (int i = 0; i < u; ++i) sum[i][v] += sum[i + u][v];
        store(y + v * lanes, sum[0][v]);
      }
    }
  }

  template <int V>
  static SYMCONV_INLINE void accumulate(S w, I c, const T* x, vector_of<T>* sum) {
    const T left = value(w);
    const T* row = x + int64_t(c) * (V * lanes);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[v] += load(row + v * lanes) * left;
  }

  static SYMCONV_INLINE T dot_one(const S* w, const I* c, int64_t n, const T* x) {
    T sum[4] = {0, 0, 0, 0};
    int64_t k = 0, at[8];
    for (; k + 8 <= n; k += 8) {
      fetch_ahead(w + k, 8);
      fetch_ahead(c + k, 8);
      eight(c + k, at);
#pragma GCC unroll 8
      for (int u = 0; u < 8; ++u) sum[u % 4] += value(w[k + u]) * x[at[u]];
    }
    for (; k < n; ++k) sum[0] += value(w[k]) * x[c[k]];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }

  // -- gradient to the input ----------------------------------------------------------------------

  // One copy of one slice of the gradient: what part of the outputs gives.
  static void adjoint(const Sparse& j, int64_t task, int worker) {
    const int64_t s = task / j.copies, copy = task % j.copies;
    const int64_t first = j.outputs * copy / j.copies, last = j.outputs * (copy + 1) / j.copies;
    T* x = laid(j, s, copy);
    T* room = (T*)(j.worker + worker * j.bytes_worker);
    std::memset(x, 0, j.inputs * j.width * sizeof(T));
    for (int64_t from = first; from < last; from += j.rows) {
      const int64_t to = least(from + j.rows, last);
      const T* y = laid_outputs(j, s, from, to, room);
      with_vectors(j, [&](auto v) {
        for (int64_t o = from; o < to; ++o)
          spread<v.value>((const S*)j.w + o * j.fan_in, (const I*)j.index + o * j.fan_in, j.fan_in,
                          y + (o - from) * j.width, x);
      });
    }
  }

  // x[c[k], lane] += w[k] y[lane], one connection after the other: two may go to one input.
  template <int V>
  static SYMCONV_INLINE void spread(const S* w, const I* c, int64_t n, const T* y, T* x) {
    if constexpr (V == 0) {
      spread_one(w, c, n, *y, x);
    } else {
      vector_of<T> right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) right[v] = load(y + v * lanes);
      int64_t k = 0;
      for (; k + 16 <= n; k += 16) {
        fetch_ahead(w + k, 16);
        fetch_ahead(c + k, 16);
#pragma GCC unroll 16
        for (int u = 0; u < 16; ++u) scatter<V>(w[k + u], c[k + u], right, x);
      }
      for (; k < n; ++k) scatter<V>(w[k], c[k], right, x);
    }
  }

  template <int V>
  static SYMCONV_INLINE void scatter(S w, I c, const vector_of<T>* right, T* x) {
    const T left = value(w);
    T* row = x + int64_t(c) * (V * lanes);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      store(row + v * lanes, load(row + v * lanes) + right[v] * left);
  }

  static SYMCONV_INLINE void spread_one(const S* w, const I* c, int64_t n, T y, T* x) {
    int64_t k = 0, at[8];
    for (; k + 8 <= n; k += 8) {
      fetch_ahead(w + k, 8);
      fetch_ahead(c + k, 8);
      eight(c + k, at);
      T each[8];
#pragma GCC unroll 8
      for (int u = 0; u < 8; u += lanes < 8 ? lanes : 8)
        if constexpr (lanes <= 8)
          store(each + u, load(w + k + u) * y);
        else
          for (int i = 0; i < 8; ++i) each[i] = value(w[k + i]) * y;
#pragma GCC unroll 8
      for (int u = 0; u < 8; ++u) x[at[u]] += each[u];
    }
    for (; k < n; ++k) x[c[k]] += value(w[k]) * y;
  }

  static void unlay_input(const Sparse& j, int64_t task, int) {
    const int64_t s = task / pieces(j), from = task % pieces(j) * piece;
    const int64_t count = least(piece, j.inputs - from);
    T* x = laid(j, s) + from * j.width;
    for (int64_t copy = 1; copy < j.copies; ++copy) {
      const T* more = laid(j, s, copy) + from * j.width;
      int64_t i = 0;
      for (; i + lanes <= count * j.width; i += lanes) store(x + i, load(x + i) + load(more + i));
      for (; i < count * j.width; ++i) x[i] += more[i];
    }
    unlay_features(j, x, offsets(j, 0, s), count, (S*)j.result + from, nullptr);
  }

  // -- gradient to the weight ---------------------------------------------------------------------

  static void weight(const Sparse& j, int64_t chunk, int worker) {
    const int64_t end = least((chunk + 1) * j.rows, j.outputs);
    for (int64_t from = chunk * j.rows; from < end; from += j.block)
      weight_of(j, from, least(from + j.block, end), (T*)(j.worker + worker * j.bytes_worker));
    if (j.past) stores_are_done();
  }

  static void weight_of(const Sparse& j, int64_t from, int64_t to, T* room) {
    S* result = (S*)j.result + from * j.fan_in;
    T* sums = (T*)result;
    if (j.past || !stored_as_computed)
      sums = room + rounded(j.block * j.width * sizeof(T), cache_line) / sizeof(T);
    for (int64_t s = 0; s < j.slices; ++s) {
      const T* y = laid_outputs(j, s, from, to, room);
      with_vectors(j, [&](auto v) {
        for (int64_t o = from; o < to; ++o)
          products<v.value>(laid(j, s), (const I*)j.index + o * j.fan_in, j.fan_in,
                            y + (o - from) * j.width, sums + (o - from) * j.fan_in, s > 0);
      });
    }
    const int64_t count = (to - from) * j.fan_in;
    if constexpr (!stored_as_computed) {
      for (int64_t i = 0; i < count; ++i) put(result[i], sums[i]);
    } else if (j.past) {
      copy_past(result, sums, count);
    }
  }

  // w[k] (+)= sum over lanes of x[c[k], lane] y[lane]; as many k together as a vector has lanes.
  template <int V>
  static SYMCONV_INLINE void products(const T* x, const I* c, int64_t n, const T* y, T* w,
                                      bool add) {
    if constexpr (V == 0) {
      const T right = *y;
      int64_t k = 0, at[8];
      for (; k + 8 <= n; k += 8) {
        fetch_ahead(c + k, 8);
        eight(c + k, at);
#pragma GCC unroll 8
        for (int u = 0; u < 8; ++u) w[k + u] = x[at[u]] * right;
      }
      for (; k < n; ++k) w[k] = x[c[k]] * right;
    } else {
      vector_of<T> right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) right[v] = load(y + v * lanes);
      if (n < lanes) {
        vector_of<T> sums[lanes];
        for (int u = 0; u < lanes; ++u)
          sums[u] = u < n ? weighed<V>(x, c[u], right) : zeros<T>();
        const vector_of<T> total = row_sums<T>(sums);
        add ? add_part(w, total, int(n)) : store_part(w, total, int(n));
        return;
      }
      // The last ones end with the row, and may take some of those before them once more.
      const int64_t last = n - lanes;
      const vector_of<T> before = add ? load(w + last) : zeros<T>();
      for (int64_t k = 0; k < last; k += lanes) {
        fetch_ahead(c + k, lanes);
        const vector_of<T> total = several<V>(x, c + k, right);
        store(w + k, add ? load(w + k) + total : total);
      }
      store(w + last, before + several<V>(x, c + last, right));
    }
  }

  template <int V>
  static SYMCONV_INLINE vector_of<T> several(const T* x, const I* c, const vector_of<T>* right) {
    vector_of<T> sums[lanes];
#pragma GCC unroll 16
    for (int u = 0; u < lanes; ++u) sums[u] = weighed<V>(x, c[u], right);
    return row_sums<T>(sums);
  }

  template <int V>
  static SYMCONV_INLINE vector_of<T> weighed(const T* x, I c, const vector_of<T>* right) {
    const T* row = x + int64_t(c) * (V * lanes);
    vector_of<T> sum = load(row) * right[0];
#pragma GCC unroll 4
    for (int v = 1; v < V; ++v) sum += load(row + v * lanes) * right[v];
    return sum;
  }
};

}  // namespace SYMCONV_ISA
}  // namespace symconv
