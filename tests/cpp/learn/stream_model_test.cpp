#include "fastinc/stream_model.h"

#include "support/events.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(stream_model)

namespace {

/// Scores are what the test says, the same for every user; the time of the last request is kept.
class Fixed : public StreamModel {
 public:
  explicit Fixed(std::vector<float> scores, std::size_t history_size = 3)
      : StreamModel(history_size), scores_(std::move(scores)) {
    if (!scores_.empty()) see_item(static_cast<std::int64_t>(scores_.size()) - 1);
  }
  void learn(const EventBatch& events) override {
    for (std::size_t i = 0; i < events.size(); ++i) {
      remember(events.users[i], events.items[i], events.time(i), events.label(i) > 0.0f);
    }
  }
  void score_items(std::int64_t, double time, std::span<float> scores) const override {
    std::copy_n(scores_.begin(), scores.size(), scores.begin());
    asked_at = time;
  }
  mutable double asked_at = -1.0;

 private:
  std::vector<float> scores_;
};

struct Answer {
  std::vector<std::int64_t> items;
  std::vector<float> scores;
};

Answer recommend(const StreamModel& model, const std::vector<std::int64_t>& users, std::size_t k,
                 bool exclude_seen, const std::vector<std::int64_t>& excluded = {}, double time = kNan) {
  Answer answer{std::vector<std::int64_t>(users.size() * k), std::vector<float>(users.size() * k)};
  model.recommend(users, k, time, exclude_seen, excluded, answer.scores.data(), answer.items.data());
  return answer;
}

using Items = std::vector<std::int64_t>;

}  // namespace

BOOST_AUTO_TEST_CASE(best_first_and_ties_by_code) {
  const Fixed model({1.0f, 3.0f, 2.0f, 3.0f, -5.0f, 2.0f});
  const Answer answer = recommend(model, {0}, 5, true);
  BOOST_CHECK(answer.items == (Items{1, 3, 2, 5, 0}));
  check_same_bytes(answer.scores, {3.0f, 3.0f, 2.0f, 2.0f, 1.0f}, "scores ");
}

BOOST_AUTO_TEST_CASE(padding_where_fewer_exist) {
  const Fixed model({1.0f, 2.0f});
  const Answer answer = recommend(model, {0, 7}, 3, true);
  BOOST_CHECK(answer.items == (Items{1, 0, -1, 1, 0, -1}));
  BOOST_CHECK_EQUAL(answer.scores[2], -kInfinity);
  const Answer nothing = recommend(Fixed({}), {0}, 2, true);
  BOOST_CHECK(nothing.items == (Items{-1, -1}));
  BOOST_CHECK(recommend(model, {}, 3, true).items.empty());
  BOOST_CHECK(recommend(model, {0}, 0, true).items.empty());
}

BOOST_AUTO_TEST_CASE(seen_and_excluded_items_are_left_out) {
  Fixed model({6.0f, 5.0f, 4.0f, 3.0f, 2.0f, 1.0f});
  Events events;
  events.add(0, 0, 1.0);
  events.add(0, 2, 2.0);
  events.add(1, 1, 3.0);
  model.learn(events.batch());
  BOOST_CHECK(recommend(model, {0, 1, 2}, 2, true).items == (Items{1, 3, 0, 2, 0, 1}));
  BOOST_CHECK(recommend(model, {0, 1, 2}, 2, false).items == (Items{0, 1, 0, 1, 0, 1}));
  // ids nobody knows may be excluded
  BOOST_CHECK(recommend(model, {0}, 6, true, {1, -1, 99, 1}).items == (Items{3, 4, 5, -1, -1, -1}));
  BOOST_CHECK(recommend(model, {0}, 2, false, {0, 1, 2, 3, 4, 5}).items == (Items{-1, -1}));
}

BOOST_AUTO_TEST_CASE(scores_that_arent_numbers_are_never_recommended) {
  const Fixed model({1.0f, kNan, kInfinity, -kInfinity, kNan});
  BOOST_CHECK(recommend(model, {0}, 4, true).items == (Items{2, 0, -1, -1}));
}

BOOST_AUTO_TEST_CASE(the_time_of_a_request) {
  Fixed model({1.0f});
  Events events;
  events.add(0, 0, 5.0);
  events.add(0, 0, 3.0);  // late: the clock doesn't go back
  model.learn(events.batch());
  BOOST_CHECK_EQUAL(model.latest_time(), 5.0);
  recommend(model, {0}, 1, true);
  BOOST_CHECK_EQUAL(model.asked_at, 5.0);
  recommend(model, {0}, 1, true, {}, 17.0);
  BOOST_CHECK_EQUAL(model.asked_at, 17.0);
  Fixed negative({1.0f});
  Events early;
  early.add(0, 0, -9.0);
  negative.learn(early.batch());
  BOOST_CHECK_EQUAL(negative.latest_time(), -9.0);
}

BOOST_AUTO_TEST_CASE(events_that_werent_positive_dont_enter_histories) {
  Fixed model({1.0f, 1.0f});
  Events events;
  events.add(0, 0, 1.0);
  events.add(0, 1, 2.0);
  events.labels = {0.0f, 1.0f};
  model.learn(events.batch());
  BOOST_CHECK_EQUAL(model.histories().length(0), 1u);
  BOOST_CHECK_EQUAL(model.histories().recent(0, 0).item, 1);
  BOOST_CHECK_EQUAL(model.event_count(), 2u);
  BOOST_CHECK_EQUAL(model.user_count(), 1u);
}

BOOST_AUTO_TEST_CASE(slices) {
  Events events = random_events(1, 10, 3, 5);
  events.labels.assign(10, 0.5f);
  const EventBatch part = events.batch().slice(3, 7);
  BOOST_CHECK_EQUAL(part.size(), 4u);
  BOOST_CHECK_EQUAL(part.users[0], events.users[3]);
  BOOST_CHECK_EQUAL(part.items[3], events.items[6]);
  BOOST_CHECK_EQUAL(part.labels.size(), 4u);
  BOOST_CHECK_EQUAL(part.time(1), events.times[4]);
  const EventBatch bare{events.users, events.items, {}, {}};
  BOOST_CHECK(bare.slice(2, 4).labels.empty() && bare.slice(2, 4).times.empty());
  BOOST_CHECK_EQUAL(bare.label(0), 1.0f);
  BOOST_CHECK_EQUAL(bare.time(0), 0.0);
}

BOOST_AUTO_TEST_CASE(events_that_arent_valid_are_refused) {
  const auto refused = [](auto spoil, std::initializer_list<std::string_view> parts) {
    Events events = random_events(2, 4, 3, 5);
    events.labels.assign(4, 1.0f);
    validate(events.batch());
    spoil(events);
    check_throws<std::invalid_argument>([&] { validate(events.batch()); }, parts);
  };
  refused([](Events& e) { e.items.pop_back(); }, {"items has length 3", "4"});
  refused([](Events& e) { e.labels.pop_back(); }, {"labels has length 3"});
  refused([](Events& e) { e.times.push_back(0.0); }, {"timestamps has length 5"});
  refused([](Events& e) { e.users[2] = -1; }, {"users[2] = -1"});
  refused([](Events& e) { e.items[3] = 2147483647; }, {"items[3] = 2147483647"});
  refused([](Events& e) { e.labels[1] = kNan; }, {"labels[1] = ", "finite"});
  refused([](Events& e) { e.times[0] = -std::numeric_limits<double>::infinity(); }, {"timestamps[0] = -inf"});
}

BOOST_AUTO_TEST_CASE(history_sizes_out_of_range_are_refused) {
  check_throws<std::invalid_argument>([] { Fixed({}, 0); }, {"history_size = 0"});
  check_throws<std::invalid_argument>([] { Fixed({}, 1'000'001); }, {"history_size = 1000001"});
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
