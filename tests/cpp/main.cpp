// The one file that compiles Boost.Test itself.
#define BOOST_TEST_MODULE fastinc
#include <boost/test/included/unit_test.hpp>
