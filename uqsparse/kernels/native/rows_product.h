// y = x W over chosen inputs: the rows of W that they name, times x, are added up, four at a time.

#pragma once

#include "vectors.h"

namespace uqsparse {
namespace {

template <int S>
void add_rows(const float* x, const float* w, const int32_t* idx, size_t n_outputs, Range columns, float* y) {
  typedef typename Vector<kWidth>::type Vec;
  const float* row[S];
  float scale[S];
  for (int s = 0; s < S; ++s) {
    row[s] = w + static_cast<size_t>(idx[s]) * n_outputs;
    scale[s] = x[idx[s]];
  }
  size_t n = columns.begin;
  for (; n + kWidth <= columns.end; n += kWidth) {
    Vec sum = load<kWidth>(y + n);
    for (int s = 0; s < S; ++s) sum += load<kWidth>(row[s] + n) * scale[s];
    store<kWidth>(y + n, sum);
  }
  for (; n < columns.end; ++n) {
    float sum = y[n];
    for (int s = 0; s < S; ++s) sum = __builtin_fmaf(row[s][n], scale[s], sum);
    y[n] = sum;
  }
}

void rows_product(const float* x, const float* w, const int32_t* idx, size_t n_idx, size_t n_outputs, Range columns,
                  float* y) {
  constexpr size_t block = 512;
  for (size_t begin = columns.begin; begin < columns.end; begin += block) {
    const Range now{begin, least(begin + block, columns.end)};
    for (size_t n = now.begin; n < now.end; ++n) y[n] = 0.0f;
    size_t s = 0;
    for (; s + 4 <= n_idx; s += 4) add_rows<4>(x, w, idx + s, n_outputs, now, y);
    for (; s < n_idx; ++s) add_rows<1>(x, w, idx + s, n_outputs, now, y);
  }
}

}  // namespace
}  // namespace uqsparse
