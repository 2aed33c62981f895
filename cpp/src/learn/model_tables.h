// The tables that a recommender is made of: what is in them, rows for whatever is new, and one version a
// batch.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "fastinc/optimizer.h"
#include "fastinc/recommender.h"
#include "fastinc/shared_mutex.h"
#include "fastinc/snapshot.h"
#include "fastinc/table.h"
#include "learn/anchors.h"
#include "learn/row_gradients.h"
#include "store/slot.h"

namespace fastinc {

/// Rows that items are to have, each item once. rows: (items, dim + 1)
struct GivenItems {
  std::span<const std::uint32_t> items;
  const float* rows = nullptr;
};

/// Row numbers are codes: these tables are written by their model alone, in code order.
class ModelTables {
 public:
  enum Name : std::size_t {
    kItems,       // (dim + 1): V and b, by item
    kContexts,    // (dim): X, by item
    kUsers,       // (dim): U, by user
    kLongTerms,   // (dim): Y, by item
    kSituations,  // (dim): see user_query.h
    kHiddenIn,    // (dim + 1): W1 and b1, a row for each hidden unit
    kHiddenOut,   // (dim): W2, likewise
    kFeatures,    // (dim + 1): F, which makes V and b of an item's features
    kCount
  };
  static constexpr std::array<std::string_view, kCount> kNames = {
      "items", "contexts", "users", "long_terms", "situations", "hidden_in", "hidden_out", "features"};

  ModelTables(const RecommenderConfig& config, std::shared_ptr<Optimizer> optimizer);

  const std::shared_ptr<Table>& table(Name name) const { return parts_[name].table; }
  RowStore& store(Name name) const { return parts_[name].table->store(); }

  using Locks = std::vector<std::unique_lock<SharedMutex>>;
  Locks lock() const;

  /// Make the rows that are missing for so many items and users, or none: throws std::bad_alloc. Of one
  /// version with them, the items given get their rows and fresh optimizer state.
  void grow(std::size_t items, std::size_t users, const GivenItems& given = {});
  /// Rows that a table has then.
  std::size_t rows(Name name, std::size_t items, std::size_t users) const {
    return parts_[name].rows(items, users);
  }
  /// Whether every table has the rows of so many items and users, and no others.
  bool have(std::size_t items, std::size_t users) const;

  /// make(item, row) makes items' rows, (dim + 1,), whose optimizer state starts again. Those that become
  /// others are moved to the front of `items` and are the next version. grow() has made room for them.
  void set_items(std::span<std::uint32_t> items,
                 const std::function<void(std::uint32_t, float*)>& make) noexcept;

  /// What a group of events adds up to.
  struct Steps {
    std::array<const RowGradients*, kCount> gradients{};  // null: none
    std::array<const float*, kCount> coefficients{};
    const float* directions = nullptr;
    std::size_t stride = 0;
    double lr_factor = 1.0;
  };
  /// One optimizer step for every row with a gradient; they become the next version.
  void step(const Steps& steps) noexcept;

  /// Every row is pulled to where it is now, from the next step on. Throws std::bad_alloc, unchanged.
  void set_anchors();
  /// Those of each table.
  const std::vector<Anchors>& anchors() const { return anchors_; }
  Anchors& anchors(Name name) { return anchors_[name]; }
  void replace_anchors(std::vector<Anchors> anchors) noexcept { anchors_ = std::move(anchors); }
  /// Those of a state, or none. Throws std::invalid_argument where they don't fit the tables.
  std::vector<Anchors> anchors_of(const std::vector<AnchorState>& state) const;
  /// Whether rows are pulled to anchors at all.
  bool is_anchored() const { return anchor_ > 0.0f; }

  /// All rows, as readers see them; nobody learns meanwhile. Throws std::bad_alloc.
  std::vector<Snapshot::Rows> copy_rows() const;
  /// Rows written since become what they were then, those made since start again. Throws std::bad_alloc,
  /// unchanged.
  void restore_rows(const std::vector<Snapshot::Rows>& copies);

  /// Bytes of each, by name, and of their anchors.
  std::vector<std::pair<std::string, std::size_t>> memory_usage() const;

 private:
  struct Part {
    std::shared_ptr<Table> table;
    std::size_t fixed = 0;  // rows it has from the first event on
    bool by_item = false, by_user = false;
    bool has_bias = false;  // the last value, which starts at 0
    double lr_scale = 1.0;
    std::size_t rows(std::size_t items, std::size_t users) const {
      return by_item ? items : (by_user ? users : (items > 0 ? fixed : 0));
    }
  };

  struct Chunk {
    SumStepTask task;
    float* scratch;
  };
  static constexpr std::size_t kMostChunks = 32;

  /// The rows that readers can see are the first ones: a batch that failed may have left others at the end.
  static std::size_t visible_rows(const RowStore& store);
  static void set_given(RowStore& store, const GivenItems& given, std::uint64_t version) noexcept;
  static void restore_part(Part& part, const Snapshot::Rows& copy, std::span<const Slot> written,
                           float* start) noexcept;

  std::array<Part, kCount> parts_;
  std::vector<Anchors> anchors_;  // of each
  float anchor_;                  // how strongly they pull
  std::shared_ptr<Optimizer> optimizer_;
  float max_grad_norm_;
  std::array<Chunk, kMostChunks> chunks_;
  std::vector<float> scratch_;  // (kMostChunks, dim + 1)
};

}  // namespace fastinc
