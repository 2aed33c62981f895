#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/events.h"
#include "support/failing_new.h"
#include "support/recommender.h"
#include "support/support.h"

namespace fastinc::test {
namespace {

std::unique_ptr<Recommender> make_anchored(double anchor = 0.5) {
  RecommenderConfig config = configure(kSettings[6]);
  config.anchor = anchor;
  config.feature_numbers = 1;
  return std::make_unique<Recommender>(config, share(AdagradParams{.lr = 0.1}));
}

struct Pretrained {
  std::vector<std::int64_t> items;
  std::vector<float> vectors, biases;  // (n, dim), (n,)
  void give_to(Recommender& model) const { model.warm_start(items, vectors.data(), biases.data()); }
};

Pretrained pretrained(std::vector<std::int64_t> items) {
  Generator random(17);
  Pretrained out;
  out.vectors = uniform_floats(random, items.size() * small_config().dim);
  out.biases = uniform_floats(random, items.size());
  out.items = std::move(items);
  return out;
}

/// A change to a model that runs out of memory, at every allocation in turn, and is then made.
template <class Change>
void check_unchanged_without_memory(std::size_t least, Change change) {
  const Events events = random_events(3, 100, 40, 90);
  std::size_t failed = 0;
  for (bool failing = true; failing; ++failed) {
    const auto model = make_anchored(), expected = make_anchored();
    model->learn(events.batch());
    expected->learn(events.batch());
    std::thread([&] {
      const FailingNew guard(failed);
      try {
        change(*model);
        failing = false;
      } catch (const std::bad_alloc&) {
      }
    }).join();
    const std::string where = "allocation " + std::to_string(failed) + ": ";
    if (failing) {
      const RecommenderState state = model->export_state();
      BOOST_CHECK_EQUAL(model->item_count(), expected->item_count());
      BOOST_CHECK(state.features.given.empty());
      for (const AnchorState& anchors : state.anchors) BOOST_CHECK(anchors.rows.empty());
      change(*model);
    }
    change(*expected);
    model->learn(events.batch());
    expected->learn(events.batch());
    check_same(everything(*model), everything(*expected), where);
    BOOST_REQUIRE_LT(failed, 200u);
  }
  BOOST_CHECK_GT(failed, least);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(warm_start)

BOOST_AUTO_TEST_CASE(a_warm_start_that_runs_out_of_memory_changes_nothing) {
  const Pretrained given = pretrained({400, 3, 4000, 5});
  check_unchanged_without_memory(5, [&](Recommender& model) { given.give_to(model); });
}

BOOST_AUTO_TEST_CASE(anchors_that_run_out_of_memory_change_nothing) {
  check_unchanged_without_memory(5, [](Recommender& model) { model.set_anchor(); });
}

BOOST_AUTO_TEST_CASE(items_given_and_those_between_are_of_one_version) {
  const auto model = make_anchored(), plain = make_anchored();
  const Events events = random_events(3, 100, 40, 90);
  model->learn(events.batch());
  plain->learn(events.batch());
  const auto known = static_cast<std::int64_t>(model->item_count());
  const Pretrained given = pretrained({known + 2, 1, known + 2});
  const std::uint64_t version = model->items()->version();
  given.give_to(*model);
  BOOST_CHECK_EQUAL(model->items()->version(), version + 1);
  std::vector<std::int64_t> written = model->items()->changes(version).updated;
  std::sort(written.begin(), written.end());
  const std::vector<std::int64_t> expected = {1, known, known + 1, known + 2};
  BOOST_CHECK_EQUAL_COLLECTIONS(written.begin(), written.end(), expected.begin(), expected.end());
  plain->add_items(std::vector{known + 2}, {});
  std::vector<float> rows(4 * model->items()->dim()), plain_rows(rows.size());
  model->items()->lookup(expected, rows.data());
  plain->items()->lookup(expected, plain_rows.data());
  const std::size_t dim = small_config().dim, width = dim + 1;
  for (const std::size_t row : {1u, 2u}) {  // they start as others do
    BOOST_CHECK(std::equal(rows.begin() + row * width, rows.begin() + (row + 1) * width,
                           plain_rows.begin() + row * width));
  }
  BOOST_CHECK(std::equal(given.vectors.begin() + 2 * dim, given.vectors.end(), rows.begin() + 3 * width));
  BOOST_CHECK_EQUAL(rows.back(), given.biases[2]);
  BOOST_CHECK_EQUAL(rows[dim], given.biases[1]);
}

BOOST_AUTO_TEST_CASE(what_cant_be_is_refused_and_changes_nothing) {
  const auto model = make_anchored();
  model->learn(random_events(3, 100, 40, 90).batch());
  const Everything before = everything(*model);
  Pretrained given = pretrained({-1, 2});
  BOOST_CHECK_THROW(given.give_to(*model), std::invalid_argument);
  given.items[0] = 1;
  given.biases[1] = std::numeric_limits<float>::quiet_NaN();
  BOOST_CHECK_THROW(given.give_to(*model), std::invalid_argument);
  check_same(everything(*model), before, "refused, ");
  BOOST_CHECK_THROW(make_anchored(0.0)->set_anchor(), std::invalid_argument);
  BOOST_CHECK_THROW(make_anchored(-1.0), std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(states_with_anchors_that_dont_fit_are_refused) {
  const auto model = make_anchored(), other = make_anchored(0.0);
  const Events events = random_events(3, 100, 40, 90);
  model->learn(events.batch());
  other->learn(events.batch());
  model->set_anchor();
  const RecommenderState state = model->export_state();
  BOOST_CHECK_THROW(other->import_state(state), std::invalid_argument);
  const auto refuse = [&](auto spoil) {
    RecommenderState spoilt = state;
    spoil(spoilt);
    BOOST_CHECK_THROW(model->import_state(spoilt), std::invalid_argument);
  };
  refuse([](RecommenderState& s) { s.anchors.pop_back(); });
  refuse([](RecommenderState& s) { s.anchors[0].rows.back() = 1u << 20; });
  refuse([](RecommenderState& s) { s.anchors[0].values.pop_back(); });
  refuse([](RecommenderState& s) { s.anchors[0].values[3] = std::numeric_limits<float>::infinity(); });
  refuse([](RecommenderState& s) { s.features.given = {1 << 20}; });
  model->import_state(state);
  BOOST_CHECK_EQUAL(model->export_state().anchors[0].rows.size(), model->item_count());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
