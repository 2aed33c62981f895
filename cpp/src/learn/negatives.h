// Items to tell an event's item from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fastinc/history.h"
#include "learn/marks.h"

namespace fastinc {

/// A group of events shares its draw; each event leaves out what its user had lately.
class Negatives {
 public:
  Negatives(std::size_t count, std::uint64_t seed) : count_(count), seed_(seed) {}

  /// Room to draw from items 0 .. items - 1: what follows can't fail.
  void reserve(std::size_t items);
  /// Items uniformly and without repeats; all of them where there are not enough. `draw` seeds it.
  void draw(std::size_t items, std::uint64_t draw);
  /// Append those that are neither the item nor among the user's recent ones.
  void append(const Histories& histories, std::int64_t user, std::int64_t item,
              std::vector<std::uint32_t>& out);

  std::size_t bytes() const { return drawn_.capacity() * sizeof(std::uint32_t) + marks_.bytes(); }

 private:
  std::size_t count_;
  std::uint64_t seed_;
  std::vector<std::uint32_t> drawn_;
  Marks marks_;
};

}  // namespace fastinc
