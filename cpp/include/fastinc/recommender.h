// The online embedding recommender: a user is what they did lately (and, if wanted, a vector of their own),
// an item is a vector and a bias, and the score is one inner product. Learns groups of events, or one at a
// time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fastinc/item_features.h"
#include "fastinc/optimizer.h"
#include "fastinc/schedule.h"
#include "fastinc/stream_model.h"
#include "fastinc/table.h"

namespace fastinc {

class Catalogue;
class EventGroup;
class ItemFeatures;
class ModelTables;
struct Snapshot;
class UserQuery;

enum class UserModel : std::uint8_t { kHistory, kVector, kBoth };
enum class Loss : std::uint8_t { kSoftmax, kBpr, kLogistic, kMse };

struct RecommenderConfig {
  std::size_t dim = 64;
  UserModel user = UserModel::kHistory;
  Loss loss = Loss::kSoftmax;
  std::size_t negatives = 200;           // sampled per event, distinct
  double popular_negatives = 0.0;        // the share of them drawn from the items of the last 65,536 events
  std::optional<double> hard_negatives;  // of those, only the ones scored so many deviations above their mean
  std::size_t window = 20;               // most recent items in the user's sum
  std::size_t history_size = 1000;       // items kept per user
  double recency_exponent = 0.7;         // the l-th most recent item weighs l^-recency_exponent
  double time_scale = 0.0;  // seconds; item l also weighs 1 / (1 + age / time_scale); 0: age doesn't count
  double context_lr_scale = 1.0;  // the learning rate of X is this share of the optimizer's; 0: there is no X
  double tie_weight = 0.0;        // item l of the window also counts by its own vector, weighed by this
  std::size_t long_window = 0;    // most recent items in the long-term sum; 0: none
  double long_weight = 0.5;       // of the long-term sum
  bool situations = false;        // vectors for how many items there were and how long ago the last was
  std::size_t hidden = 0;         // units of the residual network; 0: none
  double hidden_lr_scale = 1.0 / 6.0;  // its learning rate is this share of the optimizer's
  double init_std = 0.05;
  std::size_t max_influence = 0;       // events of a user with an item that are learned ...
  double influence_window = 86'400.0;  // ... within so many seconds; 0: all
  std::size_t trusted_after = 0;       // other items that a user has had before their events are learned
  double max_grad_norm = 0.0;          // of a row's step; longer ones are shortened to it; 0: none are
  double anchor = 0.0;                 // how strongly rows are pulled to their anchors; 0: there are none
  std::size_t feature_numbers = 0, feature_buckets = 0;  // of items; none: start vectors are random
  double feature_lr_scale = 1.0;  // the map's learning rate is this share of the optimizer's
  std::size_t explore_below = 5;  // items of fewer events are new: lists may explore them
  std::size_t batch_size = 1;     // events learned together: a power of two
  std::uint64_t seed = 0;
  Schedule schedule;  // of the learning rates, by event_count()
};

/// Rows of a table that are pulled to where they were.
struct AnchorState {
  std::vector<std::uint32_t> rows;  // (n,) each once
  std::vector<float> values;        // (n, dim)
};

/// Histories and counters of a recommender, for checkpoints; its tables export themselves.
struct RecommenderState {
  std::vector<std::int64_t> history_offsets;  // (users + 1,)
  std::vector<std::int32_t> history_items;    // oldest first
  std::vector<double> history_times;
  std::uint64_t item_count = 0, event_count = 0, skipped = 0;
  double latest_time = 0.0, label_sum = 0.0, label_count = 0.0;
  double boost = 1.0;
  std::uint64_t boost_until = 0;
  bool frozen = false;
  std::uint64_t limited = 0, explored = 0;
  std::vector<std::uint32_t> item_events, seen_items;  // (items,) and those of them with events, by first
  std::vector<std::uint32_t> last_items;               // of the last events, for popular negatives
  FeatureState features;
  std::vector<AnchorState> anchors;  // of each table, as Recommender::tables() has them; or none
};

/// Where a follower of a recommender is: what it holds of it.
struct RecommenderMark {
  std::uint64_t identity = 0;              // of the state that the model was set to
  std::vector<TableMark> tables;           // as Recommender::tables() has them
  std::vector<std::uint32_t> pushes;       // items that each user has had
  std::vector<std::uint32_t> item_events;  // of each item
  std::size_t seen = 0;                    // items that had events
  std::uint64_t last = 0, features = 0;    // what the last items and the features count
  std::vector<std::uint8_t> given;         // by item
  std::vector<std::uint64_t> anchors;      // what those of each table count
};

/// What became of a recommender since a mark. Where it isn't whole: of `state`, the counters are all there
/// are, histories are of history_users and what they had since, item_events of changed_items, and seen_items
/// and last_items are those that came; features are those set since.
struct RecommenderChange {
  bool whole = true;
  RecommenderState state;
  std::size_t user_count = 0;
  std::vector<std::int64_t> history_users;   // (n,) whose histories these are; offsets: (n + 1,)
  std::vector<std::uint32_t> changed_items;  // (n,)
  bool given_changed = true;                 // features.given are all that there are
  std::vector<bool> anchors_changed;         // of each table: they are all that there are
  std::vector<TableChange> tables;           // as Recommender::tables() has them
  std::shared_ptr<const RecommenderMark> mark;
};

/// What a score is the sum of.
struct Explanation {
  std::vector<std::int64_t> items;  // (n,) of the user's history, the most recent first
  std::vector<double> shares;       // (n,) of each
  double bias = 0.0;                // of the item
  double user = 0.0;                // of the user's own vector
  double situation = 0.0;           // of how many items there were and how long ago the last was
  double network = 0.0;             // what the network adds
  double offset = 0.0;              // what labelled losses start from
};

/// With h the user's last items, most recent first, at times t_l, V and b the vectors and biases of items:
///   q0 = sum_{l <= window} w_l (X[h_l] + tie_weight V[h_l])
///      + long_weight / sqrt(L) sum_{l <= L} Y[h_l],  L = min(long_window, length of h)
///      + S[0] + S[stage] + S[gap]  (+ U[user])
///   w_l = l^-recency_exponent / (1 + (t - t_l) / time_scale)
///   q = q0 + W2 relu(W1 q0 + b1);  score(j) = <q, V_j> + b_j (+ offset for logistic and mse)
/// stage: bit length of the length of h; gap: bit length of t - t_1, in whole seconds. W2, S and b1 start at
/// 0, and so does X where it has tie_weight V beside it. Losses: softmax over the target and the negatives,
/// whose logits get + log((items - 1) / negatives), or nothing where hard_negatives picks them (users without
/// a history have all of them); bpr: -mean log sigmoid(s_target - s_negative); logistic on the label (or 1
/// against the negatives' 0); mse on the label. Events are learned batch_size at a time, those of a call
/// whose number, from 0, is in the same multiple of it: all scored against the rows as they were before the
/// first, with histories as of each event; then every row takes one optimizer step with the sum of its
/// gradients. Events that max_influence or trusted_after rule out are remembered and not learned. An event's
/// negatives are drawn from the items seen, its own and its user's last 100 left out.
///
/// An item with features f (1, its numbers, 1 for each of its categories' buckets) starts as V_j, b_j = F f.
/// Each event learned is also one of some item that has features and has been seen, drawn uniformly: F takes
/// a step down half the square of F f - (V_j, b_j), over |f|^2. Until its first event an item follows F,
/// unless its vector was given.
///
/// With anchors a step of row w also goes down anchor / 2 |w - a|^2, a being the row when set_anchor() was
/// called last, or as it was given since: gradient anchor (w - a) on top of the data's, after max_grad_norm.
class Recommender : public StreamModel {
 public:
  Recommender(const RecommenderConfig& config, std::shared_ptr<Optimizer> optimizer);
  ~Recommender() override;

  void check(const EventBatch& events) const override;
  void learn(const EventBatch& events) override;

  /// Make items known before their first event, or give features to known ones. items: (n,) codes; features:
  /// of the same items, or empty. An item without events starts again from its features. Throws
  /// std::invalid_argument, unchanged.
  void add_items(std::span<const std::int64_t> items, const FeatureBatch& features);

  /// Items have these vectors and biases, and fresh optimizer state, in one version of their table; unknown
  /// ones become known. With anchors, that is what they are pulled to. Of equal items the last wins. items:
  /// (n,) codes; vectors: (n, dim); biases: (n,) or null: 0. Throws std::invalid_argument, unchanged.
  void warm_start(std::span<const std::int64_t> items, const float* vectors, const float* biases);
  /// What it would throw for these. vectors: (n, dim); biases: (n,) or null
  void check_vectors(std::size_t n, const float* vectors, const float* biases) const;
  /// From the next event on every row is pulled to where it is now; those made later aren't. Throws
  /// std::invalid_argument, unchanged, where config().anchor is 0.
  void set_anchor();

  void score_items(std::int64_t user, double time, std::span<float> scores) const override;
  /// The same answers by an exact search of the items' int8 rows, where there are many.
  void recommend(std::span<const std::int64_t> users, std::size_t k, double time, bool exclude_seen,
                 std::span<const std::int64_t> excluded, float* scores, std::int64_t* items) const override;
  /// recommend(), and then every place of a list goes to a new item with probability `share`: the last ones,
  /// in order of score. Half of them are drawn from those new ones that the list may have, the others the
  /// best of four drawn.
  void explore(std::span<const std::int64_t> users, std::size_t k, double time, bool exclude_seen,
               std::span<const std::int64_t> excluded, double share, float* scores,
               std::int64_t* items) const;
  /// Items of fewer than explore_below events.
  std::size_t new_item_count() const;
  /// Events that items had, 0 for unknown ones. items, out: (n,)
  void item_events(std::span<const std::int64_t> items, std::int64_t* out) const;

  Prediction prediction() const override;
  float predict_label(std::int64_t user, std::int64_t item, double time) const override;

  /// score per pair, as a probability for logistic, in label units for mse. users, items, out: (n,)
  void predict(std::span<const std::int64_t> users, std::span<const std::int64_t> items, double time,
               float* out) const;

  /// The parts of a score; all but the offset are 0 for an unknown item.
  Explanation explain(std::int64_t user, std::int64_t item, double time) const;

  /// Nearest items by cosine of V, the item itself left out. items: (n,) -> scores, codes: (n, k) padded
  /// -inf, -1
  void similar_items(std::span<const std::int64_t> items, std::size_t k, float* scores,
                     std::int64_t* codes) const;

  /// out: (dim + 1,): q and a 1, so that <out, item row> is the score
  void user_vector(std::int64_t user, double time, float* out) const;

  const RecommenderConfig& config() const { return config_; }
  /// Rows (dim + 1): V and b. Keyed by item code.
  const std::shared_ptr<Table>& items() const;
  /// All tables by name, those of parts that are off without rows; only the model writes them.
  std::vector<std::pair<std::string, std::shared_ptr<Table>>> tables() const;
  std::uint64_t skipped_events() const { return skipped_; }
  /// Events that max_influence and trusted_after ruled out.
  std::uint64_t limited_events() const { return limited_; }

  /// The next event's learning rate is the optimizer's times this: the schedule and, if there is one, a
  /// boost.
  double lr_factor() const;
  /// The next `events` events learn at `factor` times the rate, in the place of a boost before. Throws
  /// std::invalid_argument for a factor that isn't finite and > 0.
  void boost_lr(double factor, std::uint64_t events);
  /// While frozen, events are remembered (histories, counters, rows for what is new), and nothing is learned.
  bool frozen() const { return frozen_; }
  void set_frozen(bool frozen) { frozen_ = frozen; }

  std::shared_ptr<const Snapshot> snapshot() const;
  /// Every row becomes what it was; those made since start again. Histories and counters stay, and versions
  /// move on. Throws std::invalid_argument, unchanged, for another model's.
  void restore(const Snapshot& from);

  /// Of one moment, copied while others have the model learn: this one takes `mutex` itself. since: null for
  /// everything.
  RecommenderChange export_change(std::shared_ptr<const RecommenderMark> since) const;
  /// Where one is who holds all of the model.
  std::shared_ptr<const RecommenderMark> mark() const;
  /// Take in a change that isn't whole, of a model in this one's state: see Table::apply. Throws
  /// std::invalid_argument, unchanged, where the parts don't fit together.
  void apply(const RecommenderChange& change, Table::Versions versions);

  RecommenderState export_state() const;
  /// Call after the tables' import_state. Throws std::invalid_argument, unchanged, when parts don't fit.
  void import_state(const RecommenderState& state);

  std::vector<std::pair<std::string, std::size_t>> memory_usage() const;

 private:
  double offset() const;
  void reserve(const EventBatch& events);
  void learn_group(const EventBatch& events);
  bool may_teach(std::int64_t user, std::int64_t item, double time);
  void start_items(std::span<std::uint32_t> items) noexcept;
  void restart_unseen(std::size_t events) noexcept;
  void append_history(std::int64_t user, std::vector<std::int64_t>& out) const;
  friend class ModelCopy;
  static std::uint64_t new_identity();
  void set_counters(const RecommenderState& state) noexcept;
  void check_change(const RecommenderChange& change, Table::Versions versions) const;
  void check_features(const RecommenderState& state) const;
  void apply_features(const RecommenderChange& change);
  Catalogue catalogue_of(const RecommenderState& state) const;
  ItemFeatures features_of(const RecommenderState& state) const;

  const RecommenderConfig config_;
  std::unique_ptr<ModelTables> tables_;
  std::unique_ptr<UserQuery> query_;
  std::unique_ptr<Catalogue> catalogue_;
  std::unique_ptr<ItemFeatures> features_;
  std::vector<std::uint32_t> starting_;             // scratch
  mutable std::atomic<std::uint64_t> explored_{0};  // seeds what is drawn
  std::uint64_t skipped_ = 0, limited_ = 0;
  std::vector<std::int32_t> others_;  // scratch
  double label_sum_ = 0.0, label_count_ = 0.0;
  std::unique_ptr<EventGroup> group_;
  double boost_ = 1.0;
  std::uint64_t boost_until_ = 0;  // the first event that isn't boosted
  bool frozen_ = false;
  std::atomic<std::uint64_t> identity_;  // which codes are whose: new for every state the model is set to
};

}  // namespace fastinc
