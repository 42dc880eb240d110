// Random local correlations: output, gradient to the input and to the weight, on one set.
#pragma once

#include <algorithm>

#include "numbers.h"
#include "operators.h"

namespace check {

using symconv::Local;

inline std::string described(const Local& j) {
  std::string text = "batch " + std::to_string(j.batch) + " groups " + std::to_string(j.groups) +
                     " c " + std::to_string(j.c) + " o " + std::to_string(j.o) + " filters " +
                     std::to_string(j.filters) + (j.labels ? " labels" : "");
  auto three = [&](const char* name, const int64_t* v) {
    text += std::string(" ") + name;
    for (int a = 0; a < 3; ++a) text += (a ? "x" : " ") + std::to_string(v[a]);
  };
  three("size", j.size), three("out", j.out), three("kernel", j.kernel), three("stride", j.stride);
  three("dilation", j.dilation), three("before", j.before);
  return text;
}

// Sizes with at least one output position; one case in fifty has a large weight.
inline Local random_sizes(Random& random) {
  Local j{};
  const bool large = random.chance(2);
  const int64_t axes = large ? 2 : 1 + random.below(3);
  j.groups = random.among({1, 1, 2, 3});
  j.c = large ? 16 : random.among({1, 2, 3, 5, 8});
  j.o = large ? 16 : random.among({1, 2, 3, 4, 7, 8, 12, 16, 17, 33});
  j.batch = large ? random.among({1, 3}) : random.among({1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 40});
  for (int a = 0; a < 3; ++a) {
    j.size[a] = j.out[a] = j.kernel[a] = j.stride[a] = j.dilation[a] = 1;
    if (a < 3 - axes) continue;
    do {
      j.size[a] = large ? 24 : random.among({1, 3, 5, 8, 11, axes < 3 ? 19 : 6});
      j.kernel[a] = large ? 3 : random.among({1, 2, 3});
      j.stride[a] = large ? 1 : random.among({1, 1, 2, 3});
      j.dilation[a] = random.among({1, 1, 2});
      j.before[a] = random.among({0, 0, 1, 2});
      const int64_t after = random.among({0, 0, 1, 2});
      const int64_t room = j.size[a] + j.before[a] + after - j.dilation[a] * (j.kernel[a] - 1) - 1;
      j.out[a] = room < 0 ? 0 : room / j.stride[a] + 1;
    } while (j.out[a] < 1);
  }
  return j;
}

// Strides of x in a random order of axes, with gaps; returns how many entries they span.
inline int64_t random_strides(Random& random, Local& j) {
  const int64_t extent[5] = {j.batch, j.groups * j.c, j.size[0], j.size[1], j.size[2]};
  int order[5] = {0, 1, 2, 3, 4};  // contiguous as it stands
  if (random.chance(30)) std::rotate(order + 1, order + 2, order + 5);  // channels last
  if (random.chance(20)) std::swap(order[random.below(5)], order[random.below(5)]);
  int64_t step = random.chance(20) ? 2 : 1, last = 0;
  for (int i = 4; i >= 0; --i) {
    j.x_strides[order[i]] = step;
    step *= extent[order[i]] + (random.chance(10) ? 1 : 0);
  }
  if (random.chance(5)) j.x_strides[0] = 0;  // expanded
  for (int i = 0; i < 5; ++i) last += (extent[i] - 1) * j.x_strides[i];
  return last + 1;
}

// Calls use(x's entry or -1 for padding, that of x contiguous, w's, y's) for every term.
template <class Use>
void each_term(const Local& j, const Use& use) {
  const int64_t positions = j.out[0] * j.out[1] * j.out[2], outputs = j.groups * j.o;
  const int64_t taps = j.kernel[0] * j.kernel[1] * j.kernel[2];
  for (int64_t l = 0; l < positions; ++l)
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t at[3] = {l / j.out[2] / j.out[1], l / j.out[2] % j.out[1], l % j.out[2]};
      const int64_t tap[3] = {t / j.kernel[2] / j.kernel[1], t / j.kernel[2] % j.kernel[1],
                              t % j.kernel[2]};
      int64_t x = 0, dense = 0;
      for (int a = 0; a < 3; ++a) {
        const int64_t p = at[a] * j.stride[a] + tap[a] * j.dilation[a] - j.before[a];
        if (p < 0 || p >= j.size[a]) x = -1;
        if (x >= 0) x += p * j.x_strides[2 + a];
        dense = dense * j.size[a] + p;
      }
      const int64_t space = j.size[0] * j.size[1] * j.size[2];
      for (int64_t b = 0; b < j.batch; ++b)
        for (int64_t i = 0; i < j.groups * j.c; ++i)
          for (int64_t p = 0; p < j.o; ++p) {
            const int64_t o = i / j.c * j.o + p, f = j.labels ? j.labels[l] : l;
            use(x < 0 ? x : x + b * j.x_strides[0] + i * j.x_strides[1],
                (b * j.groups * j.c + i) * space + dense, ((f * taps + t) * j.c + i % j.c) * outputs + o,
                b * j.y_strides[0] + o * j.y_strides[1] + l);
          }
    }
}

// One random case on one random set.
inline bool local_case(const std::vector<const symconv::Isa*>& sets, Random& random) {
  Local j = random_sizes(random);
  const int64_t positions = j.out[0] * j.out[1] * j.out[2], outputs = j.groups * j.o;
  const int64_t taps = j.kernel[0] * j.kernel[1] * j.kernel[2], channels = j.groups * j.c;
  const int64_t span = random_strides(random, j);
  j.y_strides[0] = outputs * positions, j.y_strides[1] = positions;
  std::vector<int64_t> labels(size_t(positions), 0);
  j.filters = positions;
  if (random.chance(40)) {
    j.filters = std::max<int64_t>(1, positions / 2);
    for (int64_t& label : labels) label = random.below(j.filters);
    j.labels = labels.data();
  }

  const int type = int(random.below(symconv::types)), threads = int(2 + random.below(3));
  const bool finite = !random.chance(10), aligned = random.chance(70);
  Buffer x(type, span, aligned), w(type, j.filters * taps * j.c * outputs, aligned);
  Buffer y(type, j.batch * outputs * positions, aligned), bias(type, outputs * positions, aligned);
  for (Buffer* each : {&x, &w, &y, &bias}) each->draw(random, finite);
  const bool biased = random.chance(30);

  const int64_t space = j.size[0] * j.size[1] * j.size[2];
  Sums output(y.count()), to_input(j.batch * channels * space), to_weight(w.count());
  for (int64_t i = 0; biased && i < y.count(); ++i) output.add(i, bias[i % bias.count()]);
  each_term(j, [&](int64_t xi, int64_t dense, int64_t wi, int64_t yi) {
    const Exact left = xi < 0 ? 0 : x[xi];
    output.add(yi, left * w[wi]);
    to_weight.add(wi, left * y[yi]);
    if (xi >= 0) to_input.add(dense, Exact(w[wi]) * y[yi]);
  });

  const symconv::Isa& isa = *sets[size_t(random.below(int64_t(sets.size())))];
  const symconv::LocalTable& table = isa.local[type];
  Local forward = j, adjoint = j, gradient = j;
  forward.x = x.data(), forward.w = w.data(), forward.bias = biased ? bias.data() : nullptr;
  adjoint.y = y.data(), adjoint.w = w.data();
  int64_t step = 1;  // the gradient to the input is contiguous
  for (int a = 4; a > 0; step *= a > 1 ? j.size[a - 2] : channels, --a) adjoint.x_strides[a] = step;
  adjoint.x_strides[0] = step;
  gradient.x = x.data(), gradient.y = y.data();
  const Case it{std::string("local, ") + isa.name + ", " + described(j), type, threads, aligned};
  return holds(it, "output", output, table, forward, symconv::local_forward) &&
         holds(it, "gradient to the input", to_input, table, adjoint, symconv::local_adjoint) &&
         holds(it, "gradient to the weight", to_weight, table, gradient,
               symconv::local_weight_gradient);
}

}  // namespace check
