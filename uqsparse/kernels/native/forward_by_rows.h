// y = x W with rows in the vectors, for groups of fewer than 8 outputs: every weight is multiplied with vectors of rows.

#pragma once

#include "panels.h"

namespace uqsparse {
namespace {

// P outputs of NV vectors of rows, in a panel of `height` rows.
template <int NV, int P>
void batch_tile(const float* panel, size_t height, const int32_t* idx, size_t n, const float* val, size_t stride,
                float* out) {
  typedef typename Vector<kWidth>::type Vec;
  Vec sum[P][NV] = {};
  for (size_t j = 0; j < n; ++j) {
    UQSPARSE_UNROLL
    for (int c = 0; c < NV; c += 16 / kWidth) __builtin_prefetch(panel + ahead(idx, j, n) * height + c * kWidth);
    const float* from = plain(panel + static_cast<size_t>(idx[j]) * height);
    const float* v = val + j * stride;
    Vec x[NV];
    UQSPARSE_UNROLL
    for (int c = 0; c < NV; ++c) x[c] = load<kWidth>(from + c * kWidth);
    UQSPARSE_UNROLL
    for (int p = 0; p < P; ++p)
      UQSPARSE_UNROLL
      for (int c = 0; c < NV; ++c) sum[p][c] += x[c] * v[p];
  }
  UQSPARSE_UNROLL
  for (int p = 0; p < P; ++p)
    UQSPARSE_UNROLL
    for (int c = 0; c < NV; ++c) store<kWidth>(out + p * height + c * kWidth, sum[p][c]);
}

// All vectors of rows, as many at a time as fit the registers beside the sums.
template <int NV, int P>
inline void batch_tiles(const float* panel, const int32_t* idx, size_t n, const float* val, size_t stride, float* out) {
  constexpr int fit = (kRegisters - 1) / (P + 1) < 1 ? 1 : (kRegisters - 1) / (P + 1);
  constexpr int step = fit >= NV ? NV : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;  // NV is a power of two
  for (int c = 0; c < NV; c += step)
    batch_tile<step, P>(panel + c * kWidth, kWidth * NV, idx, n, val, stride, out + c * kWidth);
}

template <int NV>
void batch_panel(const GroupMatrix& a, Range groups, const float* panel, size_t rows, float* y) {
  constexpr size_t height = kWidth * NV;
  // One group more than fits: the sums of a group are never split.
  float sums[(kColumns + 8) * height] __attribute__((aligned(64)));
  const size_t together = kColumns / a.group;
  for (size_t g = groups.begin; g < groups.end; g += together) {
    const size_t end = least(g + together, groups.end);
    for (size_t h = g; h < end; ++h) {
      const size_t first = a.ptr[h], n = a.ptr[h + 1] - first;
      in_parts(a.group, a.group, [&](size_t offset, size_t width) {
        const int32_t* idx = a.idx + first;
        const float* val = a.val + first * a.group + offset;
        float* out = sums + ((h - g) * a.group + offset) * height;
        if (width == 4) batch_tiles<NV, 4>(panel, idx, n, val, a.group, out);
        if (width == 2) batch_tiles<NV, 2>(panel, idx, n, val, a.group, out);
        if (width == 1) batch_tiles<NV, 1>(panel, idx, n, val, a.group, out);
      });
    }
    const size_t output = g * a.group;
    const size_t columns = least((end - g) * a.group, a.n_outputs - output);
    unpack_by<kWidth>(sums, height, rows, columns, y + output, a.n_outputs);
  }
}

}  // namespace
}  // namespace uqsparse
