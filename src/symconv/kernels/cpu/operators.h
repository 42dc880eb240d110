// The operators: which phases they have and how these are shared among threads.
#pragma once

#include "isa.h"
#include "memory.h"
#include "parallel.h"

namespace symconv {

inline size_t scratch_bytes(const Local& j, int threads) {
  return size_t(j.bytes_shared + j.bytes_worker * threads + 256);
}

inline void place(Local& j, const Scratch& scratch) {
  j.shared = (char*)((uintptr_t(scratch.data()) + 63) / 64 * 64);
  j.worker = j.shared + (j.bytes_shared + 63) / 64 * 64;
}

inline void local_forward(const LocalTable& k, Local j, int threads) {
  k.plan_forward(j);
  Scratch scratch(scratch_bytes(j, threads));
  place(j, scratch);
  k.fill_tables(j);
  parallel(k.layout_chunks(j), threads, [&](int64_t c, int w) { k.lay_input(j, c, w); });
  parallel(k.blocks(j), threads, [&](int64_t c, int w) { k.forward(j, c, w); });
}

inline void local_adjoint(const LocalTable& k, Local j, int threads) {
  k.plan_adjoint(j, threads);
  Scratch scratch(scratch_bytes(j, threads));
  place(j, scratch);
  k.fill_tables(j);
  parallel(j.slices, threads, [&](int64_t c, int w) { k.adjoint(j, c, w); });
  parallel(k.result_rows(j), threads, [&](int64_t c, int w) { k.unlay_input(j, c, w); });
}

inline void local_weight_gradient(const LocalTable& k, Local j, int threads) {
  k.plan_weight(j);
  Scratch scratch(scratch_bytes(j, threads));
  place(j, scratch);
  k.fill_tables(j);
  parallel(k.layout_chunks(j), threads, [&](int64_t c, int w) { k.lay_input(j, c, w); });
  if (!j.labels) {
    parallel(k.blocks(j), threads, [&](int64_t c, int w) { k.weight_of_positions(j, c, w); });
    return;
  }
  k.list_positions(j);
  parallel(k.blocks(j), threads, [&](int64_t c, int w) { k.pack_outputs(j, c, w); });
  parallel(j.filters * k.lines(j), threads, [&](int64_t c, int w) { k.weight_of_filters(j, c, w); });
}

}  // namespace symconv
