// A caller's ids (int64 or UTF-8 strings) to codes 0, 1, 2, ... in order of first appearance, and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace fastinc {

/// One map over bytes: an int64 id is its 8 bytes. A code is reused only after truncate().
class IdMap {
 public:
  IdMap();
  ~IdMap();
  IdMap(const IdMap&) = delete;
  IdMap& operator=(const IdMap&) = delete;

  std::size_t size() const;

  /// The key's code, or -1.
  std::int64_t find(std::string_view key) const;
  /// The key's code, a new one if need be.
  std::int64_t find_or_add(std::string_view key);
  /// The key of a code; 0 <= code < size()
  std::string_view key(std::int64_t code) const;

  /// Forget all codes from `size` on: what a failed batch added.
  void truncate(std::size_t size);

  std::size_t bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastinc
