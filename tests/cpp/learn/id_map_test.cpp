#include "fastinc/id_map.h"

#include <string>
#include <unordered_map>

#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(id_map)

namespace {

std::string bytes_of(std::int64_t id) {
  return {reinterpret_cast<const char*>(&id), sizeof id};
}

}  // namespace

BOOST_AUTO_TEST_CASE(codes_count_up_in_order_of_appearance) {
  IdMap map;
  BOOST_CHECK_EQUAL(map.find("a"), -1);
  BOOST_CHECK_EQUAL(map.find_or_add("a"), 0);
  BOOST_CHECK_EQUAL(map.find_or_add("b"), 1);
  BOOST_CHECK_EQUAL(map.find_or_add("a"), 0);
  BOOST_CHECK_EQUAL(map.find("b"), 1);
  BOOST_CHECK_EQUAL(map.size(), 2u);
  BOOST_CHECK_EQUAL(map.key(1), "b");
}

BOOST_AUTO_TEST_CASE(any_bytes_are_a_key) {
  IdMap map;
  const std::string keys[] = {
      "",   std::string(1, '\0'), std::string(2, '\0'),    "a\0b", "\xff\xfe",
      "né", "ne\xcc\x81",         std::string(200000, 'x')};  // longer than a block of the arena
  std::int64_t code = 0;
  for (const std::string& key : keys) BOOST_CHECK_EQUAL(map.find_or_add(key), code++);
  for (std::int64_t c = 0; c < code; ++c) {
    BOOST_CHECK(map.key(c) == keys[c]);
    BOOST_CHECK_EQUAL(map.find(keys[c]), c);
  }
}

BOOST_AUTO_TEST_CASE(int64_ids_of_every_kind) {
  IdMap map;
  const std::int64_t ids[] = {0, -1, 1, std::numeric_limits<std::int64_t>::min(),
                              std::numeric_limits<std::int64_t>::max()};
  for (const std::int64_t id : ids) map.find_or_add(bytes_of(id));
  BOOST_CHECK_EQUAL(map.size(), 5u);
  for (std::int64_t c = 0; c < 5; ++c) BOOST_CHECK(map.key(c) == bytes_of(ids[c]));
}

BOOST_AUTO_TEST_CASE(a_hundred_thousand_keys_against_a_model) {
  IdMap map;
  std::unordered_map<std::string, std::int64_t> model;
  Generator random(1);
  bool same = true;
  std::size_t bytes = 0;
  for (int k = 0; k < 150000; ++k) {
    const auto number = static_cast<std::int64_t>(random() % 100000);
    const std::string key = number % 2 == 0 ? bytes_of(number) : "user " + std::to_string(number);
    const auto [it, added] = model.try_emplace(key, static_cast<std::int64_t>(model.size()));
    same = same && map.find(key) == (added ? -1 : it->second) && map.find_or_add(key) == it->second;
    bytes += added ? key.size() : 0;
  }
  BOOST_CHECK(same);
  BOOST_CHECK_EQUAL(map.size(), model.size());
  for (const auto& [key, code] : model) same = same && map.key(code) == key && map.find(key) == code;
  BOOST_CHECK(same);
  BOOST_CHECK_GT(map.bytes(), bytes);
}

BOOST_AUTO_TEST_CASE(codes_out_of_range_are_refused) {
  IdMap map;
  map.find_or_add("a");
  check_throws<std::out_of_range>([&] { map.key(1); }, {"code = 1", "1"});
  check_throws<std::out_of_range>([&] { map.key(-1); }, {"code = -1"});
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
