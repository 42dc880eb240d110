// Large blocks of memory, kept for the next call: fresh pages cost more than the arithmetic.
//
// A block of a mebibyte or more is mapped on its own and asks for huge pages, which take a fraction
// of the time to bring in. What is given back stays for the next who asks, but blocks in use and
// blocks kept together never take more than blocks in use once took at most: a training step holds
// no more than without, and its gradients lie where the last step's lay. What nobody asked for in
// `patience` calls is given back to the system.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace symconv {

class Memory {
 public:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };

  static constexpr uint64_t patience = 256;
  static constexpr size_t large = size_t(1) << 20;

  Block take(size_t bytes) {
    Block found;
    std::vector<Block> dropped;
    {
      std::lock_guard<std::mutex> lock(guard_);
      ++calls_;
      for (size_t i = kept_.size(); i-- > 0 && !found.data;)
        if (kept_[i].block.bytes >= bytes && kept_[i].block.bytes / 2 <= bytes + page)
          found = remove(i);
      in_use_ += found.data ? found.bytes : size(bytes);
      if (in_use_ > most_) most_ = in_use_;
      while (!kept_.empty() &&
             (in_use_ + total_ > most_ || calls_ - kept_.front().since > patience))
        dropped.push_back(remove(0));
    }
    for (const Block& old : dropped) unmap(old);
    if (found.data) return found;
    try {
      return map(bytes);
    } catch (...) {
      std::lock_guard<std::mutex> lock(guard_);
      in_use_ -= size(bytes);
      throw;
    }
  }

  void give(Block block) {
    std::lock_guard<std::mutex> lock(guard_);
    in_use_ -= block.bytes;
    total_ += block.bytes;
    kept_.push_back({block, calls_});
  }

  size_t kept() {
    std::lock_guard<std::mutex> lock(guard_);
    return total_;
  }

  // Gives all that is kept back to the system, and forgets how much was in use.
  void release() {
    std::vector<Kept> dropped;
    {
      std::lock_guard<std::mutex> lock(guard_);
      dropped.swap(kept_);
      total_ = 0;
      most_ = in_use_;
    }
    for (const Kept& old : dropped) unmap(old.block);
  }

 private:
  static constexpr size_t page = 4096, huge = size_t(2) << 20;

  struct Kept {
    Block block;
    uint64_t since;
  };

  Block remove(size_t i) {
    Block block = kept_[i].block;
    kept_.erase(kept_.begin() + ptrdiff_t(i));
    total_ -= block.bytes;
    return block;
  }

  static size_t size(size_t bytes) {
    const size_t unit = bytes < large ? page : huge;
    return (bytes + unit - 1) / unit * unit;
  }

  static Block map(size_t wanted) {
    size_t bytes = size(wanted);
    if (wanted < large) {
      void* data = std::aligned_alloc(64, bytes);
      if (!data) throw std::bad_alloc();
      return {data, bytes};
    }
    // Room to begin at a huge page; what lies before and after is given back at once.
    char* all = (char*)mmap(nullptr, bytes + huge, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    char* data = (char*)((uintptr_t(all) + huge - 1) / huge * huge);
    if (data > all) munmap(all, size_t(data - all));
    if (data + bytes < all + bytes + huge) munmap(data + bytes, size_t(all + huge - data));
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return {data, bytes};
  }

  static void unmap(Block block) {
    if (block.bytes < large)
      std::free(block.data);
    else
      munmap(block.data, block.bytes);
  }

  std::mutex guard_;
  std::vector<Kept> kept_;  // the oldest first
  size_t total_ = 0, in_use_ = 0, most_ = 0;
  uint64_t calls_ = 0;
};

inline Memory& memory() {
  static Memory* pool = new Memory;  // never destroyed: tensors may outlive the interpreter
  return *pool;
}

// Scratch of one call.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : block_(memory().take(bytes ? bytes : 1)) {}
  ~Scratch() { memory().give(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data() const { return (char*)block_.data; }

 private:
  Memory::Block block_;
};

}  // namespace symconv
