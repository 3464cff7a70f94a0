// dval: for every entry of a group the sum over rows of x at its input times dy of the group's outputs, which are in the
// vectors.

#pragma once

#include "vectors.h"

namespace uqsparse {
namespace {

template <int W, int V, int J>
void value_tile(const float* panel, size_t height, const int32_t* idx, size_t left, size_t rows, const float* dy,
                size_t dy_stride, bool first, float* dval, size_t stride) {
  typedef typename Vector<W>::type Vec;
  Vec sum[J][V] = {};
  const float* x[J];
  UQSPARSE_UNROLL
  for (int j = 0; j < J; ++j) x[j] = panel + static_cast<size_t>(idx[j]) * height;
  if (left >= 2 * J)
    for (int j = J; j < 2 * J; ++j)
      for (size_t r = 0; r < rows; r += 16) __builtin_prefetch(panel + static_cast<size_t>(idx[j]) * height + r);
  for (size_t r = 0; r < rows; ++r) {
    Vec d[V];
    UQSPARSE_UNROLL
    for (int c = 0; c < V; ++c) d[c] = load<W>(dy + r * dy_stride + c * W);
    UQSPARSE_UNROLL
    for (int j = 0; j < J; ++j)
      UQSPARSE_UNROLL
      for (int c = 0; c < V; ++c) sum[j][c] += d[c] * x[j][r];
  }
  for (int j = 0; j < J; ++j)
    for (int c = 0; c < V; ++c) {
      float* to = dval + j * stride + c * W;
      store<W>(to, first ? sum[j][c] : load<W>(to) + sum[j][c]);
    }
}

template <int W, int V>
void value_part(const GroupMatrix& a, size_t begin, size_t end, size_t offset, const float* panel, size_t height,
                size_t rows, const float* dy, bool first, float* dval) {
  constexpr int most = (kRegisters - V - 1) / V, J = most > 10 ? 10 : most;
  size_t j = begin;
#define UQSPARSE_VALUES(COUNT)                                                                                  \
  for (; j + COUNT <= end; j += COUNT)                                                                          \
    value_tile<W, V, COUNT>(panel, height, a.idx + j, end - j, rows, dy + offset, a.group, first,                        \
                            dval + j * a.group + offset, a.group);
  UQSPARSE_VALUES(J)
  if constexpr (J > 4) {
    UQSPARSE_VALUES(4)
  }
  if constexpr (J > 2) {
    UQSPARSE_VALUES(2)
  }
  UQSPARSE_VALUES(1)
#undef UQSPARSE_VALUES
}

void value_gradient(const GroupMatrix& a, size_t group, const float* panel, size_t height, size_t rows, const float* dy,
                    bool first, float* scratch, float* dval) {
  const size_t begin = a.ptr[group], end = a.ptr[group + 1];
  if (begin == end) return;
  // dy of the group side by side: rows of a wide dy lie a power of two apart and would push one another out of the cache.
  const size_t output = group * a.group, columns = least(a.group, a.n_outputs - output);
  for (size_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < a.group; ++i)
      scratch[r * a.group + i] = i < columns ? dy[r * a.n_outputs + output + i] : 0.0f;
  in_parts(a.group, a.group, [&](size_t offset, size_t width) {
#define UQSPARSE_PART(PART)                                                                                        \
  if (width == PART)                                                                                               \
    value_part<Shape<PART>::W, Shape<PART>::V>(a, begin, end, offset, panel, height, rows, scratch, first, dval);
    UQSPARSE_PART(32)
    UQSPARSE_PART(16)
    UQSPARSE_PART(8)
    UQSPARSE_PART(4)
    UQSPARSE_PART(2)
    UQSPARSE_PART(1)
#undef UQSPARSE_PART
  });
}

}  // namespace
}  // namespace uqsparse
