// The last H items of every user, in bounded memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fastinc {

struct HistoryEntry {
  std::int32_t item;
  double time;
};

class Histories {
 public:
  explicit Histories(std::size_t capacity) : capacity_(capacity) {}

  std::size_t capacity() const { return capacity_; }
  /// Users 0 .. size() - 1 have a (possibly empty) history.
  std::size_t size() const { return users_.size(); }

  /// Items held for a user: at most capacity(); 0 for an unknown user.
  std::size_t length(std::int64_t user) const {
    return known(user) ? users_[static_cast<std::size_t>(user)].entries.size() : 0;
  }

  /// The l-th most recent entry, 0 <= l < length(user).
  const HistoryEntry& recent(std::int64_t user, std::size_t l) const {
    const User& u = users_[static_cast<std::size_t>(user)];
    const std::size_t n = u.entries.size();
    return u.entries[(u.next + n - 1 - l) % n];
  }

  void ensure_user(std::int64_t user) {
    const std::size_t count = static_cast<std::size_t>(user) + 1;
    if (count > pushes_.size()) pushes_.resize(count);
    if (count > users_.size()) users_.resize(count);
  }

  /// (users,) how often push() was called for each, modulo 2^32.
  std::span<const std::uint32_t> pushes() const { return pushes_; }

  /// Room for more entries of a user: so many push() can't fail.
  void reserve(std::int64_t user, std::size_t more = 1) {
    ensure_user(user);
    std::vector<HistoryEntry>& entries = users_[static_cast<std::size_t>(user)].entries;
    const std::size_t wanted = std::min(capacity_, entries.size() + more);
    if (entries.capacity() >= wanted) return;
    entries.reserve(std::min(capacity_, std::max({wanted, 2 * entries.size(), std::size_t{4}})));
  }

  void push(std::int64_t user, std::int64_t item, double time) {
    ensure_user(user);
    ++pushes_[static_cast<std::size_t>(user)];
    User& u = users_[static_cast<std::size_t>(user)];
    const HistoryEntry entry{static_cast<std::int32_t>(item), time};
    if (u.entries.size() < capacity_) {
      u.entries.push_back(entry);  // not full yet: entries are in order and next stays 0
    } else {
      u.entries[u.next] = entry;
      u.next = static_cast<std::uint32_t>((u.next + 1) % capacity_);
    }
  }

  std::size_t bytes() const {
    std::size_t total = users_.capacity() * sizeof(User) + pushes_.capacity() * sizeof(std::uint32_t);
    for (const User& u : users_) total += u.entries.capacity() * sizeof(HistoryEntry);
    return total;
  }

  /// Forget the users from `size` on.
  void truncate(std::size_t size) {
    if (size < users_.size()) users_.resize(size);
    if (size < pushes_.size()) pushes_.resize(size);
  }
  void clear() { truncate(0); }

 private:
  struct User {
    std::vector<HistoryEntry> entries;
    std::uint32_t next = 0;  // where the oldest entry is once the ring is full
  };
  bool known(std::int64_t user) const { return user >= 0 && static_cast<std::size_t>(user) < users_.size(); }

  std::size_t capacity_;
  std::vector<User> users_;
  std::vector<std::uint32_t> pushes_;  // by user
};

}  // namespace fastinc
