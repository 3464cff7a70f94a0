// Vectors of floats in the extensions of GCC and Clang, and how groups of outputs fall into them.
//
// The kernels are built once for each instruction set, with UQSPARSE_WIDTH, the floats of a vector. What they share is in
// headers without a name outside the file that includes them, so that nothing built for one is linked into another.

#pragma once

#include "sparse_products.h"

#ifndef UQSPARSE_WIDTH
#error "UQSPARSE_WIDTH says for which vectors this is built"
#endif

namespace uqsparse {
namespace {

constexpr int kWidth = UQSPARSE_WIDTH;
// 16 registers with AVX2, 32 with AVX-512 and NEON.
constexpr int kRegisters = kWidth == 8 ? 16 : 32;

template <int W>
struct Vector {
  typedef float type __attribute__((vector_size(4 * W)));
  typedef float unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
};

template <int W>
inline typename Vector<W>::type load(const float* from) {
  return *reinterpret_cast<const typename Vector<W>::unaligned*>(from);
}

template <int W>
inline void store(float* to, typename Vector<W>::type value) {
  *reinterpret_cast<typename Vector<W>::unaligned*>(to) = value;
}

template <int W>
inline void store_some(float* to, typename Vector<W>::type value, size_t count) {
  if (count >= W) return store<W>(to, value);
  for (size_t i = 0; i < count; ++i) to[i] = value[i];
}

// Loops over registers are unrolled, or their arrays would lie in memory.
#if defined(__clang__)
#define UQSPARSE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define UQSPARSE_UNROLL _Pragma("GCC unroll 32")
#endif

// The pointer itself, of which the compiler may not know that it is a base and an index: an instruction that multiplies
// what it loads from a base and an index counts twice on many processors.
inline const float* plain(const float* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

// The input that is met a few entries later, n > 0. Which lines of a panel are needed is known long before, and no
// processor guesses it.
inline size_t ahead(const int32_t* idx, size_t j, size_t n) { return static_cast<size_t>(idx[least(j + 8, n - 1)]); }

// Calls `part(offset, width)` for the pieces of a group that fit vectors, 32, 16, 8, 4, 2 and 1 outputs wide, as far as
// they begin among `used` outputs.
template <class Part>
inline void in_parts(size_t group, size_t used, const Part& part) {
  size_t offset = 0;
  for (size_t width = 32; width >= 1; width /= 2)
    for (; group - offset >= width && offset < used; offset += width) part(offset, width);
}

template <int Part>
struct Shape {  // a part of a group as V vectors of W floats
  static constexpr int W = Part < kWidth ? Part : kWidth;
  static constexpr int V = Part / W;
};

}  // namespace
}  // namespace uqsparse
