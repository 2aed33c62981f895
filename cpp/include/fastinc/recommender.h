// The online embedding recommender: a user is what they did lately (and, if wanted, a vector of their own),
// an item is a vector and a bias, and the score is one inner product. Learns one event at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fastinc/optimizer.h"
#include "fastinc/stream_model.h"
#include "fastinc/table.h"

namespace fastinc {

enum class UserModel : std::uint8_t { kHistory, kVector, kBoth };
enum class Loss : std::uint8_t { kSoftmax, kBpr, kLogistic, kMse };

struct RecommenderConfig {
  std::size_t dim = 64;
  UserModel user = UserModel::kHistory;
  Loss loss = Loss::kSoftmax;
  std::size_t negatives = 200;      // sampled per event, distinct
  std::size_t window = 20;          // most recent items in the user's sum
  std::size_t history_size = 1000;  // items kept per user
  double recency_exponent = 0.7;    // the l-th most recent item weighs l^-recency_exponent
  double time_scale = 0.0;  // seconds; item l also weighs 1 / (1 + age / time_scale); 0: age doesn't count
  double init_std = 0.05;
  std::uint64_t seed = 0;
};

/// Histories and counters of a recommender, for checkpoints; its tables export themselves.
struct RecommenderState {
  std::vector<std::int64_t> history_offsets;  // (users + 1,)
  std::vector<std::int32_t> history_items;    // oldest first
  std::vector<double> history_times;
  std::uint64_t item_count = 0, event_count = 0, skipped = 0;
  double latest_time = 0.0, label_sum = 0.0, label_count = 0.0;
};

/// With h the user's last `window` items, most recent first, X their context vectors, U the user's own
/// vector:
///   q = sum_l w_l X[h_l]  (+ U);  score(j) = <q, V_j> + b_j (+ offset for logistic and mse)
/// Losses: softmax over the target and the negatives, whose logits get + log((items - 1) / negatives);
/// bpr: -mean log sigmoid(s_target - s_negative); logistic on the label (or 1 against the negatives' 0);
/// mse on the label. One optimizer step per row and event.
class Recommender : public StreamModel {
 public:
  Recommender(const RecommenderConfig& config, std::shared_ptr<Optimizer> optimizer);
  ~Recommender() override;

  void check(const EventBatch& events) const override;
  void learn(const EventBatch& events) override;
  void score_items(std::int64_t user, double time, std::span<float> scores) const override;

  /// score per pair, as a probability for logistic, in label units for mse. users, items, out: (n,)
  void predict(std::span<const std::int64_t> users, std::span<const std::int64_t> items, double time,
               float* out) const;

  /// Nearest items by cosine of V, the item itself left out. items: (n,) -> scores, codes: (n, k) padded
  /// -inf, -1
  void similar_items(std::span<const std::int64_t> items, std::size_t k, float* scores,
                     std::int64_t* codes) const;

  /// out: (dim + 1,): q and a 1, so that <out, item row> is the score
  void user_vector(std::int64_t user, double time, float* out) const;

  const RecommenderConfig& config() const { return config_; }
  /// Rows (dim + 1): V and b. Keyed by item code.
  const std::shared_ptr<Table>& items() const { return items_; }
  const std::shared_ptr<Table>& contexts() const { return contexts_; }  // rows (dim): X
  const std::shared_ptr<Table>& users() const { return users_; }        // rows (dim): U
  std::uint64_t skipped_events() const { return skipped_; }

  RecommenderState export_state() const;
  /// Call after the tables' import_state. Throws std::invalid_argument, unchanged, when parts don't fit.
  void import_state(const RecommenderState& state);

  std::vector<std::pair<std::string, std::size_t>> memory_usage() const;

 private:
  struct Scratch;
  double offset() const;
  void begin_batch(const EventBatch& events);
  void learn_event(std::int64_t user, std::int64_t item, float label, bool labelled, double time);
  std::size_t gather_history(std::int64_t user, double time, std::uint32_t* rows, float* weights) const;
  void compute_query(std::int64_t user, double time, float* query) const;
  void sample_negatives(std::int64_t user, std::int64_t item);
  bool compute_coefficients(std::size_t n, float label, bool labelled);
  void publish_batch() noexcept;

  RecommenderConfig config_;
  std::shared_ptr<Optimizer> optimizer_;
  std::shared_ptr<Table> items_, contexts_, users_;
  std::vector<float> recency_;  // (window,) l^-recency_exponent
  std::uint64_t skipped_ = 0;
  double label_sum_ = 0.0, label_count_ = 0.0;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace fastinc
