#include "fastinc/id_map.h"

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <deque>
#include <stdexcept>
#include <string>

namespace fastinc {

namespace {

/// Strings that never move: keys of the map point into it.
class Arena {
 public:
  std::string_view copy(std::string_view text) {
    if (blocks_.empty() || blocks_.back().capacity() - blocks_.back().size() < text.size()) {
      blocks_.emplace_back();
      blocks_.back().reserve(std::max(kBlock, text.size()));
      bytes_ += blocks_.back().capacity();
    }
    std::string& block = blocks_.back();
    const std::size_t at = block.size();
    block.append(text);  // within capacity: nothing moves
    return {block.data() + at, text.size()};
  }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t kBlock = std::size_t{1} << 16;
  std::deque<std::string> blocks_;
  std::size_t bytes_ = 0;
};

}  // namespace

struct IdMap::Impl {
  boost::unordered_flat_map<std::string_view, std::int64_t> codes;
  std::vector<std::string_view> keys;
  Arena arena;
};

IdMap::IdMap() : impl_(std::make_unique<Impl>()) {}
IdMap::~IdMap() = default;

std::size_t IdMap::size() const {
  return impl_->keys.size();
}

std::int64_t IdMap::find(std::string_view key) const {
  const auto it = impl_->codes.find(key);
  return it == impl_->codes.end() ? -1 : it->second;
}

std::int64_t IdMap::find_or_add(std::string_view key) {
  if (const std::int64_t known = find(key); known >= 0) return known;
  const auto code = static_cast<std::int64_t>(impl_->keys.size());
  impl_->keys.reserve(impl_->keys.size() + 1 > impl_->keys.capacity() ? 2 * impl_->keys.size() + 16
                                                                      : impl_->keys.capacity());
  const std::string_view stored = impl_->arena.copy(key);
  impl_->codes.emplace(stored, code);
  impl_->keys.push_back(stored);
  return code;
}

std::string_view IdMap::key(std::int64_t code) const {
  if (code < 0 || static_cast<std::size_t>(code) >= impl_->keys.size()) {
    throw std::out_of_range("code = " + std::to_string(code) + " is not in a map of " +
                            std::to_string(impl_->keys.size()));
  }
  return impl_->keys[static_cast<std::size_t>(code)];
}

void IdMap::truncate(std::size_t size) {
  while (impl_->keys.size() > size) {
    impl_->codes.erase(impl_->keys.back());
    impl_->keys.pop_back();
  }
}

std::size_t IdMap::bytes() const {
  return impl_->arena.bytes() + impl_->keys.capacity() * sizeof(std::string_view) +
         impl_->codes.bucket_count() * (sizeof(std::pair<std::string_view, std::int64_t>) + 1);
}

}  // namespace fastinc
