// A table on the CPU and one in device memory that are to be the same after every call.
#pragma once

#include <boost/test/unit_test.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device_array.h"
#include "fastinc/cuda_table.h"
#include "fastinc/table.h"
#include "support/support.h"

namespace fastinc::test {

using Ids = std::vector<std::int64_t>;

inline const Initializer kNormal{InitializerKind::kNormal, 0.1, 0.5, 7};

/// The time of tables with a ttl.
inline double& clock_seconds() {
  static double seconds = 0.0;
  return seconds;
}
inline double read_clock() {
  return clock_seconds();
}

/// What was thrown, or nothing.
template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return std::string("invalid_argument: ") + error.what();
  } catch (const std::length_error& error) {
    return std::string("length_error: ") + error.what();
  }
  return {};
}

inline void check_same_state(const TableState& got, const TableState& expected, const std::string& what) {
  check_same_bytes(got.ids, expected.ids, what + "ids ");
  check_same_bytes(got.row_versions, expected.row_versions, what + "row_versions ");
  check_same_bytes(got.weights, expected.weights, what + "weights ");
  check_same_bytes(got.state, expected.state, what + "state ");
  check_same_bytes(got.frequencies, expected.frequencies, what + "frequencies ");
  BOOST_TEST(got.version == expected.version, what << "version");
}

class TablePair {
 public:
  TablePair(const OptimizerParams& params, std::size_t dim, const TableBounds& bounds = {},
            const Initializer& init = kNormal)
      : cpu(dim, std::make_shared<Optimizer>(params), init, bounds),
        gpu(dim, std::make_shared<Optimizer>(params), init, bounds),
        dim_(dim) {}

  std::size_t update(const Ids& ids, const std::vector<float>& grads, NonFinite policy = NonFinite::kRaise) {
    const cuda::DeviceArray<std::int64_t> device_ids(ids);
    const cuda::DeviceArray<float> device_grads(grads);
    std::size_t cpu_skipped = 0, skipped = 0;
    const std::string cpu_error = error_of([&] { cpu_skipped = cpu.update(ids, grads.data(), policy); });
    const std::string error = error_of(
        [&] { skipped = gpu.update(device_ids.data(), ids.size(), device_grads.data(), policy, nullptr); });
    BOOST_TEST(error == cpu_error);
    BOOST_TEST(skipped == cpu_skipped);
    return skipped;
  }
  void load(const Ids& ids, const std::vector<float>& vectors) {
    const cuda::DeviceArray<std::int64_t> device_ids(ids);
    const cuda::DeviceArray<float> device_vectors(vectors);
    const std::string cpu_error = error_of([&] { cpu.load(ids, vectors.data()); });
    const std::string error =
        error_of([&] { gpu.load(device_ids.data(), ids.size(), device_vectors.data(), nullptr); });
    BOOST_TEST(error == cpu_error);
  }
  std::size_t remove(const Ids& ids) {
    const cuda::DeviceArray<std::int64_t> device_ids(ids);
    const std::size_t expected = cpu.remove(ids);
    const std::size_t gone = gpu.remove(device_ids.data(), ids.size(), nullptr);
    BOOST_TEST(gone == expected);
    return gone;
  }
  std::size_t expire() {
    const std::size_t expected = cpu.expire(), gone = gpu.expire();
    BOOST_TEST(gone == expected);
    return gone;
  }

  /// ids: to look up, known or not
  void check_reads(const Ids& ids, const std::string& what) {
    const cuda::DeviceArray<std::int64_t> device_ids(ids);
    std::vector<float> expected(ids.size() * dim_);
    cpu.lookup(ids, expected.data());
    cuda::DeviceArray<float> out(expected.size());
    gpu.lookup(device_ids.data(), ids.size(), out.data(), nullptr);
    check_same_bytes(out.host(), expected, what + "lookup ");
    std::vector<std::uint8_t> expected_codes(ids.size() * (dim_ + kQuantizedTail));
    cpu.lookup_quantized(ids, expected_codes.data());
    cuda::DeviceArray<std::uint8_t> codes(expected_codes.size());
    gpu.lookup_quantized(device_ids.data(), ids.size(), codes.data(), nullptr);
    check_same_bytes(codes.host(), expected_codes, what + "codes ");
    const std::unique_ptr<bool[]> there(new bool[ids.size() + 1]);
    cpu.contains(ids, there.get());
    cuda::DeviceArray<bool> present(ids.size());
    gpu.contains(device_ids.data(), ids.size(), present.data(), nullptr);
    bool same = true;
    for (std::size_t i = 0; i < ids.size(); ++i) same = same && present.data()[i] == there[i];
    BOOST_TEST(same, what << "contains");
  }

  void check_changes(std::uint64_t since, const std::string& what) {
    const Changes expected = cpu.changes(since), got = gpu.changes(since);
    BOOST_TEST(got.version == expected.version);
    BOOST_TEST(got.reset == expected.reset);
    check_same_bytes(got.updated, expected.updated, what + "updated ");
    check_same_bytes(got.removed, expected.removed, what + "removed ");
  }

  void check_same(const std::string& what) {
    BOOST_TEST(gpu.size() == cpu.size());
    BOOST_TEST(gpu.version() == cpu.version());
    check_same_state(gpu.export_state(), cpu.export_state(), what);
    check_same_bytes(gpu.ids(), cpu.ids(), what + "ids() ");
    const auto expected = cpu.stats(), got = gpu.stats();
    BOOST_TEST(got.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      BOOST_TEST(got[i].first == expected[i].first);
      BOOST_TEST(got[i].second == expected[i].second,
                 what << expected[i].first << " is " << got[i].second << ", not " << expected[i].second);
    }
  }

  Table cpu;
  cuda::Table gpu;

 private:
  std::size_t dim_;
};

/// Ids that come again and again, in a range, some of them far out.
inline Ids random_ids(Generator& random, std::size_t n, std::size_t range) {
  Ids ids;
  for (std::size_t i = 0; i < n; ++i) {
    auto id = static_cast<std::int64_t>(below(random, below(random, 3) == 0 ? range : range / 4 + 1));
    if (id % 3 == 1) id = std::numeric_limits<std::int64_t>::min() + id;
    if (id % 3 == 2) id = -id;
    if (id == 6) id = std::numeric_limits<std::int64_t>::max();
    ids.push_back(id);
  }
  return ids;
}

}  // namespace fastinc::test
