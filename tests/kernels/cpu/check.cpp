// The compiled kernels without Python, for address and thread checkers: see .ci/sanitize.
//
//     check SECONDS [SEED]   random operators on every instruction set of this machine
//     check sum|overrun|overflow|race   one planted fault each, which must be reported
#include <chrono>

#include "check_local.h"
#include "check_sparse.h"

using namespace check;

#ifdef SYMCONV_X86
namespace symconv::wide { extern const Isa table; }  // 64-byte vectors on AVX2
#endif

namespace {

std::vector<const symconv::Isa*> sets() {
  std::vector<const symconv::Isa*> here;
  for (const symconv::Isa* isa : {
#ifdef SYMCONV_X86
           &symconv::avx512::table, &symconv::avx2::table, &symconv::wide::table,
#endif
           &symconv::portable::table})
    if (isa->runs_here()) here.push_back(isa);
  return here;
}

// A layer with one filter per position, for the planted faults.
struct Planted {
  Local j{};
  Buffer x{symconv::float32, 8}, y{symconv::float32, 6 * 8}, w;
  explicit Planted(int64_t weights) : w(symconv::float32, weights) {
    Random random{1};
    for (int a = 0; a < 3; ++a) j.size[a] = j.out[a] = j.kernel[a] = j.stride[a] = j.dilation[a] = 1;
    j.batch = j.groups = j.c = 1, j.o = 8, j.size[2] = 8, j.kernel[2] = 3, j.out[2] = j.filters = 6;
    for (int64_t& step : j.x_strides) step = 8;
    j.x_strides[4] = 1, j.y_strides[0] = 48, j.y_strides[1] = 6;
    x.draw(random, true), w.draw(random, true);
    j.x = x.data(), j.w = w.data(), j.result = y.data();
  }
};

bool wrong_sum() {
  Planted layer(6 * 3 * 8);
  Sums want(layer.y.count());
  each_term(layer.j, [&](int64_t xi, int64_t, int64_t wi, int64_t yi) {
    want.add(yi, Exact(layer.x[xi]) * layer.w[wi]);
  });
  symconv::local_forward(symconv::portable::table.local[symconv::float32], layer.j, 1);
  if (first_wrong(symconv::float32, want, layer.y) != -1) return false;  // right as it is
  layer.y.set(7, layer.y[7] * (1 + 1e-5) + 1e-5);
  return first_wrong(symconv::float32, want, layer.y) == 7;
}

void overrun() {  // the last weight is not there
  Planted layer(6 * 3 * 8 - 1);
  symconv::local_forward(symconv::portable::table.local[symconv::float32], layer.j, 1);
}

void overflow(int large) { std::printf("%d\n", std::numeric_limits<int>::max() + large); }

void race() {  // each worker stays until all have added
  int64_t sum = 0;
  std::atomic<int> here{0};
  symconv::parallel(4, 4, [&](int64_t chunk, int) {
    sum += chunk;
    here.fetch_add(1, std::memory_order_relaxed);
    while (here.load(std::memory_order_relaxed) < 4) std::this_thread::yield();
  });
  std::printf("%lld\n", (long long)sum);
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "10";
  if (what == "sum") return wrong_sum() ? std::printf("wrong sum\n"), 1 : 0;
  if (what == "overrun") return overrun(), 0;
  if (what == "overflow") return overflow(count), 0;
  if (what == "race") return race(), 0;
  Random random{count > 2 ? uint64_t(std::atoll(arguments[2])) : 0};
  const std::vector<const symconv::Isa*> all = sets();
  const double seconds = std::atof(what.c_str());
  const auto begin = std::chrono::steady_clock::now();
  int64_t cases = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds) {
    const uint64_t seed = random.state;
    const bool fine = cases % 2 ? sparse_case(all, random) : local_case(all, random);
    if (!fine) return std::printf("  seed %llu\n", (unsigned long long)seed), 1;
    ++cases;
  }
  std::printf("%lld cases on", (long long)cases);
  for (const symconv::Isa* isa : all) std::printf(" %s", isa->name);
  std::printf("\n");
}
