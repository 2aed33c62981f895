#include "store/lazy_memory.h"

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#define FASTINC_HAVE_MMAP
#endif

namespace fastinc {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t bytes) {
  if (bytes > SIZE_MAX - 2 * kHugePage) throw std::bad_alloc();
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

}  // namespace

void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(FASTINC_HAVE_MMAP) && defined(MADV_HUGEPAGE)
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::size_t skip = (kHugePage - begin % kHugePage) % kHugePage;
  if (bytes >= skip + kHugePage) {
    madvise(static_cast<char*>(data) + skip, (bytes - skip) / kHugePage * kHugePage, MADV_HUGEPAGE);
  }
#endif
}

#if defined(FASTINC_HAVE_MMAP)

LazyMemory::LazyMemory(std::size_t bytes, bool huge_from_start) : bytes_(round_up(bytes)) {
  // one huge page more than needed, cut to where one begins
  const std::size_t mapped = bytes_ + kHugePage;
  void* const map = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  char* const begin = static_cast<char*>(map);
  const std::size_t skip = (kHugePage - reinterpret_cast<std::uintptr_t>(begin) % kHugePage) % kHugePage;
  if (skip > 0) munmap(begin, skip);
  if (skip < kHugePage) munmap(begin + skip + bytes_, kHugePage - skip);
  data_ = begin + skip;
#if defined(MADV_HUGEPAGE)
  // Nor is the end, where a huge page would be touched for a part of it. A wish: it may fail.
  const std::size_t ordinary = huge_from_start ? 0 : kHugePage, whole = bytes / kHugePage * kHugePage;
  if (whole > ordinary) madvise(begin + skip + ordinary, whole - ordinary, MADV_HUGEPAGE);
#else
  static_cast<void>(huge_from_start);
#endif
}

LazyMemory::~LazyMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

#else

LazyMemory::LazyMemory(std::size_t bytes, bool) : data_(std::calloc(round_up(bytes), 1)), bytes_(bytes) {
  if (data_ == nullptr) throw std::bad_alloc();
}

LazyMemory::~LazyMemory() {
  std::free(data_);
}

#endif

LazyMemory::LazyMemory(LazyMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

LazyMemory& LazyMemory::operator=(LazyMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace fastinc
