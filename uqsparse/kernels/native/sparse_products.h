// What the handlers ask of the kernels. One table of functions for each instruction set the library was built for.
//
// This header and the kernels use no templates of the standard library: those are weak symbols, of which the
// linker keeps one copy, and the copy built for the widest vectors would then run on every machine.

#pragma once

#include <cstddef>
#include <cstdint>

namespace uqsparse {

// W (K, N): group g holds outputs [g * group, (g + 1) * group), and the inputs idx[ptr[g]] .. idx[ptr[g + 1] - 1].
struct GroupMatrix {
  const int32_t* ptr;  // (n_groups + 1,), nondecreasing, from 0 to the number of entries
  const int32_t* idx;  // entries, each in [0, n_inputs)
  const float* val;    // entries x group, row-major
  size_t group;
  size_t n_groups;
  size_t n_inputs;
  size_t n_outputs;  // in ((n_groups - 1) * group, n_groups * group]
};

// The same entries by input: input k occurs in group_t[t], at entry pos_t[t], for t in [ptr_t[k], ptr_t[k + 1]).
struct InputIndex {
  const int32_t* ptr_t;
  const int32_t* group_t;
  const int32_t* pos_t;
};

struct Range {
  size_t begin, end;
};

struct Products {
  const char* name;
  size_t width;  // floats of the widest vector

  // Rows in a panel of the forward product and in one of the two backward ones.
  size_t (*forward_rows)(size_t group, size_t rows);
  size_t (*input_gradient_rows)(size_t group, size_t rows);

  // panel[k * height + r] = x[r * stride + k], 0 for rows <= r < height. Up to `width` floats after the panel are
  // written too.
  void (*pack)(const float* x, size_t stride, size_t rows, size_t columns, size_t height, float* panel);

  // y[r, n] of few rows, straight from x (rows, n_inputs).
  void (*forward_direct)(const GroupMatrix&, Range groups, const float* x, size_t rows, float* y);
  // y[r, n] of one panel; `rows` of its `height` rows are written.
  void (*forward_panel)(const GroupMatrix&, Range groups, const float* panel, size_t height, size_t rows, float* y);

  // dx[r, k] of one panel of dy, for inputs in a range. `scratch` holds n_inputs * height floats, and is used by groups
  // of 8 outputs and more.
  void (*input_gradient)(const GroupMatrix&, const InputIndex&, Range inputs, const float* panel, size_t height,
                         size_t rows, float* scratch, float* dx);

  // dval[j, i] of the entries of one group: the sum over a panel of x and the rows of dy that belong to it, added to what
  // is there unless `first`. `scratch` holds rows * group floats.
  void (*value_gradient)(const GroupMatrix&, size_t group, const float* panel, size_t height, size_t rows,
                         const float* dy, bool first, float* scratch, float* dval);

  // y[n] = sum over s of x[idx[s]] w[idx[s], n], for columns in a range.
  void (*rows_product)(const float* x, const float* w, const int32_t* idx, size_t n_idx, size_t n_outputs,
                       Range columns, float* y);
};

#if defined(__x86_64__)
extern const Products products_avx2, products_avx512;
#elif defined(__aarch64__)
extern const Products products_neon;
#endif

}  // namespace uqsparse
