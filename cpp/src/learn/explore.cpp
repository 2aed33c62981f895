// Lists with places for new items, so that these are shown at all.
#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/kernels.h"
#include "fastinc/recommender.h"
#include "fastinc/runtime.h"
#include "learn/catalogue.h"
#include "learn/model_tables.h"
#include "learn/require.h"
#include "math/random.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kDraws = 4;   // new items that compete for a place
constexpr std::size_t kTries = 16;  // to find them
constexpr float kNothing = -std::numeric_limits<float>::infinity();

struct Scored {
  float score;
  std::int64_t item;
};

bool contains(std::span<const std::int64_t> items, std::int64_t item) {
  return std::find(items.begin(), items.end(), item) != items.end();
}

/// Puts new items into the last places of one list. Score: item -> its score for the list's user; MayHave:
/// item -> whether the list may have it.
template <class Score, class MayHave>
class ExploredList {
 public:
  ExploredList(std::span<float> scores, std::span<std::int64_t> items, std::size_t places, Score score,
               MayHave may_have)
      : scores_(scores), items_(items), score_(score), may_have_(may_have) {
    found_ = static_cast<std::size_t>(std::find(items.begin(), items.end(), -1) - items.begin());
    kept_ = std::min(found_, items.size() - places);
  }

  void fill(const NewItems& new_items, std::uint64_t key) {
    for (std::size_t place = kept_; place < items_.size(); ++place) {
      const Scored best = draw(new_items, base::random_bits(key, place));
      if (best.item >= 0) chosen_.push_back(best);
    }
    // What was to make room stays where too few were found.
    for (std::size_t j = kept_; j < found_ && kept_ + chosen_.size() < items_.size(); ++j) {
      if (!is_taken(items_[j])) chosen_.push_back({scores_[j], items_[j]});
    }
    std::stable_sort(chosen_.begin(), chosen_.end(),
                     [](const Scored& a, const Scored& b) { return a.score > b.score; });
    for (std::size_t j = 0; j < chosen_.size(); ++j) {
      scores_[kept_ + j] = chosen_[j].score;
      items_[kept_ + j] = chosen_[j].item;
    }
  }

 private:
  bool is_taken(std::int64_t item) const {
    return contains(items_.first(kept_), item) ||
           std::any_of(chosen_.begin(), chosen_.end(), [&](const Scored& one) { return one.item == item; });
  }

  /// One, or the best of a few; nothing where those that the list may have are rare. No list has scores that
  /// are NaN.
  Scored draw(const NewItems& new_items, std::uint64_t key) const {
    Scored best{kNothing, -1};
    // Every other place goes to whatever comes first: no item is shown to nobody because it starts badly.
    const std::size_t draws = base::random_bits(key, kTries) % 2 == 0 ? 1 : kDraws;
    std::size_t drawn = 0;
    for (std::uint64_t i = 0; i < kTries && drawn < draws; ++i) {
      const std::uint64_t bits = base::random_bits(key, i) >> 32;
      const std::int64_t item = new_items[bits * new_items.size() >> 32];
      if (is_taken(item) || !may_have_(item)) continue;
      ++drawn;
      const float score = score_(item);
      if (score > best.score) best = {score, item};
    }
    return best;
  }

  std::span<float> scores_;
  std::span<std::int64_t> items_;
  std::size_t found_, kept_;  // places that have an item, and those that stay as they are
  Score score_;
  MayHave may_have_;
  std::vector<Scored> chosen_;
};

}  // namespace

void Recommender::explore(std::span<const std::int64_t> users, std::size_t k, double time, bool exclude_seen,
                          std::span<const std::int64_t> excluded, double share, float* scores,
                          std::int64_t* items) const {
  require(share >= 0.0 && share <= 1.0, "explore = " + number_text(share) + " must be from 0 to 1");
  recommend(users, k, time, exclude_seen, excluded, scores, items);
  if (share == 0.0 || catalogue_->new_items().size() == 0) return;
  std::vector<std::int64_t> nobodys(excluded.begin(), excluded.end()), had;
  std::sort(nobodys.begin(), nobodys.end());
  std::vector<float> query(config_.dim + 1);
  const RowStore& rows = tables_->store(ModelTables::kItems);
  for (std::size_t u = 0; u < users.size(); ++u) {
    const std::uint64_t key =
        base::row_key(config_.seed + 5, static_cast<std::int64_t>(explored_.fetch_add(1)));
    std::size_t places = 0;
    for (std::size_t j = 0; j < k; ++j) {
      places += static_cast<double>(base::random_bits(key, j) >> 11) * 0x1p-53 < share;
    }
    if (places == 0) continue;
    had.clear();
    if (exclude_seen) append_history(users[u], had);
    user_vector(users[u], time, query.data());
    ExploredList list(
        {scores + u * k, k}, {items + u * k, k}, places,
        [&](std::int64_t item) {
          return kernels().dot(query.data(), rows.weights(static_cast<Slot>(item)), config_.dim + 1);
        },
        [&](std::int64_t item) {
          return !std::binary_search(nobodys.begin(), nobodys.end(), item) && !contains(had, item);
        });
    list.fill(catalogue_->new_items(), base::random_bits(key, k));
  }
}

}  // namespace fastinc
