#include "support/failing_new.h"

#include <cstdint>
#include <cstdlib>
#include <new>

namespace fastinc::test {
namespace {

constexpr std::int64_t kNever = INT64_MAX / 2;
std::atomic<std::int64_t> allowed_left{kNever};

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (allowed_left.load(std::memory_order_relaxed) < kNever && allowed_left.fetch_sub(1) <= 0) {
    throw std::bad_alloc();
  }
  const std::size_t rounded = (bytes == 0 ? 1 : bytes + alignment - 1) / alignment * alignment;
  void* const memory = alignment <= alignof(std::max_align_t) ? std::malloc(bytes == 0 ? 1 : bytes)
                                                              : std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

FailingNew::FailingNew(std::size_t allowed) {
  allowed_left = static_cast<std::int64_t>(allowed);
}

FailingNew::~FailingNew() {
  allowed_left = kNever;
}

}  // namespace fastinc::test

// All forms: sanitizers have versions of their own of those left out, and tell who mixes them.
using fastinc::test::allocate;

void* operator new(std::size_t bytes) {
  return allocate(bytes, alignof(std::max_align_t));
}
void* operator new[](std::size_t bytes) {
  return allocate(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return allocate(bytes, alignof(std::max_align_t));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new[](std::size_t bytes, const std::nothrow_t& nothrow) noexcept {
  return operator new(bytes, nothrow);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
