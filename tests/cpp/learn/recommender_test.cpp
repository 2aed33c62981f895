#include "fastinc/recommender.h"

#include <cmath>
#include <numeric>

#include "support/recommender.h"
#include "support/reference_loss.h"
#include "support/reference_update.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(recommender)

BOOST_AUTO_TEST_CASE(export_and_import_continue_the_same) {
  for (const Setting& setting : kSettings) {
    const Events events = events_for(setting, 600);
    Recommender model(configure(setting), share(AdamParams{}));
    model.learn(events.batch().slice(0, 400));
    const auto copy = copy_of(model, share(AdamParams{}));
    check_same(everything(*copy), everything(model), setting.name());
    model.learn(events.batch().slice(400, 600));
    copy->learn(events.batch().slice(400, 600));
    check_same(everything(*copy), everything(model), setting.name() + "continued, ");
  }
}

// With SGD and a rate of 1, what an event subtracts from the weights is the gradient of its loss.
BOOST_AUTO_TEST_CASE(an_event_steps_down_the_gradient_of_its_loss) {
  for (const Setting& setting : kSettings) {
    for (const bool labelled : {false, true}) {
      if (setting.labelled() && !labelled) continue;
      if (labelled && setting.loss != Loss::kMse && setting.loss != Loss::kLogistic) continue;
      RecommenderConfig config = configure(setting);
      config.dim = 3;
      config.window = 4;
      config.hidden_lr_scale = 1.0;
      config.negatives = 50;  // more than there are items: all of them
      const auto optimizer = share(SgdParams{.lr = 0.1});
      Recommender model(config, optimizer);
      Events events = random_events(9, 60, 4, 12);
      events.items[57] = events.items[58];  // the last user's history holds an item twice
      events.users[57] = events.users[58] = events.users[59];
      if (labelled) {
        for (std::size_t i = 0; i < 60; ++i) events.labels.push_back(static_cast<float>(i % 4) / 4.0f);
      }
      model.learn(events.batch().slice(0, 59));
      const RecommenderState state = model.export_state();
      double offset = setting.loss == Loss::kMse ? state.label_sum / state.label_count : 0.0;
      if (setting.loss == Loss::kLogistic && labelled) {
        const double p = (state.label_sum + 1.0) / (state.label_count + 2.0);
        offset = std::log(p / (1.0 - p));
      }
      ReferenceLoss reference(model, events.users[59], events.items[59], events.times[59]);
      const std::vector<double> before = reference.weights;
      const double label = labelled ? static_cast<double>(events.labels[59]) : 1.0;
      optimizer->set("lr", 1.0);
      model.learn(events.batch().slice(59, 60));
      const std::vector<double> after = all_weights(model);
      BOOST_REQUIRE_EQUAL(after.size(), before.size());
      double worst = 0.0, largest = 0.0;
      for (std::size_t i = 0; i < before.size(); ++i) {
        constexpr double kStep = 1e-5;
        reference.weights[i] = before[i] + kStep;
        const double up = reference.loss(offset, label, labelled);
        reference.weights[i] = before[i] - kStep;
        const double down = reference.loss(offset, label, labelled);
        reference.weights[i] = before[i];
        const double gradient = (up - down) / (2.0 * kStep);
        worst = std::max(worst, std::abs(gradient - (before[i] - after[i])));
        largest = std::max(largest, std::abs(gradient));
      }
      BOOST_CHECK_MESSAGE(worst < 2e-6, setting.name() << "off by " << worst);
      BOOST_CHECK_GT(largest, 1e-3);
    }
  }
}

namespace {

/// Each user goes round a circle of items: what comes next follows from what came last.
Events circle_events(std::size_t n, std::int64_t items) {
  Generator random(7);
  std::vector<std::int64_t> at(30);
  for (std::int64_t& item : at)
    item = static_cast<std::int64_t>(below(random, static_cast<std::size_t>(items)));
  Events events;
  for (std::int64_t j = 0; j < items; ++j) events.add(30, j, 0.0);
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t user = below(random, at.size());
    at[user] = (at[user] + 1) % items;
    events.add(static_cast<std::int64_t>(user), at[user], static_cast<double>(i));
  }
  return events;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_pattern_is_learned) {
  constexpr std::int64_t kItems = 40;
  const Events events = circle_events(4000, kItems);
  for (const Loss loss : {Loss::kSoftmax, Loss::kBpr, Loss::kLogistic}) {
    RecommenderConfig config = small_config();
    config.loss = loss;
    config.window = 3;
    config.recency_exponent = 1.0;
    Recommender model(config, share(AdagradParams{.lr = 0.3}));
    const std::size_t taught = events.users.size() - 500;
    model.learn(events.batch().slice(0, taught));
    std::size_t hits = 0;
    for (std::size_t i = taught; i < events.users.size(); ++i) {
      std::int64_t best = -1;
      float score = 0.0f;
      model.recommend(std::span(&events.users[i], 1), 1, kNan, true, {}, &score, &best);
      hits += best == events.items[i];
      model.learn(events.batch().slice(i, i + 1));
    }
    BOOST_CHECK_MESSAGE(hits > 450, "loss " << static_cast<int>(loss) << ": " << hits << " of 500");
    BOOST_CHECK_EQUAL(model.skipped_events(), 0u);
  }
}

BOOST_AUTO_TEST_CASE(ratings_are_learned) {
  RecommenderConfig config = small_config();
  config.loss = Loss::kMse;
  config.user = UserModel::kVector;
  Recommender model(config, share(AdagradParams{.lr = 0.1}));
  Events events = random_events(8, 5000, 30, 50);
  for (std::size_t i = 0; i < events.users.size(); ++i) {
    events.labels.push_back(3.0f + static_cast<float>(events.items[i] % 3) - 1.0f);
  }
  model.learn(events.batch());
  double error = 0.0;
  std::vector<float> predicted(1000);
  model.predict(std::span(events.users).last(1000), std::span(events.items).last(1000), kNan,
                predicted.data());
  for (std::size_t i = 0; i < 1000; ++i) {
    error += std::abs(static_cast<double>(predicted[i] - events.labels[4000 + i])) / 1000.0;
  }
  BOOST_CHECK_LT(error, 0.25);
}

BOOST_AUTO_TEST_CASE(predictions_are_inner_products) {
  for (const Setting& setting : kSettings) {
    const Events events = events_for(setting, 400);
    Recommender model(configure(setting), share(AdagradParams{}));
    model.learn(events.batch());
    const std::vector<std::int64_t> users = {0, 3, 3, 999, -1, 2}, items = {5, 1, 2, 4, 0, 100000};
    std::vector<float> predicted(users.size()), query(model.config().dim + 1), row(query.size());
    std::vector<float> scores(model.item_count());
    model.predict(users, items, 300.0, predicted.data());
    for (std::size_t i = 0; i < users.size(); ++i) {
      model.user_vector(users[i], 300.0, query.data());
      BOOST_CHECK_EQUAL(query.back(), 1.0f);
      model.score_items(users[i], 300.0, scores);
      BOOST_CHECK(std::all_of(scores.begin(), scores.end(), [](float s) { return std::isfinite(s); }));
      if (setting.loss == Loss::kLogistic) {
        BOOST_CHECK(predicted[i] > 0.0f && predicted[i] < 1.0f);
      } else if (setting.loss != Loss::kMse && i < 5) {
        model.items()->lookup(std::span(&items[i], 1), row.data());
        for (std::size_t c = 0; c < row.size(); ++c) row[c] *= query[c];
        BOOST_CHECK_EQUAL(predicted[i], laned_sum(row));
        BOOST_CHECK_EQUAL(predicted[i], scores[static_cast<std::size_t>(items[i])]);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_new_user_gets_a_sensible_list) {
  Recommender model(small_config(), share(AdagradParams{}));
  std::vector<float> scores(4);
  std::vector<std::int64_t> items(4, 7);
  const std::vector<std::int64_t> users = {12345};
  model.recommend(users, 4, kNan, true, {}, scores.data(), items.data());
  BOOST_CHECK(items == std::vector<std::int64_t>(4, -1));  // nothing is known yet
  model.learn(events_for(kSettings[0], 500).batch());
  model.recommend(users, 4, kNan, true, {}, scores.data(), items.data());
  BOOST_CHECK(std::is_sorted(scores.rbegin(), scores.rend()));
  std::vector<float> row(model.config().dim + 1);
  model.items()->lookup(std::span(items).first(1), row.data());
  BOOST_CHECK_EQUAL(scores[0], row.back());  // without a history the biases decide
}

// Many items are searched by their int8 rows, few are scored one by one: the same lists.
BOOST_AUTO_TEST_CASE(lists_of_many_items_are_those_of_all_scores) {
  constexpr std::size_t kMany = 2500, kUsers = 40, k = 30;
  Recommender model(configure(kSettings[6]), share(AdagradParams{.lr = 0.1}));
  Events events = random_events(5, kMany + 500, kUsers, kMany);
  std::iota(events.items.begin(), events.items.begin() + kMany, 0);
  model.learn(events.batch());
  std::vector<std::int64_t> users = {0, 7, 39, 12345, -1}, excluded = {3, 2499, 3, 99999, -1};
  std::vector<float> scores(users.size() * k), expected_scores(scores.size());
  std::vector<std::int64_t> items(scores.size()), expected(scores.size());
  for (const bool exclude_seen : {false, true}) {
    for (const double time : {static_cast<double>(kNan), 10.0}) {
      model.recommend(users, k, time, exclude_seen, excluded, scores.data(), items.data());
      model.StreamModel::recommend(users, k, time, exclude_seen, excluded, expected_scores.data(),
                                   expected.data());
      check_same_bytes(items, expected, "items ");
      check_same_bytes(scores, expected_scores, "scores ");
    }
  }
}

BOOST_AUTO_TEST_CASE(similar_items_are_the_nearest_by_cosine) {
  Recommender model(small_config(), share(AdagradParams{}));
  model.learn(events_for(kSettings[0], 400).batch());
  const std::size_t n = model.item_count(), dim = model.config().dim;
  const TableState state = model.items()->export_state();
  const auto cosine = [&](std::size_t a, std::size_t b) {
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (std::size_t c = 0; c < dim; ++c) {
      const double x = static_cast<double>(state.weights[a * (dim + 1) + c]);
      const double y = static_cast<double>(state.weights[b * (dim + 1) + c]);
      ab += x * y;
      aa += x * x;
      bb += y * y;
    }
    return ab / std::sqrt(aa * bb);
  };
  const std::vector<std::int64_t> items = {3, -1, static_cast<std::int64_t>(n), 0};
  const std::size_t k = n + 2;
  std::vector<float> scores(items.size() * k);
  std::vector<std::int64_t> found(scores.size());
  model.similar_items(items, k, scores.data(), found.data());
  for (const std::size_t i : {std::size_t{0}, std::size_t{3}}) {
    BOOST_CHECK_EQUAL(std::count(&found[i * k], &found[(i + 1) * k - 1] + 1, -1), 3);
    BOOST_CHECK_EQUAL(std::count(&found[i * k], &found[(i + 1) * k - 1] + 1, items[i]), 0);
    for (std::size_t r = 0; r + 1 < n; ++r) {
      const double expected =
          cosine(static_cast<std::size_t>(items[i]), static_cast<std::size_t>(found[i * k + r]));
      BOOST_CHECK_SMALL(static_cast<double>(scores[i * k + r]) - expected, 1e-6);
      BOOST_CHECK(r == 0 || scores[i * k + r] <= scores[i * k + r - 1]);
    }
  }
  BOOST_CHECK(std::all_of(&found[k], &found[3 * k], [](std::int64_t item) { return item == -1; }));
}

BOOST_AUTO_TEST_CASE(an_event_that_would_overflow_is_counted_and_not_learned) {
  RecommenderConfig config = small_config();
  config.init_std = 1e18;
  Recommender model(config, share(SgdParams{}));
  model.learn(events_for(kSettings[0], 200).batch());
  BOOST_CHECK_GT(model.skipped_events(), 0u);
  const Everything after = everything(model);
  BOOST_CHECK(
      std::all_of(after.floats.begin(), after.floats.end(), [](float x) { return std::isfinite(x); }));
  BOOST_CHECK_EQUAL(model.event_count(), 200u);
}

BOOST_AUTO_TEST_CASE(configurations_out_of_range_are_refused) {
  const auto refused = [](auto spoil, std::string_view part) {
    RecommenderConfig config = small_config();
    spoil(config);
    check_throws<std::invalid_argument>([&] { Recommender(config, share(SgdParams{})); }, {part});
  };
  refused([](RecommenderConfig& c) { c.dim = 0; }, "dim = 0");
  refused([](RecommenderConfig& c) { c.dim = 65537; }, "dim = 65537");
  refused([](RecommenderConfig& c) { c.negatives = 0; }, "negatives = 0");
  refused([](RecommenderConfig& c) { c.hard_negatives = std::nan(""); }, "hard_negatives = ");
  refused([](RecommenderConfig& c) { c.window = 0; }, "window = 0");
  refused([](RecommenderConfig& c) { c.window = 13; }, "window = 13");
  refused([](RecommenderConfig& c) { c.history_size = 0; }, "history_size = 0");
  refused([](RecommenderConfig& c) { c.recency_exponent = -0.5; }, "recency_exponent = -0.5");
  refused([](RecommenderConfig& c) { c.recency_exponent = std::nan(""); }, "recency_exponent = ");
  refused([](RecommenderConfig& c) { c.time_scale = -1.0; }, "time_scale = -1");
  refused([](RecommenderConfig& c) { c.context_lr_scale = -0.5; }, "context_lr_scale = -0.5");
  refused([](RecommenderConfig& c) { c.context_lr_scale = 0.0; }, "context_lr_scale = 0 and tie_weight = 0");
  refused([](RecommenderConfig& c) { c.tie_weight = -0.5; }, "tie_weight = -0.5");
  refused([](RecommenderConfig& c) { c.long_window = 13; }, "long_window = 13");
  refused([](RecommenderConfig& c) { c.long_weight = std::nan(""); }, "long_weight = ");
  refused([](RecommenderConfig& c) { c.hidden = 65537; }, "hidden = 65537");
  refused([](RecommenderConfig& c) { c.hidden_lr_scale = -1.0; }, "hidden_lr_scale = -1");
  refused([](RecommenderConfig& c) { c.batch_size = 0; }, "batch_size = 0");
  refused([](RecommenderConfig& c) { c.batch_size = 24; }, "batch_size = 24");
  refused([](RecommenderConfig& c) { c.batch_size = 512; }, "batch_size = 512");
  refused([](RecommenderConfig& c) { c.init_std = -0.1; }, "std = -0.1");
}

BOOST_AUTO_TEST_CASE(labels_that_dont_fit_the_loss_are_refused_and_change_nothing) {
  const auto refused = [](Loss loss, std::vector<float> labels,
                          std::initializer_list<std::string_view> parts) {
    RecommenderConfig config = small_config();
    config.loss = loss;
    Recommender model(config, share(SgdParams{}));
    Events events;
    events.add(0, 0, 0.0);
    events.add(1, 1, 0.0);
    events.labels = std::move(labels);
    check_throws<std::invalid_argument>([&] { model.learn(events.batch()); }, parts);
    BOOST_CHECK_EQUAL(model.event_count(), 0u);
    BOOST_CHECK_EQUAL(model.item_count(), 0u);
    BOOST_CHECK_EQUAL(model.items()->size(), 0u);
  };
  refused(Loss::kSoftmax, {1.0f, 1.0f}, {"labels", "logistic", "mse"});
  refused(Loss::kBpr, {1.0f, 0.0f}, {"labels"});
  refused(Loss::kLogistic, {1.0f, 1.5f}, {"labels[1] = 1.5", "[0, 1]"});
  refused(Loss::kMse, {}, {"labels", "mse"});
}

BOOST_AUTO_TEST_CASE(states_that_dont_fit_are_refused_and_change_nothing) {
  const Setting setting = kSettings[1];
  Recommender model(configure(setting), share(SgdParams{}));
  model.learn(events_for(setting, 100).batch());
  const Everything before = everything(model);
  const auto refused = [&](auto spoil, std::string_view part) {
    RecommenderState bad = before.state;
    spoil(bad);
    check_throws<std::invalid_argument>([&] { model.import_state(bad); }, {"recommender state", part});
    check_same(everything(model), before, "refused: ");
  };
  refused([](RecommenderState& s) { s.history_offsets.clear(); }, "offsets");
  refused([](RecommenderState& s) { s.history_offsets[0] = 1; }, "offsets");
  refused([](RecommenderState& s) { std::swap(s.history_offsets[1], s.history_offsets[5]); }, "offsets");
  refused([](RecommenderState& s) { s.history_times.pop_back(); }, "times");
  refused([](RecommenderState& s) { s.history_items[0] = -1; }, "item");
  refused([](RecommenderState& s) { s.history_items[0] = static_cast<std::int32_t>(s.item_count); }, "item");
  refused([](RecommenderState& s) { ++s.item_count; }, "tables");
  refused([](RecommenderState& s) { s.history_offsets.push_back(s.history_offsets.back()); }, "tables");
}

BOOST_AUTO_TEST_CASE(memory_is_what_the_parts_add_up_to) {
  Recommender model(small_config(), share(SgdParams{}));
  model.learn(events_for(kSettings[0], 100).batch());
  std::size_t sum = 0;
  for (const auto& [name, bytes] : model.memory_usage()) sum += name == "total" ? 0 : bytes;
  BOOST_CHECK_EQUAL(model.memory_usage().back().first, "total");
  BOOST_CHECK_EQUAL(model.memory_usage().back().second, sum);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
