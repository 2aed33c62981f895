// Which instruction set runs. The environment variable is read once, so ctest runs `environment` in processes
// of their own, each with another FASTINC_ISA.
#include <cstdlib>

#include "cpu/kernels.h"
#include "fastinc/runtime.h"
#include "support/support.h"

namespace fastinc::test {

BOOST_AUTO_TEST_SUITE(isa)

BOOST_AUTO_TEST_CASE(environment) {
  const char* wanted = std::getenv("FASTINC_ISA");
  const std::vector<std::string> available = available_isas();
  if (wanted == nullptr) {
    BOOST_CHECK_EQUAL(current_isa(), available.back());
  } else if (std::find(available.begin(), available.end(), wanted) != available.end()) {
    BOOST_CHECK_EQUAL(current_isa(), wanted);
    BOOST_CHECK_EQUAL(kernels().isa, wanted);
  } else {
    for (int again = 0; again < 2; ++again) {
      check_throws<std::invalid_argument>([] { current_isa(); }, {"FASTINC_ISA = '", wanted, "base"});
    }
  }
}

BOOST_AUTO_TEST_CASE(base_is_always_there) {
  BOOST_REQUIRE(!available_isas().empty());
  BOOST_CHECK_EQUAL(available_isas().front(), "base");
}

BOOST_AUTO_TEST_CASE(selection) {
  const std::string before = current_isa();
  for (const std::string& isa : available_isas()) {
    const UseIsa use(isa);
    BOOST_CHECK_EQUAL(current_isa(), isa);
    BOOST_CHECK_EQUAL(kernels().isa, isa);
  }
  BOOST_CHECK_EQUAL(current_isa(), before);
}

BOOST_AUTO_TEST_CASE(an_unknown_one_is_refused_and_nothing_changes) {
  const std::string before = current_isa();
  for (const char* name : {"v5", "", "BASE", "base "}) {
    check_throws<std::invalid_argument>([&] { set_isa(name); }, {"isa = '", name, "base"});
  }
  BOOST_CHECK_EQUAL(current_isa(), before);
}

BOOST_AUTO_TEST_CASE(every_kernel_is_there) {
  for (const std::string& isa : available_isas()) {
    const UseIsa use(isa);
    const Kernels& k = kernels();
    for (std::size_t i = 0; i < kOptimizerCount; ++i) {
      BOOST_CHECK(k.update[i] != nullptr);
      BOOST_CHECK(k.sum_step[i] != nullptr);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace fastinc::test
