// Work shared among the threads of torch's own OpenMP pool.
//
// Nothing is linked: torch has loaded an OpenMP runtime for all to see, and its entry points are
// looked up by name. A second runtime would bring a second pool of threads. Where none is found
// the work is done by the calling thread.
#pragma once

#include <atomic>
#include <cstdint>

#ifdef SYMCONV_STD_THREADS  // for thread checkers, which cannot see into an OpenMP runtime
#include <thread>
#include <vector>
#else
#include <dlfcn.h>
#endif

namespace symconv {

template <class Work>
struct Team {
  const Work* work;
  std::atomic<int64_t> next{0};
  std::atomic<int> arrived{0};
  int64_t chunks;

  static void enter(void* team) { static_cast<Team*>(team)->run(); }
  void run() {
    const int worker = arrived.fetch_add(1);
    for (int64_t chunk; (chunk = next.fetch_add(1)) < chunks;) (*work)(chunk, worker);
  }
};

typedef void (*Fork)(void (*)(void*), void*, unsigned, unsigned);

inline Fork fork_of_torch() {
#ifdef SYMCONV_STD_THREADS
  return nullptr;
#else
  static const Fork found = (Fork)dlsym(RTLD_DEFAULT, "GOMP_parallel");
  return found;
#endif
}

// Calls work(chunk, worker) once for each chunk; a worker takes the next chunk when it is free, so
// that one that was held up holds up no other. What a chunk computes does not depend on the worker.
template <class Work>
void parallel(int64_t chunks, int threads, const Work& work) {
  Team<Work> team;
  team.work = &work;
  team.chunks = chunks;
  if (chunks < threads) threads = int(chunks);
#ifdef SYMCONV_STD_THREADS
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(Team<Work>::enter, &team);
  team.run();
  for (auto& other : others) other.join();
#else
  if (threads > 1 && fork_of_torch())
    fork_of_torch()(Team<Work>::enter, &team, unsigned(threads), 0);
  else
    team.run();
#endif
}

}  // namespace symconv
