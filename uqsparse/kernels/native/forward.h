// y = x W with the outputs of a group in the vectors: their sums, of as many rows as fit the registers, stay there while
// the inputs of the group go by. Few rows are read straight from x, many from a panel; small groups go by rows.

#pragma once

#include "forward_by_rows.h"
#include "panels.h"

namespace uqsparse {
namespace {

// Rows of x that fit beside each other in the registers: M * V sums, V values and a spare.
template <int V>
constexpr int most_rows() {
  constexpr int fit = (kRegisters - V - 2) / V;
  return fit > 16 ? 16 : fit < 1 ? 1 : fit;
}

template <int W, int V, int M>
void forward_tile(const float* panel, const int32_t* idx, size_t n, const float* val, size_t stride, float* y,
                  size_t y_stride, size_t rows, size_t columns) {
  typedef typename Vector<W>::type Vec;
  Vec sum[M][V] = {};
  for (size_t j = 0; j < n; ++j) {
    __builtin_prefetch(panel + ahead(idx, j, n) * M);
    const float* x = plain(panel + static_cast<size_t>(idx[j]) * M);
    Vec v[V];
    UQSPARSE_UNROLL
    for (int c = 0; c < V; ++c) v[c] = load<W>(val + j * stride + c * W);
    UQSPARSE_UNROLL
    for (int m = 0; m < M; ++m)
      UQSPARSE_UNROLL
      for (int c = 0; c < V; ++c) sum[m][c] += v[c] * x[m];
  }
  if (columns >= W * V && rows == M) {
    for (int m = 0; m < M; ++m)
      for (int c = 0; c < V; ++c) store<W>(y + m * y_stride + c * W, sum[m][c]);
    return;
  }
  for (int m = 0; m < M; ++m)
    for (int c = 0; c < V; ++c)
      if (static_cast<size_t>(m) < rows && static_cast<size_t>(c * W) < columns)
        store_some<W>(y + m * y_stride + c * W, sum[m][c], columns - c * W);
}

// The height of the panel is known at run time, the tile's rows when it is compiled.
template <int W, int V, int M>
inline void forward_tiles(size_t height, const float* panel, const int32_t* idx, size_t n, const float* val,
                          size_t stride, float* y, size_t y_stride, size_t rows, size_t columns) {
  if (height == M) return forward_tile<W, V, M>(panel, idx, n, val, stride, y, y_stride, rows, columns);
  if constexpr (M > 1) forward_tiles<W, V, M - 1>(height, panel, idx, n, val, stride, y, y_stride, rows, columns);
}

// Sums of few rows, U of each over every U-th entry, so that they do not wait for one another.
template <int W, int V, int M, int U>
void direct_tile(const float* x, size_t x_stride, const int32_t* idx, size_t n, const float* val, size_t stride,
                 float* y, size_t y_stride, size_t columns) {
  typedef typename Vector<W>::type Vec;
  Vec sum[U][M][V] = {};
  size_t j = 0;
  for (; j + U <= n; j += U)
    for (int u = 0; u < U; ++u) {
      const float* from = x + idx[j + u];
      Vec v[V];
      for (int c = 0; c < V; ++c) v[c] = load<W>(val + (j + u) * stride + c * W);
      for (int m = 0; m < M; ++m)
        for (int c = 0; c < V; ++c) sum[u][m][c] += v[c] * from[m * x_stride];
    }
  for (; j < n; ++j)
    for (int m = 0; m < M; ++m)
      for (int c = 0; c < V; ++c) sum[0][m][c] += load<W>(val + j * stride + c * W) * x[idx[j] + m * x_stride];
  for (int m = 0; m < M; ++m)
    for (int c = 0; c < V; ++c) {
      for (int u = 1; u < U; ++u) sum[0][m][c] += sum[u][m][c];
      if (static_cast<size_t>(c * W) < columns) store_some<W>(y + m * y_stride + c * W, sum[0][m][c], columns - c * W);
    }
}

void forward_direct(const GroupMatrix& a, Range groups, const float* x, size_t rows, float* y) {
  for (size_t g = groups.begin; g < groups.end; ++g) {
    const size_t first = a.ptr[g], n = a.ptr[g + 1] - first;
    const int32_t* idx = a.idx + first;
    in_parts(a.group, a.n_outputs - g * a.group, [&](size_t offset, size_t width) {
      const size_t output = g * a.group + offset;
      const size_t columns = least(width, a.n_outputs - output);
      const float* val = a.val + first * a.group + offset;
      for (size_t row = 0; row < rows;) {
        const float* from = x + row * a.n_inputs;
        float* to = y + row * a.n_outputs + output;
        const size_t m = rows - row >= 3 ? 3 : rows - row;
#define UQSPARSE_DIRECT(PART)                                                                                       \
  if (width == PART) {                                                                                              \
    constexpr int W = Shape<PART>::W, V = Shape<PART>::V;                                                           \
    if (m == 1)                                                                                                     \
      direct_tile<W, V, 1, 4>(from, a.n_inputs, idx, n, val, a.group, to, a.n_outputs, columns);                    \
    else if (m == 2)                                                                                                \
      direct_tile<W, V, 2, (V > 2 ? 1 : 2)>(from, a.n_inputs, idx, n, val, a.group, to, a.n_outputs, columns);      \
    else                                                                                                            \
      direct_tile<W, V, 3, (V > 1 ? 1 : 2)>(from, a.n_inputs, idx, n, val, a.group, to, a.n_outputs, columns);      \
  }
        UQSPARSE_DIRECT(32)
        UQSPARSE_DIRECT(16)
        UQSPARSE_DIRECT(8)
        UQSPARSE_DIRECT(4)
        UQSPARSE_DIRECT(2)
        UQSPARSE_DIRECT(1)
#undef UQSPARSE_DIRECT
        row += m;
      }
    });
  }
}

size_t tallest(size_t group) {
  if (group >= 32) return most_rows<Shape<32>::V>();
  if (group >= 16) return most_rows<Shape<16>::V>();
  return most_rows<Shape<8>::V>();
}

size_t forward_rows(size_t group, size_t rows) {
  if (group < 8) return kWidth * vectors_for(rows);
  const size_t most = tallest(group);
  const size_t panels = (rows + most - 1) / most;
  return (rows + panels - 1) / panels;
}

void forward_panel(const GroupMatrix& a, Range groups, const float* panel, size_t height, size_t rows, float* y) {
  if (a.group < 8) {
    const size_t vectors = height / kWidth;
    if (vectors == 1) return batch_panel<1>(a, groups, panel, rows, y);
    if (vectors == 2) return batch_panel<2>(a, groups, panel, rows, y);
    if (vectors == 4) return batch_panel<4>(a, groups, panel, rows, y);
    return batch_panel<kMostVectors>(a, groups, panel, rows, y);
  }
  for (size_t g = groups.begin; g < groups.end; ++g) {
    const size_t first = a.ptr[g], n = a.ptr[g + 1] - first;
    const int32_t* idx = a.idx + first;
    in_parts(a.group, a.n_outputs - g * a.group, [&](size_t offset, size_t width) {
      const size_t output = g * a.group + offset;
      const size_t columns = least(width, a.n_outputs - output);
      const float* val = a.val + first * a.group + offset;
      float* to = y + output;
#define UQSPARSE_FORWARD(PART)                                                                                   \
  if (width == PART) {                                                                                           \
    constexpr int W = Shape<PART>::W, V = Shape<PART>::V;                                                        \
    forward_tiles<W, V, most_rows<V>()>(height, panel, idx, n, val, a.group, to, a.n_outputs, rows, columns);    \
  }
      UQSPARSE_FORWARD(32)
      UQSPARSE_FORWARD(16)
      UQSPARSE_FORWARD(8)
      UQSPARSE_FORWARD(4)
      UQSPARSE_FORWARD(2)
      UQSPARSE_FORWARD(1)
#undef UQSPARSE_FORWARD
    });
  }
}

}  // namespace
}  // namespace uqsparse
