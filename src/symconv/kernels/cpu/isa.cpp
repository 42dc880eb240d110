// Compiled once per instruction set: SYMCONV_ISA names the set, SYMCONV_BYTES the vector's width.
#include "isa.h"

#include "limits.h"
#include "local.h"
#include "sparse.h"

namespace symconv {
namespace SYMCONV_ISA {

template <class S>
constexpr LocalTable local_table() {
  typedef LocalKernel<S> K;
  return {K::plan_forward, K::plan_adjoint, K::plan_weight,  K::fill_tables,
          K::list_positions, K::layout_chunks, K::blocks,    K::result_rows,
          K::lines,        K::lay_input,    K::unlay_input,  K::forward,
          K::adjoint,      K::weight_of_positions, K::pack_outputs, K::weight_of_filters};
}

template <class S, class I>
constexpr SparseTable sparse_table() {
  typedef SparseKernel<S, I> K;
  return {K::plan_forward, K::plan_adjoint, K::plan_weight, K::fill_tables, K::pieces,
          K::lay_input,    K::unlay_input,  K::forward,     K::adjoint,     K::weight};
}
template <class S>
constexpr SparseTables sparse_tables() {
  return {{sparse_table<S, uint16_t>(), sparse_table<S, int32_t>(), sparse_table<S, int64_t>()}};
}

static bool runs_here() {
#if defined(SYMCONV_NEEDS_AVX512)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("fma");
#elif defined(SYMCONV_NEEDS_AVX2)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

#define SYMCONV_STRING_OF(x) #x
#define SYMCONV_STRING(x) SYMCONV_STRING_OF(x)

extern const Isa table;  // of internal use: see isa.h for the names outside
const Isa table = {SYMCONV_STRING(SYMCONV_ISA),
                   runs_here,
                   {local_table<float>(), local_table<double>(), local_table<bfloat16>()},
                   {sparse_tables<float>(), sparse_tables<double>(), sparse_tables<bfloat16>()},
                   multiply_adds,
                   read_once};

}  // namespace SYMCONV_ISA
}  // namespace symconv
