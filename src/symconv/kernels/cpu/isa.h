// The table of entry points that one instruction set offers; isa.cpp fills one in per set.
#pragma once

#include "job.h"

namespace symconv {

struct LocalTable {
  void (*plan_forward)(Local&);
  void (*plan_adjoint)(Local&, int threads);
  void (*plan_weight)(Local&);
  void (*fill_tables)(const Local&);
  void (*list_positions)(const Local&);
  int64_t (*layout_chunks)(const Local&);
  int64_t (*blocks)(const Local&);
  int64_t (*result_rows)(const Local&);
  int64_t (*lines)(const Local&);
  void (*lay_input)(const Local&, int64_t chunk, int worker);
  void (*unlay_input)(const Local&, int64_t chunk, int worker);
  void (*forward)(const Local&, int64_t chunk, int worker);
  void (*adjoint)(const Local&, int64_t chunk, int worker);
  void (*weight_of_positions)(const Local&, int64_t chunk, int worker);
  void (*pack_outputs)(const Local&, int64_t chunk, int worker);
  void (*weight_of_filters)(const Local&, int64_t chunk, int worker);
};

struct SparseTable {
  void (*plan_forward)(Sparse&);
  void (*plan_adjoint)(Sparse&);
  void (*plan_weight)(Sparse&);
  void (*fill_tables)(const Sparse&);
  int64_t (*pieces)(const Sparse&);
  void (*lay_input)(const Sparse&, int64_t task, int worker);
  void (*unlay_input)(const Sparse&, int64_t task, int worker);
  void (*forward)(const Sparse&, int64_t task, int worker);
  void (*adjoint)(const Sparse&, int64_t task, int worker);
  void (*weight)(const Sparse&, int64_t chunk, int worker);
};
struct SparseTables {
  SparseTable of[indices];
};

struct Isa {
  const char* name;
  bool (*runs_here)();
  LocalTable local[types];
  SparseTables sparse[types];
  double (*multiply_adds)(int64_t rounds);
  float (*read_once)(const float* from, int64_t count);
};

namespace portable { extern const Isa table; }
#ifdef SYMCONV_X86
namespace avx2 { extern const Isa table; }
namespace avx512 { extern const Isa table; }
#endif

}  // namespace symconv
