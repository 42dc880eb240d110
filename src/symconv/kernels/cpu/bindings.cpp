// The Python module: addresses and sizes come in, nothing of torch is known here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "operators.h"
#include "sparse_operators.h"

namespace nb = nanobind;
using namespace symconv;

namespace {

const std::vector<const Isa*>& sets() {
  static const std::vector<const Isa*> all = {
#ifdef SYMCONV_X86
      &avx512::table, &avx2::table,
#endif
      &portable::table};
  return all;
}

const Isa& named(const std::string& name) {
  for (const Isa* isa : sets())
    if (isa->runs_here() && name == isa->name) return *isa;
  throw nb::value_error("no such instruction set on this machine");
}

typedef std::vector<int64_t> Numbers;

void take(Numbers::const_iterator& from, int64_t* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = *from++;
}

// In the order in which symconv.kernels.native writes them.
Local local_job(const Numbers& numbers) {
  if (numbers.size() != 5 + 18 + 7) throw nb::value_error("30 numbers make a local correlation");
  Local j{};
  auto at = numbers.begin();
  for (int64_t* to : {&j.batch, &j.groups, &j.c, &j.o, &j.filters}) *to = *at++;
  for (int64_t* to : {j.size, j.out, j.kernel, j.stride, j.dilation, j.before}) take(at, to, 3);
  take(at, j.x_strides, 5);
  take(at, j.y_strides, 2);
  return j;
}

typedef uintptr_t Address;

void run_local(int which, const std::string& isa, int type, const Numbers& numbers, Address x,
               Address w, Address y, Address bias, Address labels, Address result, int threads) {
  Local j = local_job(numbers);
  j.x = (const void*)x, j.w = (const void*)w, j.y = (const void*)y, j.bias = (const void*)bias;
  j.labels = (const int64_t*)labels, j.result = (void*)result;
  for (int64_t l = 0; j.labels && l < j.out[0] * j.out[1] * j.out[2]; ++l)
    if (j.labels[l] < 0 || j.labels[l] >= j.filters)
      throw nb::index_error(std::to_string(j.labels[l]).c_str());
  const LocalTable& k = named(isa).local[type];
  nb::gil_scoped_release release;
  which == 0   ? local_forward(k, j, threads)
  : which == 1 ? local_adjoint(k, j, threads)
               : local_weight_gradient(k, j, threads);
}

// Sizes and strides as symconv.kernels.native.sparse writes them.
void run_sparse(int which, const std::string& isa, int type, int index_type, int64_t batch,
                int64_t inputs, int64_t outputs, int64_t fan_in, int64_t x_batch, int64_t x_feature,
                int64_t y_batch, int64_t y_feature, Address x, Address w, Address y, Address bias,
                Address index, Address result, int threads) {
  Sparse j{};
  j.batch = batch, j.inputs = inputs, j.outputs = outputs, j.fan_in = fan_in;
  j.x_strides[0] = x_batch, j.x_strides[1] = x_feature;
  j.y_strides[0] = y_batch, j.y_strides[1] = y_feature;
  j.x = (const void*)x, j.w = (const void*)w, j.y = (const void*)y, j.bias = (const void*)bias;
  j.index = (const void*)index, j.result = (void*)result;
  const SparseTable& k = named(isa).sparse[type].of[index_type];
  nb::gil_scoped_release release;
  which == 0   ? sparse_forward(k, j, threads)
  : which == 1 ? sparse_adjoint(k, j, threads)
               : sparse_weight_gradient(k, j, threads);
}

nb::ndarray<nb::pytorch> empty(int type, const std::vector<size_t>& shape) {
  static const nb::dlpack::dtype dtypes[] = {
      {uint8_t(nb::dlpack::dtype_code::Float), 32, 1},
      {uint8_t(nb::dlpack::dtype_code::Float), 64, 1},
      {uint8_t(nb::dlpack::dtype_code::Bfloat), 16, 1}};
  size_t bytes = dtypes[type].bits / 8;
  for (size_t extent : shape) bytes *= extent;
  auto* block = new Memory::Block(memory().take(bytes));
  nb::capsule owner(block, [](void* held) noexcept {
    auto* block = static_cast<Memory::Block*>(held);
    memory().give(*block);
    delete block;
  });
  return nb::ndarray<nb::pytorch>(block->data, shape.size(), shape.data(), owner, nullptr,
                                  dtypes[type]);
}

// The machine's limits, for benchmarks: every thread does the work once, or reads its share.
double multiply_adds(const std::string& isa, int64_t rounds, int threads) {
  const Isa& set = named(isa);
  nb::gil_scoped_release release;
  parallel(threads, threads, [&](int64_t, int) { set.multiply_adds(rounds); });
  return threads * rounds * set.multiply_adds(1);
}

float read_once(const std::string& isa, Address from, int64_t count, int threads) {
  const Isa& set = named(isa);
  std::vector<float> sums(threads);
  nb::gil_scoped_release release;
  const int64_t share = count / threads;
  parallel(threads, threads, [&](int64_t i, int) {
    sums[i] = set.read_once((const float*)from + i * share, share);
  });
  float sum = 0;
  for (float part : sums) sum += part;
  return sum;
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "Compiled kernels; see symconv.kernels.native.";
  m.attr("interface") = 1;  // as INTERFACE in symconv.kernels.native: raise both together
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Isa* isa : sets())
      if (isa->runs_here()) names.push_back(isa->name);
    return names;
  });
  m.def("has_threads", [] { return fork_of_torch() != nullptr; });
  m.def("kept_bytes", [] { return memory().kept(); });
  m.def("release", [] { memory().release(); });
  m.def("empty", &empty);
  m.def("run_local", &run_local);
  m.def("run_sparse", &run_sparse);
  m.def("multiply_adds", &multiply_adds);
  m.def("read_once", &read_once);
}
