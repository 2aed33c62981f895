#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/events.h"
#include "support/recommender.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(cold_start)

BOOST_AUTO_TEST_CASE(smoke) {
  RecommenderConfig config = small_config();
  config.feature_numbers = 3;
  config.feature_buckets = 4;
  config.tie_weight = 1.0;
  config.batch_size = 8;
  config.hidden = 5;
  config.situations = true;
  config.long_window = 5;
  Recommender model(config, share(AdagradParams{}));
  FeatureState f;
  Generator random(3);
  for (int j = 0; j < 50; ++j) {
    f.items.push_back(j);
    f.offsets.push_back(static_cast<std::int64_t>(f.buckets.size()));
    if (j % 2) f.buckets.push_back(j % 4);
  }
  f.offsets.push_back(static_cast<std::int64_t>(f.buckets.size()));
  f.numbers = uniform_floats(random, 150);
  model.add_items(f.items, f.batch());
  for (int e = 0; e < 40; ++e) {
    std::vector<std::int64_t> users, items;
    for (int i = 0; i < 25; ++i) {
      users.push_back(static_cast<std::int64_t>(below(random, 20)));
      items.push_back(static_cast<std::int64_t>(below(random, 60)));
    }
    model.learn({users, items, {}, {}});
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
