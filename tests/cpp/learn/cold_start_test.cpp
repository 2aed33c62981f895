#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <thread>
#include <vector>

#include "learn/catalogue.h"
#include "support/events.h"
#include "support/failing_new.h"
#include "support/recommender.h"
#include "support/support.h"

namespace fastinc::test {
namespace {

constexpr std::size_t kNumbers = 3, kBuckets = 7;

RecommenderConfig featured_config(std::size_t batch_size) {
  RecommenderConfig config = configure(kSettings[6]);
  config.feature_numbers = kNumbers;
  config.feature_buckets = kBuckets;
  config.popular_negatives = 0.5;
  config.max_grad_norm = 2.0;
  config.batch_size = batch_size;
  return config;
}

/// Of every third item below n: 3 numbers, and 0 to 3 categories.
FeatureState some_features(std::int64_t n) {
  FeatureState features;
  Generator random(11);
  for (std::int64_t j = 0; j < n; j += 3) {
    features.items.push_back(j);
    features.offsets.push_back(static_cast<std::int64_t>(features.buckets.size()));
    for (std::int64_t c = 0; c < j % 4; ++c) features.buckets.push_back((j + c * c) % std::int64_t{kBuckets});
  }
  features.offsets.push_back(static_cast<std::int64_t>(features.buckets.size()));
  features.numbers = uniform_floats(random, features.items.size() * kNumbers);
  return features;
}

std::shared_ptr<Table> table_of(const Recommender& model, const std::string& name) {
  for (const auto& [known, table] : model.tables()) {
    if (known == name) return table;
  }
  throw std::logic_error(name);
}

std::vector<float> row_of(const Table& table, std::int64_t id) {
  std::vector<float> row(table.dim());
  table.lookup({&id, 1}, row.data());
  return row;
}

/// F f of the i-th item of a state, in double.
std::vector<double> start_of(const Recommender& model, const FeatureState& features, std::size_t i) {
  const std::shared_ptr<Table> map = table_of(model, "features");
  std::vector<double> out(map->dim(), 0.0);
  const auto add = [&](std::int64_t row, double weight) {
    const std::vector<float> values = row_of(*map, row);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += weight * static_cast<double>(values[d]);
  };
  add(0, 1.0);
  for (std::size_t k = 0; k < kNumbers; ++k) {
    add(static_cast<std::int64_t>(1 + k), static_cast<double>(features.numbers[i * kNumbers + k]));
  }
  for (std::int64_t c = features.offsets[i]; c < features.offsets[i + 1]; ++c) {
    add(static_cast<std::int64_t>(1 + kNumbers) + features.buckets[static_cast<std::size_t>(c)], 1.0);
  }
  return out;
}

void check_starts(const Recommender& model, const FeatureState& features, std::size_t i) {
  const std::vector<double> expected = start_of(model, features, i);
  const std::vector<float> got = row_of(*model.items(), features.items[i]);
  for (std::size_t d = 0; d < got.size(); ++d) {
    BOOST_CHECK_SMALL(static_cast<double>(got[d]) - expected[d], 1e-5);
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cold_start)

BOOST_AUTO_TEST_CASE(new_items_are_found_by_their_place) {
  Generator random(9);
  for (std::size_t n = 1; n < repeats(200); ++n) {
    NewItems items;
    std::vector<std::uint32_t> expected;
    for (std::uint32_t item = 0; item < n; ++item) {
      const bool is_in = random() % 3 > 0;
      items.push(is_in);
      if (is_in) expected.push_back(item);
      if (!expected.empty() && random() % 4 == 0) {
        const std::size_t k = below(random, expected.size());
        items.erase(expected[k]);
        expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(k));
      }
    }
    BOOST_REQUIRE_EQUAL(items.size(), expected.size());
    for (std::size_t k = 0; k < expected.size(); ++k) BOOST_CHECK_EQUAL(items[k], expected[k]);
  }
}

BOOST_AUTO_TEST_CASE(the_catalogue_counts) {
  Catalogue catalogue(2);
  catalogue.reserve(10);
  catalogue.announce(4);
  std::map<std::size_t, std::uint32_t> counts;
  std::vector<std::uint32_t> seen;
  Generator random(5);
  for (int i = 0; i < 60; ++i) {
    const std::size_t item = below(random, 10);
    catalogue.reserve(10);
    BOOST_CHECK_EQUAL(catalogue.count_event(item), counts[item] == 0);
    if (counts[item]++ == 0) seen.push_back(static_cast<std::uint32_t>(item));
    std::vector<std::uint32_t> fresh;
    for (std::uint32_t j = 0; j < catalogue.size(); ++j) {
      BOOST_CHECK_EQUAL(catalogue.events(j), counts[j]);
      if (counts[j] < 2) fresh.push_back(j);
    }
    std::vector<std::uint32_t> got;
    for (std::size_t k = 0; k < catalogue.new_items().size(); ++k) got.push_back(catalogue.new_items()[k]);
    BOOST_CHECK(got == fresh);  // by code, however they came to be
    BOOST_CHECK(std::equal(seen.begin(), seen.end(), catalogue.seen().begin(), catalogue.seen().end()));
    std::vector<std::uint32_t> events(catalogue.size());
    for (std::uint32_t j = 0; j < events.size(); ++j) events[j] = catalogue.events(j);
    Catalogue copy(2);
    BOOST_REQUIRE(copy.assign(events, seen));
    for (std::uint32_t j = 0; j < events.size(); ++j) BOOST_CHECK_EQUAL(copy.events(j), events[j]);
    BOOST_CHECK_EQUAL(copy.new_items().size(), fresh.size());
    BOOST_CHECK(std::equal(seen.begin(), seen.end(), copy.seen().begin(), copy.seen().end()));
    events.push_back(1);  // never seen
    BOOST_CHECK(!copy.assign(events, seen));
    BOOST_CHECK(!copy.assign({}, seen));
  }
}

BOOST_AUTO_TEST_CASE(items_start_from_their_features_and_follow_them_until_their_first_event) {
  const FeatureState features = some_features(90);
  const auto optimizer = share(AdagradParams{.lr = 0.1});
  Recommender model(featured_config(8), optimizer);
  model.add_items(features.items, features.batch());
  BOOST_CHECK_EQUAL(model.item_count(), 88u);  // the last is 87
  for (std::size_t i = 0; i < features.items.size(); ++i) check_starts(model, features, i);
  Events events = random_events(4, 400, 20, 50);
  model.learn(events.batch());
  const std::vector<float> before = row_of(*model.items(), 87);
  optimizer->set("lr", 0.0);  // as many events as there are: all have had their turn
  model.learn(events.batch().slice(0, 104));
  for (std::size_t i = 0; i < features.items.size(); ++i) {
    if (features.items[i] >= 50) check_starts(model, features, i);
  }
  BOOST_CHECK(row_of(*model.items(), 87) != before);
  const std::int64_t user = 3, item = 87;
  model.learn({{&user, 1}, {&item, 1}, {}, {}});
  check_starts(model, features, features.items.size() - 1);
  optimizer->set("lr", 0.1);
  model.learn({{&user, 1}, {&item, 1}, {}, {}});  // from here on its row is its own
  const std::vector<float> own = row_of(*model.items(), 87);
  optimizer->set("lr", 0.0);
  model.add_items(features.items, features.batch());
  model.learn(events.batch().slice(0, 104));
  BOOST_CHECK(row_of(*model.items(), 87) == own);
}

// One item has features and events: with SGD its map goes down the gradient of half the square of what is
// left, once for each event of the group, all by the rows before it.
BOOST_AUTO_TEST_CASE(the_map_steps_towards_the_rows_of_items) {
  RecommenderConfig config = featured_config(4);
  config.feature_lr_scale = 0.5;
  config.max_grad_norm = 0.0;
  Recommender model(config, share(SgdParams{.lr = 0.2}));
  FeatureState features;
  features.items = {0};
  features.numbers = {0.5f, -1.0f, 2.0f};
  features.offsets = {0, 2};
  features.buckets = {6, 2};
  const Events events = random_events(4, 64, 20, 50);
  model.learn(events.batch().slice(0, 60));
  const std::int64_t first = events.items[0];
  features.items = {first};
  model.add_items(features.items, features.batch());
  const std::vector<double> start = start_of(model, features, 0);
  const std::vector<float> target = row_of(*model.items(), first);
  std::vector<std::vector<float>> before;
  const std::shared_ptr<Table> map = table_of(model, "features");
  for (std::size_t r = 0; r < map->size(); ++r) before.push_back(row_of(*map, static_cast<std::int64_t>(r)));
  BOOST_CHECK_EQUAL(map->size(), 1 + kNumbers + kBuckets);
  model.learn(events.batch().slice(60, 64));
  const std::vector<double> values = {1.0, 0.5, -1.0, 2.0, 0, 0, 1, 0, 0, 0, 1};
  for (std::size_t r = 0; r < map->size(); ++r) {
    const std::vector<float> after = row_of(*map, static_cast<std::int64_t>(r));
    for (std::size_t d = 0; d < after.size(); ++d) {
      const double gradient = 4.0 / 8.25 * values[r] * (start[d] - static_cast<double>(target[d]));
      BOOST_CHECK_SMALL(static_cast<double>(after[d]) - (static_cast<double>(before[r][d]) - 0.1 * gradient),
                        1e-5);
    }
  }
}

// Nobody can have wanted what nobody was shown.
BOOST_AUTO_TEST_CASE(items_without_events_are_no_negatives) {
  RecommenderConfig config = configure(kSettings[6]);
  config.batch_size = 8;
  Recommender plain(config, share(AdagradParams{.lr = 0.1})), told(config, share(AdagradParams{.lr = 0.1}));
  const Events events = random_events(4, 400, 20, 50);
  plain.learn(events.batch());
  told.learn(events.batch().slice(0, 200));
  const std::int64_t later = 500;
  told.add_items({&later, 1}, {});
  const std::vector<float> row = row_of(*told.items(), later);
  told.learn(events.batch().slice(200, 400));
  BOOST_CHECK(row_of(*told.items(), later) == row);
  BOOST_CHECK_GT(plain.item_count(), 30u);
  for (std::int64_t item = 0; item < static_cast<std::int64_t>(plain.item_count()); ++item) {
    BOOST_CHECK(row_of(*told.items(), item) == row_of(*plain.items(), item));
  }
}

BOOST_AUTO_TEST_CASE(same_bytes_for_any_instruction_set_threads_and_parts_and_after_a_copy) {
  const Events events = random_events(3, 300, 40, 90);
  const FeatureState features = some_features(120);
  std::unique_ptr<Everything> expected;
  for_each_isa_and_threads([&](const std::string& where) {
    for (const std::size_t part : {8u, 300u}) {
      Recommender model(featured_config(8), share(AdagradParams{.lr = 0.1}));
      model.add_items(features.items, features.batch());
      learn_in_parts(model, events, part);
      const Everything got = everything(model);
      if (expected == nullptr) expected = std::make_unique<Everything>(got);
      check_same(got, *expected, where);
    }
  });
  Recommender half(featured_config(8), share(AdagradParams{.lr = 0.1}));
  half.add_items(features.items, features.batch());
  half.learn(events.batch().slice(0, 160));
  const auto other = copy_of(half, share(AdagradParams{.lr = 0.1}));
  for (Recommender* const model : {&half, other.get()}) {
    model->add_items(features.items, features.batch());  // as if told once more at the same place
    model->learn(events.batch().slice(160, 300));
  }
  check_same(everything(*other), everything(half), "a copy: ");
}

BOOST_AUTO_TEST_CASE(what_runs_out_of_memory_changes_nothing) {
  const Events events = random_events(3, 100, 40, 90);
  const FeatureState features = some_features(300);
  std::size_t failed = 0;
  for (bool failing = true; failing; failed += 1 + failed / 8) {
    Recommender model(featured_config(8), share(AdagradParams{.lr = 0.1})),
        expected(featured_config(8), share(AdagradParams{.lr = 0.1}));
    model.learn(events.batch());
    expected.learn(events.batch());
    std::thread([&] {
      const FailingNew guard(failed);
      try {
        model.add_items(features.items, features.batch());
        failing = false;
      } catch (const std::bad_alloc&) {
      }
    }).join();
    if (failing) {
      BOOST_CHECK_EQUAL(model.item_count(), expected.item_count());
      BOOST_CHECK(model.export_state().features.items.empty());
      model.add_items(features.items, features.batch());
    }
    expected.add_items(features.items, features.batch());
    check_same(everything(model), everything(expected), "allocation " + std::to_string(failed) + ": ");
    BOOST_REQUIRE_LT(failed, 9000u);
  }
  BOOST_CHECK_GT(failed, 5u);
}

BOOST_AUTO_TEST_CASE(learning_that_runs_out_of_memory_goes_on_where_it_failed) {
  const Events events = random_events(3, 300, 40, 90);
  const FeatureState features = some_features(120);
  const auto make = [&] {
    auto model = std::make_unique<Recommender>(featured_config(64), share(AdagradParams{.lr = 0.1}));
    model->add_items(features.items, features.batch());
    return model;
  };
  const auto expected = make();
  expected->learn(events.batch());
  std::size_t failed = 0;
  for (bool failing = true; failing; failed += 1 + failed / 8) {
    const auto model = make();
    std::thread([&] {
      const FailingNew guard(failed);
      try {
        model->learn(events.batch());
        failing = false;
      } catch (const std::bad_alloc&) {
      }
    }).join();
    model->learn(events.batch().slice(model->event_count(), 300));
    check_same(everything(*model), everything(*expected), "allocation " + std::to_string(failed) + ": ");
    BOOST_REQUIRE_LT(failed, 9000u);
  }
  BOOST_CHECK_GT(failed, 5u);
}

// Where most of what is known has never been seen, and where most of what was seen has no features.
BOOST_AUTO_TEST_CASE(the_map_learns_with_every_event_that_finds_an_example) {
  for (const bool mostly_unseen : {true, false}) {
    RecommenderConfig config = featured_config(1);
    config.max_grad_norm = 0.0;
    Recommender model(config, share(SgdParams{.lr = 0.01}));
    FeatureState features = some_features(mostly_unseen ? 3000 : 30);
    model.add_items(features.items, features.batch());
    const Events events = random_events(4, 200, 20, mostly_unseen ? 20 : 90);
    std::size_t steps = 0;
    for (std::size_t e = 0; e < 200; ++e) {
      const std::vector<float> before = row_of(*table_of(model, "features"), 0);
      model.learn(events.batch().slice(e, e + 1));
      steps += row_of(*table_of(model, "features"), 0) != before;
    }
    BOOST_CHECK_GT(steps, mostly_unseen ? 180u : 120u);
  }
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused) {
  Recommender model(featured_config(8), share(AdagradParams{.lr = 0.1}));
  const auto refused = [&](auto change) {
    FeatureState features = some_features(9);
    change(features);
    const std::vector<std::int64_t> items = some_features(9).items;
    BOOST_CHECK_THROW(model.add_items(items, features.batch()), std::invalid_argument);
    BOOST_CHECK_EQUAL(model.item_count(), 0u);
  };
  refused([](FeatureState& f) { f.numbers.pop_back(); });
  refused([](FeatureState& f) { f.numbers[4] = std::nanf(""); });
  refused([](FeatureState& f) { f.offsets.back() += 1; });
  refused([](FeatureState& f) { f.offsets.clear(); });
  refused([](FeatureState& f) { f.buckets.back() = std::int64_t{kBuckets}; });
  refused([](FeatureState& f) { f.buckets.back() = -1; });
  refused([](FeatureState& f) { f.items.back() += 1; });
  refused([](FeatureState& f) { f.numbers[4] = 1.1e6f; });
  Recommender plain(small_config(), share(AdagradParams{.lr = 0.1}));
  const FeatureState some = some_features(9);
  BOOST_CHECK_THROW(plain.add_items(some.items, some.batch()), std::invalid_argument);
  const std::int64_t one = 0, user = 0, none[] = {0, 0};
  const FeatureBatch nothing{{&one, 1}, {}, none, {}};
  BOOST_CHECK_THROW(plain.add_items({&one, 1}, nothing), std::invalid_argument);
  plain.learn({{&user, 1}, {&one, 1}, {}, {}});
  RecommenderState state = plain.export_state();
  state.item_events[0] = 0;
  state.seen_items.clear();
  BOOST_CHECK_THROW(plain.import_state(state), std::invalid_argument);  // the history names it
  const std::int64_t negative = -1;
  BOOST_CHECK_THROW(model.add_items({&negative, 1}, {}), std::invalid_argument);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
