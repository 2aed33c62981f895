// What top-k over a caller's int8 rows refuses, in the same words on the CPU and on a device.
#pragma once

#include <cstddef>

namespace fastinc {

/// Throws std::invalid_argument, naming the argument and the value.
void check_topk_sizes(std::size_t n, std::size_t num_rows, std::size_t dim, std::size_t k);

}  // namespace fastinc
