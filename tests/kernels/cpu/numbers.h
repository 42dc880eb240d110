// Random numbers, buffers without a byte to spare, and the comparison with sums of long doubles.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "job.h"

namespace check {

typedef long double Exact;

struct Random {
  uint64_t state;
  uint64_t bits() {  // splitmix64
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
  bool chance(int percent) { return below(100) < percent; }
  int64_t among(const std::vector<int64_t>& values) { return values[below(values.size())]; }
  double normal() {  // nearly: a sum of four
    double sum = -2;
    for (int i = 0; i < 4; ++i) sum += double(bits() >> 11) / double(uint64_t(1) << 53);
    return sum * 1.7;
  }
};

inline int64_t bytes_of(int type) {
  return type == symconv::float64 ? 8 : type == symconv::float32 ? 4 : 2;
}
inline const char* name_of(int type) {
  return type == symconv::float64 ? "float64" : type == symconv::float32 ? "float32" : "bfloat16";
}
// The spacing of numbers at one, halved: as summed, and as stored.
inline Exact unit_summed(int type) { return type == symconv::float64 ? 0x1p-53L : 0x1p-24L; }
inline Exact unit_stored(int type) {
  return type == symconv::float64 ? 0x1p-53L : type == symconv::float32 ? 0x1p-24L : 0x1p-8L;
}

inline double read(int type, const char* at) {
  if (type == symconv::float64) {
    double x;
    std::memcpy(&x, at, 8);
    return x;
  }
  uint32_t bits = 0;
  if (type == symconv::float32)
    std::memcpy(&bits, at, 4);
  else
    std::memcpy((char*)&bits + 2, at, 2);  // little-endian, as the processors we check are
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline void write(int type, char* at, double value) {
  if (type == symconv::float64) {
    std::memcpy(at, &value, 8);
    return;
  }
  const float x = float(value);
  if (type == symconv::float32)
    std::memcpy(at, &x, 4);
  else
    std::memcpy(at, (const char*)&x + 2, 2);  // truncated: any bfloat16 will do
}

// `count` entries on the heap. They end where the allocation ends, for address checkers; all bits
// are set at first, so that an entry that is never written is a NaN.
class Buffer {
 public:
  Buffer(int type, int64_t count, bool aligned = true)
      : type_(type), count_(count), skipped_(aligned ? 0 : bytes_of(type)) {
    if (posix_memalign((void**)&block_, 64, size_t(skipped_ + bytes()))) std::abort();
    std::memset(block_, 0xff, size_t(skipped_ + bytes()));
  }
  ~Buffer() { std::free(block_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * bytes_of(type_); }
  char* data() const { return block_ + skipped_; }
  double operator[](int64_t i) const { return read(type_, data() + i * bytes_of(type_)); }
  void set(int64_t i, double value) { write(type_, data() + i * bytes_of(type_), value); }

  void draw(Random& random, bool finite) {
    for (int64_t i = 0; i < count_; ++i) set(i, random.normal());
    if (finite || !count_) return;
    const double inf = std::numeric_limits<double>::infinity();
    const double odd[] = {inf, -inf, std::nan("")};
    for (int i = 0; i < 3; ++i) set(random.below(count_), odd[random.below(3)]);
  }

 private:
  int type_;
  int64_t count_, skipped_;
  char* block_ = nullptr;
};

// What a result should be: sums, and the sums of magnitudes that bound their rounding.
struct Sums {
  std::vector<Exact> value, magnitude;
  std::vector<int64_t> terms;
  explicit Sums(int64_t count) : value(count), magnitude(count), terms(count) {}
  void add(int64_t i, Exact term) {
    value[i] += term;
    magnitude[i] += std::fabs(term);
    ++terms[i];
  }
};

// The first entry of `got` that rounding cannot explain, or -1.
inline int64_t first_wrong(int type, const Sums& want, const Buffer& got) {
  for (int64_t i = 0; i < got.count(); ++i) {
    const Exact value = want.value[i], found = got[i];
    if (std::isnan(value) ? std::isnan(found) : std::isinf(value) && value == found) continue;
    const Exact summed = (want.terms[i] + 2) * unit_summed(type) * want.magnitude[i];
    if (!(std::fabs(value - found) <= summed + unit_stored(type) * std::fabs(value))) return i;
  }
  return -1;
}

struct Case {
  std::string what;
  int type, threads;
  bool aligned;
};

// One thread against exact sums, more threads against one thread, bit for bit.
template <class Table, class Job>
bool holds(const Case& it, const char* part, const Sums& want, const Table& table, Job j,
           void (*run)(const Table&, Job, int)) {
  const int64_t count = int64_t(want.value.size());
  Buffer result(it.type, count, it.aligned), again(it.type, count, it.aligned);
  j.result = result.data();
  run(table, j, 1);
  const int64_t wrong = first_wrong(it.type, want, result);
  if (wrong >= 0) {
    std::printf("%s of %s: entry %lld is %.9g, not %.9g\n  %s\n", part, name_of(it.type),
                (long long)wrong, result[wrong], double(want.value[size_t(wrong)]), it.what.c_str());
    return false;
  }
  j.result = again.data();
  run(table, j, it.threads);
  if (!std::memcmp(result.data(), again.data(), size_t(result.bytes()))) return true;
  std::printf("%s of %s: other bits from %d threads than from one\n  %s\n", part,
              name_of(it.type), it.threads, it.what.c_str());
  return false;
}

}  // namespace check
