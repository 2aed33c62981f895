// Zeroed memory that takes room only where it was touched, in huge pages where the system has them.
#pragma once

#include <cstddef>

namespace fastinc {

/// Memory that is about to be touched, all of it, would do well with huge pages. A wish: it may fail.
void advise_huge_pages(void* data, std::size_t bytes) noexcept;

class LazyMemory {
 public:
  LazyMemory() = default;
  /// Throws std::bad_alloc. Small uses of the memory don't take a huge page: its first 2 MiB are ordinary
  /// unless `huge_from_start`.
  explicit LazyMemory(std::size_t bytes, bool huge_from_start = false);
  ~LazyMemory();
  LazyMemory(LazyMemory&& other) noexcept;
  LazyMemory& operator=(LazyMemory&& other) noexcept;
  LazyMemory(const LazyMemory&) = delete;
  LazyMemory& operator=(const LazyMemory&) = delete;

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace fastinc
