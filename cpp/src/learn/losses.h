// What a recommender minimises: by the scores of an event's item and of the negatives.
#pragma once

#include <cstddef>
#include <span>

#include "fastinc/recommender.h"

namespace fastinc {

struct LossTerms {
  Loss loss;
  float offset;  // what labelled losses start from
  float label;
  bool labelled;

  /// Turn scores, the event's item first, into d loss / d score. False where one isn't finite.
  bool differentiate(std::span<float> scores) const;
};

float sigmoid(float x);

}  // namespace fastinc
