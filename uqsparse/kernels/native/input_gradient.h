// dx = dy W^T with rows in the vectors. Large groups are gone through one after another, and add to the sums of their
// inputs; with small ones an input gathers from its groups.

#pragma once

#include "panels.h"

namespace uqsparse {
namespace {

// Adds to sums[idx[j]] the products of one entry after another with I rows of dy, which stay in registers.
template <int W, int I>
void scatter_tile(const float* dy, const int32_t* idx, size_t n, const float* val, size_t stride, float* sums) {
  typedef typename Vector<W>::type Vec;
  Vec d[I];
  UQSPARSE_UNROLL
  for (int i = 0; i < I; ++i) d[i] = load<W>(dy + i * W);
  size_t j = 0;
  // The inputs of a group are distinct, so four sums can be under way at once.
  for (; j + 4 <= n; j += 4) {
    Vec sum[4];
    const float* v[4];
    UQSPARSE_UNROLL
    for (int u = 0; u < 4; ++u) {
      __builtin_prefetch(sums + ahead(idx, j + u, n) * W, 1);
      sum[u] = load<W>(sums + static_cast<size_t>(idx[j + u]) * W);
      v[u] = plain(val + (j + u) * stride);
    }
    UQSPARSE_UNROLL
    for (int i = 0; i < I; ++i)
      UQSPARSE_UNROLL
      for (int u = 0; u < 4; ++u) sum[u] += d[i] * v[u][i];
    UQSPARSE_UNROLL
    for (int u = 0; u < 4; ++u) store<W>(sums + static_cast<size_t>(idx[j + u]) * W, sum[u]);
  }
  for (; j < n; ++j) {
    Vec sum = load<W>(sums + static_cast<size_t>(idx[j]) * W);
    UQSPARSE_UNROLL
    for (int i = 0; i < I; ++i) sum += d[i] * val[j * stride + i];
    store<W>(sums + static_cast<size_t>(idx[j]) * W, sum);
  }
}

constexpr size_t kHeld = kRegisters == 32 ? 16 : 8;  // rows of dy in registers

size_t lower_bound(const int32_t* idx, size_t n, size_t value) {
  size_t low = 0;
  while (n > 0) {
    const size_t half = n / 2;
    if (static_cast<size_t>(idx[low + half]) < value) {
      low += half + 1;
      n -= half + 1;
    } else {
      n = half;
    }
  }
  return low;
}

template <int W>
void scatter_panel(const GroupMatrix& a, Range inputs, const float* panel, size_t rows, float* sums, float* dx) {
  for (size_t i = inputs.begin * W; i < inputs.end * W; ++i) sums[i] = 0.0f;
  const bool all = inputs.begin == 0 && inputs.end == a.n_inputs;
  for (size_t g = 0; g < a.n_groups; ++g) {
    size_t first = a.ptr[g], n = a.ptr[g + 1] - first;
    if (!all) {
      const size_t begin = lower_bound(a.idx + first, n, inputs.begin), end = lower_bound(a.idx + first, n, inputs.end);
      first += begin;
      n = end - begin;
    }
    const int32_t* idx = a.idx + first;
    for (size_t offset = 0; offset < a.group;) {
      const size_t output = g * a.group + offset;
      if (output >= a.n_outputs) break;
      const size_t left = least(a.group - offset, a.n_outputs - output);
      const float* val = a.val + first * a.group + offset;
      const float* dy = panel + output * W;
      if (left >= kHeld) {
        scatter_tile<W, kHeld>(dy, idx, n, val, a.group, sums);
        offset += kHeld;
      } else if (left >= 8) {
        scatter_tile<W, 8>(dy, idx, n, val, a.group, sums);
        offset += 8;
      } else if (left >= 4) {
        scatter_tile<W, 4>(dy, idx, n, val, a.group, sums);
        offset += 4;
      } else {
        scatter_tile<W, 1>(dy, idx, n, val, a.group, sums);
        offset += 1;
      }
    }
  }
  unpack_by<W>(sums + inputs.begin * W, W, rows, inputs.end - inputs.begin, dx + inputs.begin, a.n_inputs);
}

// Small groups: one input after another, over its groups.
template <int NV>
void gather_panel(const GroupMatrix& a, const InputIndex& by_input, Range inputs, const float* panel, size_t rows,
                  float* dx) {
  typedef typename Vector<kWidth>::type Vec;
  constexpr size_t height = kWidth * NV;
  float sums[kColumns * height] __attribute__((aligned(64)));
  for (size_t k = inputs.begin; k < inputs.end; k += kColumns) {
    const size_t end = least(k + kColumns, inputs.end);
    for (size_t h = k; h < end; ++h) {
      Vec sum[NV] = {};
      const size_t stop = by_input.ptr_t[h + 1];
      for (size_t t = by_input.ptr_t[h]; t < stop; ++t) {
        const size_t output = static_cast<size_t>(by_input.group_t[t]) * a.group;
        const float* val = a.val + static_cast<size_t>(by_input.pos_t[t]) * a.group;
        const size_t count = least(a.group, a.n_outputs - output);
        for (size_t i = 0; i < count; ++i) {
          const float* from = panel + (output + i) * height;
          UQSPARSE_UNROLL
          for (int c = 0; c < NV; ++c) sum[c] += load<kWidth>(from + c * kWidth) * val[i];
        }
      }
      for (int c = 0; c < NV; ++c) store<kWidth>(sums + (h - k) * height + c * kWidth, sum[c]);
    }
    unpack_by<kWidth>(sums, height, rows, end - k, dx + k, a.n_inputs);
  }
}

size_t input_gradient_rows(size_t group, size_t rows) {
  if (group < 8) return kWidth * vectors_for(rows);
  if (rows <= 4) return 4;
  return rows <= 8 && kWidth >= 8 ? 8 : kWidth;
}

void input_gradient(const GroupMatrix& a, const InputIndex& by_input, Range inputs, const float* panel, size_t height,
                    size_t rows, float* scratch, float* dx) {
  if (a.group < 8) {
    const size_t vectors = height / kWidth;
    if (vectors == 1) return gather_panel<1>(a, by_input, inputs, panel, rows, dx);
    if (vectors == 2) return gather_panel<2>(a, by_input, inputs, panel, rows, dx);
    if (vectors == 4) return gather_panel<4>(a, by_input, inputs, panel, rows, dx);
    return gather_panel<kMostVectors>(a, by_input, inputs, panel, rows, dx);
  }
  if (height == 4) return scatter_panel<4>(a, inputs, panel, rows, scratch, dx);
  if constexpr (kWidth > 8) {
    if (height == 8) return scatter_panel<8>(a, inputs, panel, rows, scratch, dx);
  }
  scatter_panel<kWidth>(a, inputs, panel, rows, scratch, dx);
}

}  // namespace
}  // namespace uqsparse
