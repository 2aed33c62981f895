// Queries in the form that scans of int8 rows want.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "fastinc/metric.h"

namespace fastinc {

/// Hits and `found` aside: those are the scans' own. Rows of every rank are wanted.
class CodedQueries {
 public:
  /// queries: (n, dim); is_table: rows of codes stand for float rows
  CodedQueries(const Kernels& kernel, const float* queries, std::size_t n, std::size_t dim, Metric metric,
               bool is_table);

  const CodeQuery& operator[](std::size_t q) const { return queries_[q]; }
  std::size_t size() const { return queries_.size(); }

 private:
  std::size_t stride_;
  std::vector<std::int8_t> codes_;
  std::vector<CodeQuery> queries_;
};

/// Want rows of this rank or better.
void set_threshold(CodeQuery& query, float threshold, float rounding);

}  // namespace fastinc
