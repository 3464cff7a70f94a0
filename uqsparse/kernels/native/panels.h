// Panels: some rows of a matrix turned over, so that what is multiplied by one weight lies side by side.

#pragma once

#include "vectors.h"

namespace uqsparse {
namespace {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define UQSPARSE_SHUFFLE 1
#endif
#endif

#ifdef UQSPARSE_SHUFFLE
template <int W, int S, bool Upper, class Sequence>
struct Exchange;

template <int... L>
struct Sequence {};
template <int N, int... L>
struct Count : Count<N - 1, N - 1, L...> {};
template <int... L>
struct Count<0, L...> {
  typedef Sequence<L...> type;
};

// Lane l of the lower result is a[l] or b[l - S], of the upper one a[l + S] or b[l], by bit S of l.
template <int W, int S, bool Upper, int... L>
struct Exchange<W, S, Upper, Sequence<L...>> {
  static typename Vector<W>::type of(typename Vector<W>::type a, typename Vector<W>::type b) {
    return __builtin_shufflevector(a, b, (Upper ? ((L & S) ? W + L : L + S) : ((L & S) ? W + L - S : L))...);
  }
};

template <int W, int S>
inline void transpose_stage(typename Vector<W>::type* rows) {
  typedef typename Count<W>::type All;
  for (int i = 0; i < W; ++i) {
    if (i & S) continue;
    auto a = rows[i], b = rows[i | S];
    rows[i] = Exchange<W, S, false, All>::of(a, b);
    rows[i | S] = Exchange<W, S, true, All>::of(a, b);
  }
}

template <int W>
inline void transpose(typename Vector<W>::type* rows) {
  if constexpr (W >= 16) transpose_stage<W, 8>(rows);
  if constexpr (W >= 8) transpose_stage<W, 4>(rows);
  transpose_stage<W, 2>(rows);
  transpose_stage<W, 1>(rows);
}
#else
template <int W>
inline void transpose(typename Vector<W>::type* rows) {
  for (int i = 0; i < W; ++i)
    for (int l = i + 1; l < W; ++l) {
      float kept = rows[i][l];
      rows[i][l] = rows[l][i];
      rows[l][i] = kept;
    }
}
#endif

template <int W>
void pack_by(const float* x, size_t stride, size_t rows, size_t columns, size_t height, float* panel) {
  typedef typename Vector<W>::type Vec;
  const size_t whole = columns - columns % W;
  // A vector stored where fewer rows are left runs into the next column of the panel, which is written afterwards: true
  // if the panel is at most a vector high, and needless if it is a multiple of vectors.
  const bool wide = height <= W || height % W == 0;
  for (size_t k = 0; k < whole; k += W) {
    for (size_t first = 0; first < height; first += W) {
      Vec block[W];
      for (size_t r = 0; r < W; ++r) {
        const size_t row = first + r;
        block[r] = row < rows && row < height ? load<W>(x + row * stride + k) : Vec{};
      }
      transpose<W>(block);
      for (size_t c = 0; c < W; ++c) {
        float* to = panel + (k + c) * height + first;
        if (wide) {
          store<W>(to, block[c]);
        } else {
          store_some<W>(to, block[c], height - first);
        }
      }
    }
  }
  for (size_t k = whole; k < columns; ++k)
    for (size_t r = 0; r < height; ++r) panel[k * height + r] = r < rows ? x[r * stride + k] : 0.0f;
}

void pack(const float* x, size_t stride, size_t rows, size_t columns, size_t height, float* panel) {
  if (height <= 4) return pack_by<4>(x, stride, rows, columns, height, panel);
  if (height <= 8 || height % kWidth != 0) return pack_by<(kWidth < 8 ? kWidth : 8)>(x, stride, rows, columns, height, panel);
  pack_by<kWidth>(x, stride, rows, columns, height, panel);
}

// to[r * stride + c] = panel[c * height + r] for c < columns, r < rows.
template <int W>
void unpack_by(const float* panel, size_t height, size_t rows, size_t columns, float* to, size_t stride) {
  typedef typename Vector<W>::type Vec;
  const size_t whole = columns - columns % W;
  for (size_t c = 0; c < whole; c += W)
    for (size_t first = 0; first < rows; first += W) {
      Vec block[W];
      if (first + W <= height) {
        for (size_t i = 0; i < W; ++i) block[i] = load<W>(panel + (c + i) * height + first);
        transpose<W>(block);
        const size_t some = least(W, rows - first);
        for (size_t r = 0; r < some; ++r) store<W>(to + (first + r) * stride + c, block[r]);
      } else {
        for (size_t r = first; r < rows; ++r)
          for (size_t i = 0; i < W; ++i) to[r * stride + c + i] = panel[(c + i) * height + r];
      }
    }
  for (size_t c = whole; c < columns; ++c)
    for (size_t r = 0; r < rows; ++r) to[r * stride + c] = panel[c * height + r];
}

constexpr size_t kColumns = 16;  // outputs whose sums are turned over together
constexpr int kMostVectors = kWidth == 16 ? 4 : 8;

size_t vectors_for(size_t rows) {
  size_t vectors = (rows + kWidth - 1) / kWidth, most = kMostVectors;
  if (vectors >= most) return most;
  size_t found = 1;
  while (found < vectors) found *= 2;
  return found;
}

}  // namespace
}  // namespace uqsparse
