// One pool of threads for the whole process; calls from many threads share it.
#pragma once

#include <cstddef>

namespace fastinc {

/// Run task(0) .. task(count - 1) on up to num_threads() threads, the caller's among them; returns when all
/// are done. When another call holds the pool the tasks run here, in order: callers never wait for each
/// other. Task is called as task(index) and must not throw.
void run_tasks(std::size_t count, void (*task)(void* context, std::size_t index) noexcept, void* context);

template <class Task>
void parallel_tasks(std::size_t count, Task&& task) {
  static_assert(noexcept(task(std::size_t{0})), "a task must be noexcept: no exceptions across threads");
  run_tasks(
      count, [](void* context, std::size_t index) noexcept { (*static_cast<Task*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(&task)));
}

/// How many threads are worth starting for this many floats of work.
std::size_t threads_for(std::size_t floats);

/// In how many parts to share out this many floats of work: 1 for one thread, else a few for each, so that
/// one that starts late, or loses its CPU for a while, leaves some of its share to the others.
std::size_t parts_for(std::size_t floats);

/// Split [0, n) evenly into at most `most` ranges: task(begin, end, range index).
template <class Task>
void parallel_parts(std::size_t n, std::size_t most, Task&& task) {
  const std::size_t parts = most < n ? most : (n > 0 ? n : 1);
  if (parts <= 1) {
    task(std::size_t{0}, n, std::size_t{0});
    return;
  }
  parallel_tasks(parts, [&](std::size_t part) noexcept {
    task(n / parts * part + (n % parts) * part / parts,
         n / parts * (part + 1) + (n % parts) * (part + 1) / parts, part);
  });
}

/// The same with parts_for(n * floats_each) ranges. Where each range needs memory of its own, ask
/// parts_for() once and use parallel_parts(): the number of threads may change at any time.
template <class Task>
void parallel_ranges(std::size_t n, std::size_t floats_each, Task&& task) {
  parallel_parts(n, parts_for(n * floats_each), task);
}

}  // namespace fastinc
