// Allocations that fail when a test says so.
#pragma once

#include <atomic>
#include <cstddef>

namespace fastinc::test {

/// Every operator new of the process, in all threads, after `allowed` more of them throws std::bad_alloc, for
/// as long as this lives.
class FailingNew {
 public:
  explicit FailingNew(std::size_t allowed);
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;
};

}  // namespace fastinc::test
