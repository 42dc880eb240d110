// Local correlation and its two gradients: one small product per output position.
//
// The input is laid out once as [panel of the batch][position][channel][item], zero padding
// included, so that the taps along the last axis of a window follow each other in memory and the
// items of one entry lie together: neither strides that are powers of two nor irregular taps cost
// anything. A panel is two vectors wide where the batch runs in vector lanes, else the whole batch.
// Every filter is read from memory (or written) once for the whole batch.
//
// No result depends on the number of threads: output positions and filters are independent, and in
// the gradient to the input a slice of the input belongs to one thread, which adds to it what all
// output positions give, in their order.
#pragma once

#include "job.h"
#include "layout.h"

namespace symconv {
namespace SYMCONV_ISA {

constexpr int64_t block_bytes = 1 << 16;
constexpr int64_t first_cache = 24 << 10;  // bytes of it that operands may fill
constexpr int64_t least_rows = 48;         // fewer sums would be loaded and stored too often
constexpr int64_t rows_together = 24;  // of a filter's gradient: their inputs stay in the first cache

// Part of the taps of a window, along one axis.
struct Taps {
  int64_t from[3], to[3];
};

// Taps that follow each other both in the laid out input and in the filter.
struct Run {
  int64_t x, w, n;  // offset in the input in positions, first row of the filter, rows
};

template <class S>
struct LocalKernel {
  typedef typename Compute<S>::type T;
  static constexpr int64_t lanes = Lanes<T>::count;

  static int64_t channels(const Local& j) { return j.groups * j.c; }
  static int64_t outputs(const Local& j) { return j.groups * j.o; }
  static int64_t taps(const Local& j) { return j.kernel[0] * j.kernel[1] * j.kernel[2]; }
  static int64_t rows(const Local& j) { return taps(j) * j.c; }
  static int64_t width(const Local& j, int64_t p) { return p + 1 < j.panels ? j.panel : j.last; }
  static int64_t items(const Local& j) { return (j.panels - 1) * j.panel + j.last; }
  static int64_t point(const Local& j, int64_t p) { return channels(j) * width(j, p); }
  static int64_t points(const Local& j) { return j.reach[0] * j.reach[1] * j.reach[2]; }
  static int64_t plane(const Local& j, int64_t p) { return p * j.panel * channels(j) * points(j); }
  static int64_t filter(const Local& j) { return rows(j) * outputs(j); }
  // Entries of a packed output position: [panel][o][item] or [batch][o]. Where there are labels all
  // positions may be packed at a time, so that few rows have room beyond their end.
  static int64_t wide(const Local& j) {
    if (j.labels) return outputs(j) + (outputs(j) < 8 * lanes ? 0 : lanes);
    return rounded(outputs(j), lanes) + lanes;
  }
  static int64_t packed(const Local& j) {
    return j.batch_in_lanes ? outputs(j) * items(j) : j.batch * wide(j);
  }
  static int64_t laid(const Local& j) { return points(j) * channels(j) * items(j) + lanes; }

  // -- scratch ------------------------------------------------------------------------------------

  struct Shared {
    T* x;
    int64_t *in, *out, *bias, *first, *list;
    T* y;
  };
  static Shared shared(const Local& j) {
    Shared s;
    s.x = (T*)j.shared;
    s.in = (int64_t*)(j.shared + rounded(laid(j) * sizeof(T), cache_line));
    s.out = s.in + channels(j) * items(j);
    s.bias = s.out + packed(j);
    s.first = s.bias + packed(j);
    s.list = s.first + (j.labels ? j.filters + 1 : 0);
    s.y = (T*)rounded(int64_t(s.list + (j.labels ? j.positions : 0)), cache_line);
    return s;
  }

  static void prepare(Local& j, bool in_lanes, bool packs_all) {
    for (int a = 0; a < 3; ++a)
      j.reach[a] = j.stride[a] * (j.out[a] - 1) + j.dilation[a] * (j.kernel[a] - 1) + 1;
    j.positions = j.out[0] * j.out[1] * j.out[2];
    j.batch_in_lanes = in_lanes;
    const int64_t batch = in_lanes ? rounded(j.batch, lanes) : j.batch;
    j.panel = in_lanes ? least(batch, 2 * lanes) : batch;
    j.panels = ceil_div(batch, j.panel);
    j.last = batch - (j.panels - 1) * j.panel;
    const int64_t item = packed(j) * sizeof(T);
    j.block = largest(1, least(2 * lanes, block_bytes / item));
    const int64_t lists = j.labels ? j.filters + 1 + j.positions : 0;
    const int64_t tables = channels(j) * items(j) + 2 * packed(j) + lists;
    j.bytes_shared = rounded(laid(j) * sizeof(T), cache_line) + 8 * tables + cache_line +
                     (packs_all ? (j.positions * packed(j) + lanes) * sizeof(T) : 0);
    j.bytes_worker = (j.block * packed(j) + lanes) * sizeof(T);
    j.bytes_worker = rounded(j.bytes_worker, cache_line);
  }

  static void fill_tables(const Local& j) {
    Shared s = shared(j);
    for (int64_t p = 0, q = 0; p < j.panels; ++p)
      for (int64_t i = 0; i < channels(j); ++i)
        for (int64_t b = p * j.panel; b < p * j.panel + width(j, p); ++b)
          s.in[q++] = b < j.batch ? b * j.x_strides[0] + i * j.x_strides[1] : int64_t(-1);
    for (int64_t q = 0; q < packed(j); ++q) {
      const int64_t p = q / (j.panel * outputs(j)), rest = q % (j.panel * outputs(j));
      const int64_t b = j.batch_in_lanes ? p * j.panel + rest % width(j, p) : q / wide(j);
      const int64_t i = j.batch_in_lanes ? rest / width(j, p) : q % wide(j);
      const bool real = b < j.batch && i < outputs(j);
      s.out[q] = real ? b * j.y_strides[0] + i * j.y_strides[1] : int64_t(-1);
      s.bias[q] = i * j.positions;
    }
  }

  // -- the input, laid out ------------------------------------------------------------------------

  static int64_t layout_chunks(const Local& j) {
    return j.reach[0] * j.reach[1] * ceil_div(j.reach[2], piece);
  }

  static void lay_input(const Local& j, int64_t chunk, int) {
    Shared s = shared(j);
    const int64_t pieces = ceil_div(j.reach[2], piece);
    const int64_t row = chunk / pieces, from = chunk % pieces * piece;
    const int64_t to = least(from + piece, j.reach[2]);
    const int64_t i0 = row / j.reach[1] - j.before[0], i1 = row % j.reach[1] - j.before[1];
    const bool inside = i0 >= 0 && i0 < j.size[0] && i1 >= 0 && i1 < j.size[1];
    const int64_t first = inside ? least(largest(from, j.before[2]), to) : to;
    const int64_t last = largest(first, least(to, j.before[2] + j.size[2]));
    const S* x = (const S*)j.x + i0 * j.x_strides[2] + i1 * j.x_strides[3] +
                 (first - j.before[2]) * j.x_strides[4];
    for (int64_t p = 0; p < j.panels; ++p) {
      const int64_t n = point(j, p);
      T* line = s.x + plane(j, p) + row * j.reach[2] * n;
      std::memset(line + from * n, 0, (first - from) * n * sizeof(T));
      std::memset(line + last * n, 0, (to - last) * n * sizeof(T));
      if (last > first)
        lay(x, s.in + p * j.panel * channels(j), n, j.x_strides[4], last - first, line + first * n,
            n);
    }
  }

  // Back: a row of the gradient to the input, which is contiguous, without its padding.
  static int64_t result_rows(const Local& j) { return j.size[0] * j.size[1]; }

  static void unlay_input(const Local& j, int64_t row, int) {
    Shared s = shared(j);
    const int64_t p0 = row / j.size[1] + j.before[0], p1 = row % j.size[1] + j.before[1];
    S* to = (S*)j.result + row * j.size[2];
    int64_t count = largest(0, least(j.size[2], j.reach[2] - j.before[2]));
    if (p0 >= j.reach[0] || p1 >= j.reach[1]) count = 0;
    const int64_t from = (p0 * j.reach[1] + p1) * j.reach[2] + j.before[2];
    for (int64_t p = 0; p < j.panels && count; ++p)
      unlay(s.x + plane(j, p) + from * point(j, p), point(j, p), s.in + p * j.panel * channels(j),
            point(j, p), count, to);
    if (count == j.size[2]) return;
    for (int64_t q = 0; q < channels(j) * items(j); ++q)
      if (s.in[q] >= 0) std::memset(to + s.in[q] + count, 0, (j.size[2] - count) * sizeof(S));
  }

  // -- windows ------------------------------------------------------------------------------------

  static Taps all_taps(const Local& j) {
    return {{0, 0, 0}, {j.kernel[0], j.kernel[1], j.kernel[2]}};
  }

  // Calls use(run) for the taps of a window in the order of the filter.
  template <class Use>
  static SYMCONV_INLINE void each_run(const Local& j, const Taps& t, const Use& use) {
    const bool joined = j.dilation[2] == 1 && j.groups == 1;
    for (int64_t t0 = t.from[0]; t0 < t.to[0]; ++t0)
      for (int64_t t1 = t.from[1]; t1 < t.to[1]; ++t1) {
        const int64_t x = (j.dilation[0] * t0 * j.reach[1] + j.dilation[1] * t1) * j.reach[2];
        const int64_t w = (t0 * j.kernel[1] + t1) * j.kernel[2];
        if (joined) {
          use(Run{x + t.from[2], (w + t.from[2]) * j.c, (t.to[2] - t.from[2]) * j.c});
          continue;
        }
        for (int64_t t2 = t.from[2]; t2 < t.to[2]; ++t2)
          use(Run{x + j.dilation[2] * t2, (w + t2) * j.c, j.c});
      }
  }

  // In the output the sums run over so many rows of the filter at a time that these and the inputs
  // they meet stay in the first cache.
  static int64_t together(const Local& j) {
    const int64_t others = j.batch_in_lanes ? j.panel : j.batch;
    return largest(least_rows, first_cache / int64_t(sizeof(T)) / (j.o + others));
  }
  static int64_t most_runs(const Local& j) { return taps(j) + rows(j) / together(j); }

  // The position at which the window of an output position begins in the laid out input.
  static int64_t start(const Local& j, int64_t l) {
    const int64_t l2 = l % j.out[2], l1 = l / j.out[2] % j.out[1], l0 = l / j.out[2] / j.out[1];
    return (l0 * j.stride[0] * j.reach[1] + l1 * j.stride[1]) * j.reach[2] + l2 * j.stride[2];
  }
  static int64_t label(const Local& j, int64_t l) { return j.labels ? j.labels[l] : l; }

  // -- output -------------------------------------------------------------------------------------

  static void plan_forward(Local& j) {
    const int64_t by_o = rounded(j.o, lanes) * j.batch, by_batch = rounded(j.batch, lanes) * j.o;
    prepare(j, by_batch <= by_o && j.batch >= lanes, false);
    // Each worker: the packed outputs of a block, the runs, the last filter with room to read on.
    j.bytes_worker += 4 * 8 * most_runs(j) + cache_line +
                      rounded((filter(j) + lanes) * sizeof(S), cache_line);
  }

  static int64_t blocks(const Local& j) { return ceil_div(j.positions, j.block); }

  static void forward(const Local& j, int64_t chunk, int worker) {
    Shared s = shared(j);
    T* y = (T*)(j.worker + worker * j.bytes_worker);
    int64_t* x_full = (int64_t*)(y + rounded(j.block * packed(j) + lanes, cache_line / sizeof(T)));
    int64_t *x_last = x_full + most_runs(j), *w_rows = x_last + most_runs(j);
    int64_t* steps = w_rows + most_runs(j);
    S* spare = (S*)rounded(int64_t(steps + most_runs(j)), cache_line);
    int count = 0;
    const int64_t most = together(j);
    each_run(j, all_taps(j), [&](const Run& run) {
      for (int64_t r = 0; r < run.n; r += most) {
        x_full[count] = run.x * point(j, 0) + r * width(j, 0);
        x_last[count] = run.x * point(j, j.panels - 1) + r * j.last;
        w_rows[count] = (run.w + r) * outputs(j);
        steps[count++] = least(most, run.n - r);
      }
    });
    const int64_t from = chunk * j.block, to = least(from + j.block, j.positions);
    const bool spills = !j.batch_in_lanes && j.o % lanes;
    for (int64_t l = from; l < to; ++l) {
      fetch<1>((const S*)j.result + from, s.out, packed(j), to - from, l - from, to - from);
      const S* w = (const S*)j.w + label(j, l) * filter(j);
      if (spills && (j.filters - 1 - label(j, l)) * filter(j) < lanes) {
        std::memcpy((void*)spare, w, filter(j) * sizeof(S));
        std::memset((void*)(spare + filter(j)), 0, lanes * sizeof(S));
        w = spare;
      }
      const S* next = (const S*)j.w + label(j, l + 1 < j.positions ? l + 1 : l) * filter(j);
      Prefetch ahead{(const char*)next, int64_t(filter(j) * sizeof(S))};
      for (int64_t p = 0; p < j.panels; ++p) {
        const T* x = s.x + plane(j, p) + start(j, l) * point(j, p);
        const int64_t* x_runs = p + 1 < j.panels ? x_full : x_last;
        T* to_y = y + (l - from) * packed(j) + p * j.panel * outputs(j);
        for (int64_t g = 0; g < j.groups; ++g)
          for (int first = 0, end; first < count; first = end) {
            int64_t sum = 0;
            for (end = first; end < count && (end == first || sum + steps[end] <= most); ++end)
              sum += steps[end];
            const int n = end - first;
            const Write write = first ? Write::add : Write::set;
            const Prefetch part{ahead.from + ahead.bytes * first / count, ahead.bytes * n / count};
            const T* xg = x + g * j.c * width(j, p);
            if (j.batch_in_lanes)
              Product<S, T, T>::run(w + g * j.o, outputs(j), 1, j.o, xg, width(j, p), width(j, p),
                                    {w_rows + first, x_runs + first, steps + first, n},
                                    to_y + g * j.o * width(j, p), width(j, p), write, part);
            else
              Product<T, S, T>::run(xg, j.batch, 1, j.batch, w + g * j.o, outputs(j), j.o,
                                    {x_runs + first, w_rows + first, steps + first, n},
                                    to_y + g * j.o, wide(j), write, part);
          }
        ahead = {};
      }
    }
    unlay(y, packed(j), s.out, packed(j), to - from, (S*)j.result + from,
          j.bias ? (const S*)j.bias + from : nullptr, s.bias);
  }

  // -- gradient to the input ----------------------------------------------------------------------

  static void plan_adjoint(Local& j, int threads) {
    prepare(j, 2 * j.batch >= lanes && j.batch > 1, false);
    const int axis = sliced(j);
    j.slices = threads == 1 ? 1 : least(j.reach[axis], 2 * threads);
  }

  static int sliced(const Local& j) { return j.reach[0] > 1 ? 0 : j.reach[1] > 1 ? 1 : 2; }

  static void adjoint(const Local& j, int64_t slice, int worker) {
    Shared s = shared(j);
    const int axis = sliced(j);
    const int64_t rows = j.reach[axis], from = rows * slice / j.slices;
    const int64_t to = rows * (slice + 1) / j.slices;
    for (int64_t p = 0; p < j.panels; ++p) {
      int64_t row = point(j, p);  // all axes before the sliced one have size 1
      for (int a = axis + 1; a < 3; ++a) row *= j.reach[a];
      std::memset(s.x + plane(j, p) + from * row, 0, (to - from) * row * sizeof(T));
    }
    int64_t lo[3] = {0, 0, 0}, hi[3] = {j.out[0], j.out[1], j.out[2]};
    const int64_t span = j.dilation[axis] * (j.kernel[axis] - 1);
    lo[axis] = from > span ? ceil_div(from - span, j.stride[axis]) : 0;
    hi[axis] = least(j.out[axis], (to - 1) / j.stride[axis] + 1);
    T* y = (T*)(j.worker + worker * j.bytes_worker);
    for (int64_t l0 = lo[0]; l0 < hi[0]; ++l0)
      for (int64_t l1 = lo[1]; l1 < hi[1]; ++l1)
        for (int64_t first = lo[2]; first < hi[2]; first += j.block) {
          const int64_t count = least(j.block, hi[2] - first);
          const int64_t l = (l0 * j.out[1] + l1) * j.out[2] + first;
          lay((const S*)j.y + l, s.out, packed(j), 1, count, y, packed(j));
          for (int64_t i = 0; i < count; ++i) {
            if (l + 2 * j.block <= j.positions)
              fetch<0>((const S*)j.y + l + j.block, s.out, packed(j), j.block, i, count);
            Taps taps = all_taps(j);
            const int64_t at[3] = {l0, l1, first + i};
            const int64_t begins = at[axis] * j.stride[axis], d = j.dilation[axis];
            if (from > begins) taps.from[axis] = ceil_div(from - begins, d);
            taps.to[axis] = least(j.kernel[axis], ceil_div(largest(0, to - begins), d));
            spread(j, l + i, taps, y + i * packed(j), s.x);
          }
        }
  }

  // Adds to the input what one output position gives it, for some of its taps.
  static void spread(const Local& j, int64_t l, const Taps& taps, const T* y, T* x) {
    const S* w = (const S*)j.w + label(j, l) * filter(j);
    const int64_t zero = 0, begin = start(j, l), bytes = filter(j) * sizeof(S);
    const Segments all{&zero, &zero, &j.o, 1};
    const char* next = (const char*)j.w + label(j, l + 1 < j.positions ? l + 1 : l) * bytes;
    each_run(j, taps, [&](const Run& run) {
      Prefetch ahead{next + run.w * outputs(j) * int64_t(sizeof(S)),
                     run.n * outputs(j) * int64_t(sizeof(S))};
      for (int64_t g = 0; g < j.groups; ++g) {
        const S* wg = w + run.w * outputs(j) + g * j.o;
        for (int64_t p = 0; p < j.panels; ++p) {
          const int64_t n = width(j, p);
          T* xg = x + plane(j, p) + (begin + run.x) * point(j, p) + g * j.c * n;
          if (j.batch_in_lanes)
            Product<S, T, T>::run(wg, 1, outputs(j), run.n,
                                  y + p * j.panel * outputs(j) + g * j.o * n, n, n, all, xg, n,
                                  Write::add, ahead);
          else
            for (int64_t b = 0; b < j.batch; ++b)
              spread_one(wg, outputs(j), run.n, y + b * wide(j) + g * j.o, j.o, xg + b, j.batch);
          ahead = {};
        }
      }
    });
  }

  // x[r step] += sum over o of w[r, o] y[o]: the sums of several rows are taken together.
  static void spread_one(const S* w, int64_t stride, int64_t rows, const T* y, int64_t o, T* x,
                         int64_t step) {
    int64_t r = 0;
    for (; r + lanes <= rows; r += lanes)
      spread_rows<true>(w + r * stride, stride, lanes, y, o, x + r * step, step);
    if (r < rows) spread_rows<false>(w + r * stride, stride, rows - r, y, o, x + r * step, step);
  }

  // Where there are fewer rows than lanes each is still summed in the same order: which rows come
  // together depends on how the input was sliced.
  template <bool all>
  static void spread_rows(const S* w, int64_t stride, int64_t rows, const T* y, int64_t o, T* x,
                          int64_t step) {
    const int64_t whole = o / lanes * lanes;
    vector_of<T> sums[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) sums[i] = zeros<T>();
    for (int64_t k = 0; k < whole; k += lanes) {
      const vector_of<T> right = load(y + k);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i)
        if (all || i < rows) sums[i] += load(w + i * stride + k) * right;
    }
    vector_of<T> total = row_sums<T>(sums);
    for (int64_t k = whole; k < o; ++k) {
      T column[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i)
        column[i] = all || i < rows ? value(w[i * stride + k]) : T(0);
      total += load(column) * y[k];
    }
    if (all && step == 1) return store(x, load(x) + total);
    T each[lanes];
    store(each, total);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i)
      if (all || i < rows) x[i * step] += each[i];
  }

  // -- gradient to the weight ---------------------------------------------------------------------

  static void plan_weight(Local& j) {
    prepare(j, false, j.labels != nullptr);
    if (!j.labels) return;
    j.bytes_worker = rounded(j.kernel[2] * j.c * wide(j) * sizeof(T), cache_line);
  }

  // Without labels: a chunk is a block of output positions, which are filters.
  static void weight_of_positions(const Local& j, int64_t chunk, int worker) {
    Shared s = shared(j);
    T* y = (T*)(j.worker + worker * j.bytes_worker);
    const int64_t from = chunk * j.block, to = least(from + j.block, j.positions);
    lay((const S*)j.y + from, s.out, packed(j), 1, to - from, y, packed(j));
    const int64_t zero = 0;
    const Segments all{&zero, &zero, &j.batch, 1};
    const bool past = sizeof(S) == sizeof(T) && j.o % lanes == 0 &&
                      int64_t(filter(j) * j.filters * sizeof(S)) >= (4 << 20) &&
                      int64_t(j.result) % SYMCONV_BYTES == 0;
    for (int64_t l = from; l < to; ++l) {
      if (to + j.block <= j.positions)
        fetch<0>((const S*)j.y + to, s.out, packed(j), j.block, l - from, to - from);
      const T* x = s.x + start(j, l) * point(j, 0);
      S* w = (S*)j.result + l * filter(j);
      each_run(j, all_taps(j), [&](const Run& run) {
        for (int64_t g = 0; g < j.groups; ++g)
          for (int64_t r = 0; r < run.n; r += rows_together)
            Product<T, T, S>::run(x + run.x * point(j, 0) + (g * j.c + r) * j.batch, 1, j.batch,
                                  least(rows_together, run.n - r),
                                  y + (l - from) * packed(j) + g * j.o, wide(j), j.o, all,
                                  w + (run.w + r) * outputs(j) + g * j.o, outputs(j),
                                  past ? Write::past : Write::set);
      });
    }
    if (past) stores_are_done();
  }

  // With labels: all outputs are packed first, and the positions of each filter listed.
  static void pack_outputs(const Local& j, int64_t chunk, int) {
    Shared s = shared(j);
    const int64_t from = chunk * j.block, to = least(from + j.block, j.positions);
    lay((const S*)j.y + from, s.out, packed(j), 1, to - from, s.y + from * packed(j), packed(j));
  }

  static void list_positions(const Local& j) {
    Shared s = shared(j);
    for (int64_t f = 0; f <= j.filters; ++f) s.first[f] = 0;
    for (int64_t l = 0; l < j.positions; ++l) ++s.first[j.labels[l]];
    for (int64_t f = 1; f <= j.filters; ++f) s.first[f] += s.first[f - 1];
    for (int64_t l = j.positions - 1; l >= 0; --l) s.list[--s.first[j.labels[l]]] = l;
  }

  static int64_t lines(const Local& j) { return j.kernel[0] * j.kernel[1]; }

  // A chunk is a line of taps of one filter, summed over the filter's positions in their order.
  static void weight_of_filters(const Local& j, int64_t chunk, int worker) {
    Shared s = shared(j);
    T* sum = (T*)(j.worker + worker * j.bytes_worker);
    const int64_t f = chunk / lines(j), line = chunk % lines(j), first_row = line * j.kernel[2] * j.c;
    const int64_t rows = j.kernel[2] * j.c, room = wide(j);
    for (int64_t i = 0; i < rows * room; ++i) sum[i] = 0;
    Taps taps = all_taps(j);
    taps.from[0] = line / j.kernel[1], taps.to[0] = taps.from[0] + 1;
    taps.from[1] = line % j.kernel[1], taps.to[1] = taps.from[1] + 1;
    const int64_t zero = 0;
    const Segments all{&zero, &zero, &j.batch, 1};
    for (int64_t i = s.first[f]; i < s.first[f + 1]; ++i) {
      const int64_t l = s.list[i];
      const T* x = s.x + start(j, l) * point(j, 0);
      each_run(j, taps, [&](const Run& run) {
        for (int64_t g = 0; g < j.groups; ++g)
          Product<T, T, T>::run(x + run.x * point(j, 0) + g * j.c * j.batch, 1, j.batch, run.n,
                                s.y + l * packed(j) + g * j.o, wide(j), j.o, all,
                                sum + (run.w - first_row) * room + g * j.o, room, Write::add);
      });
    }
    S* w = (S*)j.result + f * filter(j) + first_row * outputs(j);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < outputs(j); ++i) put(w[r * outputs(j) + i], sum[r * room + i]);
  }
};

}  // namespace SYMCONV_ISA
}  // namespace symconv
