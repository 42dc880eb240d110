// The operators of sparse products: which phases they have and how these are shared among threads.
#pragma once

#include "isa.h"
#include "memory.h"
#include "parallel.h"

namespace symconv {

// Scratch of one call, all of whose parts begin at a cache line.
struct SparseScratch : Scratch {
  SparseScratch(Sparse& j, int threads)
      : Scratch(size_t(j.bytes_shared + j.bytes_worker * threads + 128)) {
    j.shared = (char*)((uintptr_t(data()) + 63) / 64 * 64);
    j.worker = j.shared + (j.bytes_shared + 63) / 64 * 64;
  }
};

inline void lay_sparse(const SparseTable& k, const Sparse& j, int threads) {
  k.fill_tables(j);
  if (j.in_place) return;
  parallel(j.slices * k.pieces(j), threads, [&](int64_t t, int w) { k.lay_input(j, t, w); });
}

inline void sparse_forward(const SparseTable& k, Sparse j, int threads) {
  k.plan_forward(j);
  SparseScratch scratch(j, threads);
  lay_sparse(k, j, threads);
  parallel(j.slices * j.chunks, threads, [&](int64_t t, int w) { k.forward(j, t, w); });
}

inline void sparse_adjoint(const SparseTable& k, Sparse j, int threads) {
  k.plan_adjoint(j);
  SparseScratch scratch(j, threads);
  k.fill_tables(j);
  parallel(j.slices * j.copies, threads, [&](int64_t t, int w) { k.adjoint(j, t, w); });
  parallel(j.slices * k.pieces(j), threads, [&](int64_t t, int w) { k.unlay_input(j, t, w); });
}

inline void sparse_weight_gradient(const SparseTable& k, Sparse j, int threads) {
  k.plan_weight(j);
  SparseScratch scratch(j, threads);
  lay_sparse(k, j, threads);
  parallel(j.chunks, threads, [&](int64_t c, int w) { k.weight(j, c, w); });
}

}  // namespace symconv
