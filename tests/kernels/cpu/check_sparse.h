// Random sparse products: output, gradient to the input and to the weight, on one set.
#pragma once

#include <algorithm>

#include "numbers.h"
#include "sparse_operators.h"

namespace check {

using symconv::Sparse;

inline std::string described(const Sparse& j) {
  return "batch " + std::to_string(j.batch) + " inputs " + std::to_string(j.inputs) + " outputs " +
         std::to_string(j.outputs) + " fan-in " + std::to_string(j.fan_in);
}

// Connections on the heap without a byte to spare; a row may name an input twice.
struct Connections {
  std::vector<int64_t> of;
  char* data;

  Connections(Random& random, const Sparse& j, int index) {
    of.resize(size_t(j.outputs * j.fan_in));
    for (int64_t& input : of) input = random.below(j.inputs);
    if (random.chance(20)) std::fill(of.begin(), of.end(), j.inputs - 1);
    const size_t each = index == symconv::uint16 ? 2 : index == symconv::int32 ? 4 : 8;
    data = (char*)std::malloc(of.size() * each);
    for (size_t i = 0; i < of.size(); ++i) std::memcpy(data + i * each, &of[i], each);
  }
  ~Connections() { std::free(data); }
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;
};

// One random case on one random set.
inline bool sparse_case(const std::vector<const symconv::Isa*>& sets, Random& random) {
  Sparse j{};
  const bool large = random.chance(2);
  j.batch = random.among({1, 1, 2, 3, 4, 7, 8, 9, 16, 17, 31, 33, 64, 70});
  if (large) j.batch = random.among({1, 2});
  j.inputs = large ? 1200 : random.among({1, 2, 5, 16, 33, 100, 300});
  j.outputs = large ? 1100 : random.among({1, 2, 3, 8, 9, 17, 40, 130});
  j.fan_in = large ? 1000 : random.among({1, 2, 3, 7, 8, 9, 16, 25, 60});
  const int order = int(random.below(3));  // contiguous, with gaps, transposed
  j.x_strides[0] = order == 2 ? 1 : j.inputs + (order == 1 ? 3 : 0);
  j.x_strides[1] = order == 2 ? j.batch : 1;
  if (order == 1 && random.chance(30)) j.x_strides[1] = 2, j.x_strides[0] *= 2;
  j.y_strides[0] = j.outputs, j.y_strides[1] = 1;

  const int type = int(random.below(symconv::types)), index = int(random.below(symconv::indices));
  const int threads = int(2 + random.below(3));
  const bool finite = !random.chance(10), aligned = random.chance(70), biased = random.chance(30);
  Connections connections(random, j, index);
  Buffer x(type, (j.batch - 1) * j.x_strides[0] + (j.inputs - 1) * j.x_strides[1] + 1, aligned);
  Buffer w(type, j.outputs * j.fan_in, aligned), y(type, j.batch * j.outputs, aligned);
  Buffer bias(type, j.outputs, aligned);
  for (Buffer* each : {&x, &w, &y, &bias}) each->draw(random, finite);

  Sums output(y.count()), to_input(j.batch * j.inputs), to_weight(w.count());
  for (int64_t b = 0; b < j.batch; ++b)
    for (int64_t o = 0; o < j.outputs; ++o) {
      if (biased) output.add(b * j.outputs + o, bias[o]);
      for (int64_t k = 0; k < j.fan_in; ++k) {
        const int64_t wi = o * j.fan_in + k, yi = b * j.outputs + o;
        const int64_t input = connections.of[size_t(wi)];
        const Exact left = x[b * j.x_strides[0] + input * j.x_strides[1]], weight = w[wi];
        output.add(yi, left * weight);
        to_input.add(b * j.inputs + input, weight * y[yi]);
        to_weight.add(wi, left * y[yi]);
      }
    }

  const symconv::Isa& isa = *sets[size_t(random.below(int64_t(sets.size())))];
  const symconv::SparseTable& table = isa.sparse[type].of[index];
  j.index = connections.data;
  Sparse forward = j, adjoint = j, gradient = j;
  forward.x = x.data(), forward.w = w.data(), forward.bias = biased ? bias.data() : nullptr;
  adjoint.y = y.data(), adjoint.w = w.data();
  adjoint.x_strides[0] = j.inputs, adjoint.x_strides[1] = 1;
  gradient.x = x.data(), gradient.y = y.data();
  const Case it{std::string("sparse, ") + isa.name + ", " + described(j), type, threads, aligned};
  return holds(it, "output", output, table, forward, symconv::sparse_forward) &&
         holds(it, "gradient to the input", to_input, table, adjoint, symconv::sparse_adjoint) &&
         holds(it, "gradient to the weight", to_weight, table, gradient,
               symconv::sparse_weight_gradient);
}

}  // namespace check
