// A recommender as it is at one moment, or what changed of it, copied while others have it learn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "fastinc/recommender.h"
#include "store/table_copy.h"

namespace fastinc {

/// Tables, histories and features are copied piece by piece, the model's mutex held for a piece at a time;
/// then what was learned meanwhile, while nobody learns: what the copy is then is the model at that moment.
class ModelCopy {
 public:
  /// All that changed since the mark, or everything. Throws std::bad_alloc, as all that follows.
  ModelCopy(const Recommender& model, std::shared_ptr<const RecommenderMark> since, bool with_tables = true);

  /// Most of it but the rows. The caller doesn't hold the model's mutex.
  void prepare();
  /// The rest of it. The caller holds it, exclusively where there are tables.
  void begin();
  /// The rows. After begin(), once.
  RecommenderChange take();

 private:
  /// The items that a user took between two looks.
  struct Run {
    std::uint32_t user, count;
    std::size_t begin;
  };

  void start(std::shared_ptr<const RecommenderMark> since);
  /// One piece, from user `begin` on. Returns the user to go on with.
  std::size_t copy_histories(std::size_t begin, std::size_t most_users, std::size_t most_entries);
  void copy_features();
  void copy_anchors(std::size_t table);
  void finish_catalogue();
  void finish_counters();
  void take_histories(RecommenderChange& change);
  bool is_whole() const { return since_ == nullptr; }

  const Recommender& model_;
  const bool with_tables_;
  std::shared_ptr<const RecommenderMark> since_;  // null: nothing is held
  std::vector<std::unique_ptr<TableCopy>> tables_;
  std::shared_ptr<RecommenderMark> mark_;  // what the copy has, so far
  RecommenderChange change_;
  std::vector<Run> runs_;
};

}  // namespace fastinc
