// What a table promises, from the standard library's parts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "fastinc/initializer.h"
#include "support/reference_update.h"

namespace fastinc::test {

using Ids = std::vector<std::int64_t>;

inline Ids sorted(Ids ids) {
  std::sort(ids.begin(), ids.end());
  return ids;
}

class TableModel {
 public:
  TableModel(const OptimizerParams& params, std::size_t dim, const Initializer& init)
      : params_(params), init_(init), dim_(dim) {}

  void update(const Ids& ids, const std::vector<float>& grads) {
    if (ids.empty()) return;
    ++version_;
    Rows dense(params_, 0, dim_);
    std::unordered_map<std::int64_t, std::int64_t> number;
    Ids numbers, distinct;
    for (const std::int64_t id : ids) {
      const auto [it, added] = number.try_emplace(id, static_cast<std::int64_t>(number.size()));
      if (added) distinct.push_back(id);
      numbers.push_back(it->second);
    }
    for (const std::int64_t id : distinct) append(dense, row(id));
    reference_update(params_, dense, std::span<const std::int64_t>(numbers), grads.data());
    for (std::size_t r = 0; r < distinct.size(); ++r) write(distinct[r], extract(dense, r));
  }
  void load(const Ids& ids, const std::vector<float>& vectors) {
    if (ids.empty()) return;
    ++version_;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      Rows fresh(params_, 1, dim_);
      std::copy_n(vectors.begin() + static_cast<std::ptrdiff_t>(i * dim_), dim_, fresh.weights.begin());
      write(ids[i], fresh);
    }
  }
  std::size_t remove(const Ids& ids) {
    std::size_t gone = 0;
    for (const std::int64_t id : ids) {
      if (rows_.erase(id) == 0) continue;
      versions_.erase(id);
      removed_[id] = version_ + 1;
      ++gone;
    }
    version_ += gone > 0;
    return gone;
  }
  std::vector<float> lookup(const Ids& ids) const {
    std::vector<float> out;
    for (const std::int64_t id : ids) {
      const std::vector<float> weights = row(id).weights;
      out.insert(out.end(), weights.begin(), weights.end());
    }
    return out;
  }
  /// Ascending, as are the next two.
  Ids ids() const {
    Ids ids;
    for (const auto& [id, unused] : rows_) ids.push_back(id);
    return sorted(ids);
  }
  Ids since(const std::unordered_map<std::int64_t, std::uint64_t>& versions, std::uint64_t version) const {
    Ids ids;
    for (const auto& [id, written] : versions) {
      if (written > version) ids.push_back(id);
    }
    return sorted(ids);
  }
  Ids updated_since(std::uint64_t version) const { return since(versions_, version); }
  Ids removed_since(std::uint64_t version) const { return since(removed_, version); }
  bool contains(std::int64_t id) const { return rows_.count(id) > 0; }
  std::uint64_t version() const { return version_; }

 private:
  Rows row(std::int64_t id) const {
    if (const auto it = rows_.find(id); it != rows_.end()) return it->second;
    Rows fresh(params_, 1, dim_);
    start_row(init_, id, fresh.weights.data(), dim_);
    return fresh;
  }
  void write(std::int64_t id, const Rows& row) {
    rows_.insert_or_assign(id, row);
    versions_[id] = version_;
    removed_.erase(id);
  }
  static void append(Rows& to, const Rows& row) {
    ++to.count;
    to.weights.insert(to.weights.end(), row.weights.begin(), row.weights.end());
    to.state0.insert(to.state0.end(), row.state0.begin(), row.state0.end());
    to.state1.insert(to.state1.end(), row.state1.begin(), row.state1.end());
    to.row_state.insert(to.row_state.end(), row.row_state.begin(), row.row_state.end());
  }
  Rows extract(const Rows& from, std::size_t r) const {
    Rows row(params_, 1, dim_);
    const auto copy = [&](const std::vector<float>& source, std::vector<float>& target) {
      std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(r * target.size()), target.size(),
                  target.begin());
    };
    copy(from.weights, row.weights);
    copy(from.state0, row.state0);
    copy(from.state1, row.state1);
    copy(from.row_state, row.row_state);
    return row;
  }

  OptimizerParams params_;
  Initializer init_;
  std::size_t dim_;
  std::unordered_map<std::int64_t, Rows> rows_;
  std::unordered_map<std::int64_t, std::uint64_t> versions_, removed_;
  std::uint64_t version_ = 0;
};

}  // namespace fastinc::test
