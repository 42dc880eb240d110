// Large blocks of memory, some kept for the next call: fresh pages cost more than the arithmetic.
//
// A block of a mebibyte or more is mapped on its own and asks for huge pages, which take a fraction
// of the time to bring in. What is given back stays, up to `most_kept` bytes in all.
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

  static constexpr size_t most_kept = size_t(16) << 20;
  static constexpr size_t large = size_t(1) << 20;

  Block take(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(guard_);
      for (size_t i = kept_.size(); i-- > 0;)
        if (kept_[i].bytes >= bytes && kept_[i].bytes / 2 <= bytes + page) {
          Block found = kept_[i];
          kept_.erase(kept_.begin() + i);
          total_ -= found.bytes;
          return found;
        }
    }
    return map(bytes);
  }

  void give(Block block) {
    std::vector<Block> dropped;
    {
      std::lock_guard<std::mutex> lock(guard_);
      kept_.push_back(block);
      total_ += block.bytes;
      while (total_ > most_kept) {  // the oldest first
        dropped.push_back(kept_.front());
        total_ -= kept_.front().bytes;
        kept_.erase(kept_.begin());
      }
    }
    for (const Block& old : dropped) unmap(old);
  }

  size_t kept() {
    std::lock_guard<std::mutex> lock(guard_);
    return total_;
  }

 private:
  static constexpr size_t page = 4096, huge = size_t(2) << 20;

  static Block map(size_t bytes) {
    if (bytes < large) {
      bytes = (bytes + page - 1) / page * page;
      void* data = std::aligned_alloc(64, bytes);
      if (!data) throw std::bad_alloc();
      return {data, bytes};
    }
    // Room to begin at a huge page; what lies before and after is given back at once.
    bytes = (bytes + huge - 1) / huge * huge;
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
  std::vector<Block> kept_;
  size_t total_ = 0;
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
