// The products for one instruction set: vector extensions of GCC and Clang, no intrinsics, one source for all of them.
// Built once for each with UQSPARSE_WIDTH (floats of a vector), UQSPARSE_NAME and UQSPARSE_TABLE (the variable that holds
// the table).
//
// Every output is summed by one thread in an order that depends on the shapes only, so that the number of threads changes
// no bit of a result.

#include "sparse_products.h"

#include "forward.h"
#include "input_gradient.h"
#include "panels.h"
#include "rows_product.h"
#include "value_gradient.h"

namespace uqsparse {

extern const Products UQSPARSE_TABLE;
const Products UQSPARSE_TABLE = {
    UQSPARSE_NAME, kWidth, forward_rows, input_gradient_rows, pack, forward_direct, forward_panel,
    input_gradient, value_gradient, rows_product,
};

}  // namespace uqsparse
