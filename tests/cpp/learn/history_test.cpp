#include "fastinc/history.h"

#include <deque>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(history)

BOOST_AUTO_TEST_CASE(a_ring_against_a_deque) {
  for (const std::size_t capacity : {std::size_t{1}, std::size_t{2}, std::size_t{7}, std::size_t{20}}) {
    Generator random(capacity);
    Histories histories(capacity);
    std::vector<std::deque<HistoryEntry>> model(5);
    bool same = true;
    for (int event = 0; event < 300; ++event) {
      const std::size_t user = below(random, 5);
      const HistoryEntry entry{static_cast<std::int32_t>(below(random, 1000)), static_cast<double>(event)};
      histories.push(static_cast<std::int64_t>(user), entry.item, entry.time);
      model[user].push_front(entry);
      if (model[user].size() > capacity) model[user].pop_back();
      for (std::size_t u = 0; u < histories.size(); ++u) {
        const auto code = static_cast<std::int64_t>(u);
        same = same && histories.length(code) == model[u].size();
        for (std::size_t l = 0; same && l < model[u].size(); ++l) {
          const HistoryEntry& recent = histories.recent(code, l);
          same = recent.item == model[u][l].item && recent.time == model[u][l].time;
        }
      }
    }
    BOOST_CHECK_MESSAGE(same, "capacity " << capacity);
    BOOST_CHECK_EQUAL(histories.capacity(), capacity);
  }
}

BOOST_AUTO_TEST_CASE(unknown_users_have_nothing) {
  Histories histories(3);
  BOOST_CHECK_EQUAL(histories.length(0), 0u);
  BOOST_CHECK_EQUAL(histories.length(-1), 0u);
  histories.ensure_user(4);
  BOOST_CHECK_EQUAL(histories.size(), 5u);
  BOOST_CHECK_EQUAL(histories.length(4), 0u);
  BOOST_CHECK_EQUAL(histories.length(5), 0u);
  histories.ensure_user(2);
  BOOST_CHECK_EQUAL(histories.size(), 5u);
  histories.push(2, 9, 1.0);
  histories.clear();
  BOOST_CHECK_EQUAL(histories.size(), 0u);
  BOOST_CHECK_EQUAL(histories.length(2), 0u);
}

BOOST_AUTO_TEST_CASE(memory_stays_bounded) {
  Histories histories(50);
  for (int k = 0; k < 50; ++k) histories.push(0, k, 0.0);
  const std::size_t full = histories.bytes();
  for (int k = 0; k < 10000; ++k) histories.push(0, k, 0.0);
  BOOST_CHECK_EQUAL(histories.bytes(), full);
  BOOST_CHECK_GE(full, 50 * sizeof(HistoryEntry));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
