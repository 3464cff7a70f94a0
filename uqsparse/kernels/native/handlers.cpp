// XLA FFI handlers of the sparse products: they check what they are given, divide the work among XLA's own threads, and
// call the kernels built for this machine's vectors. Built for the plain architecture, since it also runs on machines
// for which no kernels were built.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "sparse_products.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using namespace uqsparse;

namespace {

using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;

const Products* chosen = nullptr;

// --- memory ----------------------------------------------------------------------------------------------------------

// A block that the thread keeps from call to call: fresh pages cost as much as a small product. Larger ones go back.
class Scratch {
 public:
  float* at_least(size_t floats) {
    if (floats > size_) {
      release();
      block_ = static_cast<float*>(::operator new(floats * sizeof(float), std::align_val_t{64}, std::nothrow));
      size_ = block_ == nullptr ? 0 : floats;
    }
    return block_;
  }
  void shrink() {
    if (size_ > kKept) release();
  }
  ~Scratch() { release(); }

 private:
  static constexpr size_t kKept = size_t{2} << 20;
  void release() {
    if (block_ != nullptr) ::operator delete(block_, std::align_val_t{64});
    block_ = nullptr;
    size_ = 0;
  }
  float* block_ = nullptr;
  size_t size_ = 0;
};

thread_local Scratch shared_scratch;  // filled by all threads of a call, owned by the one that was called
thread_local Scratch own_scratch;     // of one piece of work

// --- threads ---------------------------------------------------------------------------------------------------------

struct Pieces {
  std::atomic<size_t> next{0};
  size_t done = 0;
  std::mutex mutex;
  std::condition_variable changed;
};

// Runs work(i) for i < count. The calling thread takes pieces too, and waits only for pieces that others have begun: it
// may itself be a thread of the pool, all of whose threads may be here.
template <class Work>
void in_parallel(ffi::ThreadPool& pool, size_t threads, size_t count, const Work& work) {
  threads = std::min(threads, count);
  if (threads <= 1) {
    for (size_t i = 0; i < count; ++i) work(i);
    return;
  }
  auto pieces = std::make_shared<Pieces>();
  auto take = [pieces, count, &work] {
    size_t finished = 0;
    for (size_t i; (i = pieces->next.fetch_add(1, std::memory_order_relaxed)) < count; ++finished) work(i);
    if (finished == 0) return;
    std::lock_guard<std::mutex> lock(pieces->mutex);
    if ((pieces->done += finished) == count) pieces->changed.notify_one();
  };
  for (size_t t = 1; t < threads; ++t) pool.Schedule(decltype(take)(take));
  take();
  std::unique_lock<std::mutex> lock(pieces->mutex);
  pieces->changed.wait(lock, [&] { return pieces->done == count; });
}

// Threads worth waking for so many multiplications.
size_t threads_for(ffi::ThreadPool& pool, double multiplications) {
  const double most = multiplications / 2e5;
  if (most < 2) return 1;
  const auto available = static_cast<size_t>(std::max<int64_t>(pool.num_threads(), 1));
  return std::min(available, static_cast<size_t>(std::min(most, 1024.0)));
}

Range share(size_t whole, size_t i, size_t count) { return {whole * i / count, whole * (i + 1) / count}; }

size_t ceiling(size_t a, size_t b) { return (a + b - 1) / b; }

// --- checks ----------------------------------------------------------------------------------------------------------

std::string shape_of(ffi::Span<const int64_t> dimensions) {
  std::string text = "(";
  for (size_t i = 0; i < dimensions.size(); ++i) text += (i ? ", " : "") + std::to_string(dimensions[i]);
  return text + ")";
}

ffi::Error wrong(const std::string& message) { return ffi::Error::InvalidArgument("sparse product: " + message); }

// All of (..., n) but the last axis.
size_t rows_of(ffi::Span<const int64_t> dimensions) {
  size_t rows = 1;
  for (size_t i = 0; i + 1 < dimensions.size(); ++i) rows *= static_cast<size_t>(dimensions[i]);
  return rows;
}

bool same_leading(ffi::Span<const int64_t> a, ffi::Span<const int64_t> b) {
  if (a.size() != b.size() || a.size() == 0) return false;
  for (size_t i = 0; i + 1 < a.size(); ++i)
    if (a[i] != b[i]) return false;
  return true;
}

// Offsets that start at 0, never fall, and end at `total`.
ffi::Error check_offsets(const char* name, const int32_t* offsets, size_t count, size_t total) {
  if (offsets[0] != 0) return wrong(std::string(name) + "[0] must be 0, got " + std::to_string(offsets[0]));
  for (size_t i = 1; i < count; ++i)
    if (offsets[i] < offsets[i - 1]) return wrong(std::string(name) + " falls at " + std::to_string(i));
  if (static_cast<size_t>(offsets[count - 1]) != total)
    return wrong(std::string(name) + " ends at " + std::to_string(offsets[count - 1]) + " for " +
                 std::to_string(total) + " entries");
  return ffi::Error::Success();
}

// A pass over 4 bytes for each 4 * group bytes of values that the product reads anyway. A negative value is a large one.
ffi::Error check_range(const char* name, const int32_t* values, size_t count, size_t bound) {
  bound = std::min(bound, size_t{1} << 31);
  uint32_t most = 0;
  for (size_t i = 0; i < count; ++i) most = std::max(most, static_cast<uint32_t>(values[i]));
  if (count > 0 && most >= bound)
    return wrong(std::string(name) + " must lie in [0, " + std::to_string(bound) + "), got " +
                 std::to_string(static_cast<int32_t>(most)));
  return ffi::Error::Success();
}

// Strictly ascending inputs in each group: they fall only where a group begins.
ffi::Error check_order(const GroupMatrix& a, size_t entries) {
  uint32_t falls = 0, between = 0;
  for (size_t j = 1; j < entries; ++j) falls += a.idx[j] <= a.idx[j - 1];
  for (size_t g = 0; g < a.n_groups; ++g)
    if (a.ptr[g] > 0 && a.ptr[g] < a.ptr[g + 1]) between += a.idx[a.ptr[g]] <= a.idx[a.ptr[g] - 1];
  if (falls != between) return wrong("idx must ascend within each group");
  return ffi::Error::Success();
}

#define UQSPARSE_CHECK(EXPRESSION)                                   \
  do {                                                               \
    if (ffi::Error error = (EXPRESSION); error.failure()) return error; \
  } while (false)

ffi::Error check_matrix(const Integers& ptr, const Integers& idx, ffi::Span<const int64_t> val, size_t n_inputs,
                        size_t n_outputs) {
  if (chosen == nullptr) return ffi::Error::Internal("sparse product: no kernels for this machine");
  if (ptr.dimensions().size() != 1 || ptr.dimensions()[0] < 1)
    return wrong("ptr must have shape (n_groups + 1,), got " + shape_of(ptr.dimensions()));
  if (idx.dimensions().size() != 1) return wrong("idx must have one axis, got shape " + shape_of(idx.dimensions()));
  if (val.size() != 2 || val[0] != idx.dimensions()[0] || val[1] < 1)
    return wrong("val must have shape (" + std::to_string(idx.dimensions()[0]) + ", group), got " + shape_of(val));
  const size_t n_groups = ptr.element_count() - 1, group = val[1];
  if (n_groups != ceiling(n_outputs, group))
    return wrong(std::to_string(n_groups) + " groups of " + std::to_string(group) + " do not make " +
                 std::to_string(n_outputs) + " outputs");
  if (idx.element_count() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    return wrong("more entries than ptr can count");
  UQSPARSE_CHECK(check_offsets("ptr", ptr.typed_data(), n_groups + 1, idx.element_count()));
  return check_range("idx", idx.typed_data(), idx.element_count(), n_inputs);
}

GroupMatrix matrix_of(const Integers& ptr, const Integers& idx, const float* val, size_t group, size_t n_inputs,
                      size_t n_outputs) {
  return {ptr.typed_data(),        idx.typed_data(), val,      group,
          ptr.element_count() - 1, n_inputs,         n_outputs};
}

double multiplications(const GroupMatrix& a, const Integers& idx, size_t rows) {
  return static_cast<double>(idx.element_count()) * static_cast<double>(a.group) * static_cast<double>(rows);
}

constexpr size_t kPacked = size_t{1} << 20;     // floats: rows that are packed before they are used, 4 MiB
constexpr size_t kTogether = size_t{16} << 10;  // floats: panels that meet one group after another, 64 KiB
constexpr size_t kFewValues = size_t{1} << 20;  // floats: values that may be read once for every 64 KiB of panels
constexpr size_t kTransposed = size_t{64} << 10;  // floats: transposed rows for the gradient of the values

// --- handlers --------------------------------------------------------------------------------------------------------

ffi::Error forward(ffi::ThreadPool pool, Floats x, Integers ptr, Integers idx, Floats val, ffi::Result<Floats> y) {
  if (!same_leading(x.dimensions(), y->dimensions()))
    return wrong("x " + shape_of(x.dimensions()) + " and y " + shape_of(y->dimensions()) + " differ in their rows");
  const size_t rows = rows_of(x.dimensions()), n_inputs = x.dimensions().back(), n_outputs = y->dimensions().back();
  UQSPARSE_CHECK(check_matrix(ptr, idx, val.dimensions(), n_inputs, n_outputs));
  if (rows == 0 || n_outputs == 0) return ffi::Error::Success();
  const Products& products = *chosen;
  const GroupMatrix a =
      matrix_of(ptr, idx, val.typed_data(), val.dimensions()[1], n_inputs, n_outputs);
  const size_t threads = threads_for(pool, multiplications(a, idx, rows));
  const float* from = x.typed_data();
  float* to = y->typed_data();

  // Few rows are not worth packing.
  if (rows < (a.group < 8 ? 8u : 4u)) {
    const size_t pieces = std::min(a.n_groups, threads > 1 ? threads * 4 : 1);
    in_parallel(pool, threads, pieces, [&](size_t i) {
      products.forward_direct(a, share(a.n_groups, i, pieces), from, rows, to);
    });
    return ffi::Error::Success();
  }
  const size_t height = products.forward_rows(a.group, rows);
  const size_t n_panels = ceiling(rows, height), panel = n_inputs * height + products.width;
  const size_t at_once = std::min(n_panels, std::max<size_t>(kPacked / panel, 1));
  float* packed = shared_scratch.at_least(panel * at_once);
  if (packed == nullptr) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "sparse product: out of memory");
  for (size_t first = 0; first < n_panels; first += at_once) {
    const size_t now = std::min(at_once, n_panels - first);
    auto rows_in = [&](size_t p) { return std::min(height, rows - (first + p) * height); };
    in_parallel(pool, threads, now, [&](size_t p) {
      products.pack(from + (first + p) * height * n_inputs, n_inputs, rows_in(p), n_inputs, height, packed + p * panel);
    });
    // Blocks of panels meet one group after another, and share its values. As few panels as stay in the nearest cache,
    // unless the values come from so far that they should be read once.
    const size_t block = idx.element_count() * a.group <= kFewValues ? kTogether : kPacked;
    size_t together = std::max<size_t>(std::min(block / panel, now), 1);
    if (threads > 1) together = std::max<size_t>(std::min(together, now / threads), 1);
    const size_t blocks = ceiling(now, together);
    const size_t cuts = threads > 1 ? std::min(a.n_groups, ceiling(4 * threads, blocks)) : 1;
    in_parallel(pool, threads, blocks * cuts, [&](size_t i) {
      const size_t begin = i / cuts * together, end = std::min(begin + together, now);
      const Range groups = share(a.n_groups, i % cuts, cuts);
      constexpr size_t step = 16;  // groups of fewer than 8 outputs are turned over together
      for (size_t g = groups.begin; g < groups.end; g += a.group < 8 ? step : 1)
        for (size_t p = begin; p < end; ++p)
          products.forward_panel(a, {g, std::min(g + (a.group < 8 ? step : 1), groups.end)}, packed + p * panel, height,
                                 rows_in(p), to + (first + p) * height * n_outputs);
    });
  }
  shared_scratch.shrink();
  return ffi::Error::Success();
}

ffi::Error input_gradient(ffi::ThreadPool pool, Floats dy, Integers ptr, Integers idx, Floats val, Integers ptr_t,
                          Integers group_t, Integers pos_t, ffi::Result<Floats> dx) {
  if (!same_leading(dy.dimensions(), dx->dimensions()))
    return wrong("dy " + shape_of(dy.dimensions()) + " and dx " + shape_of(dx->dimensions()) + " differ in their rows");
  const size_t rows = rows_of(dy.dimensions()), n_inputs = dx->dimensions().back(), n_outputs = dy.dimensions().back();
  UQSPARSE_CHECK(check_matrix(ptr, idx, val.dimensions(), n_inputs, n_outputs));
  const Products& products = *chosen;
  const GroupMatrix a =
      matrix_of(ptr, idx, val.typed_data(), val.dimensions()[1], n_inputs, n_outputs);
  const size_t entries = idx.element_count();
  if (ptr_t.element_count() != n_inputs + 1)
    return wrong("ptr_t must have shape (" + std::to_string(n_inputs + 1) + ",), got " + shape_of(ptr_t.dimensions()));
  if (group_t.element_count() != entries || pos_t.element_count() != entries)
    return wrong("group_t and pos_t must have " + std::to_string(entries) + " entries, got " +
                 shape_of(group_t.dimensions()) + " and " + shape_of(pos_t.dimensions()));
  const InputIndex by_input{ptr_t.typed_data(), group_t.typed_data(), pos_t.typed_data()};
  // Large groups are gone through by group, and what is not used is not checked. Small ones are gone through by input,
  // and whether those positions are of this matrix is left to who made them: to look would take half as long as the product.
  if (a.group >= 8) {
    UQSPARSE_CHECK(check_order(a, entries));
  } else {
    UQSPARSE_CHECK(check_offsets("ptr_t", ptr_t.typed_data(), n_inputs + 1, entries));
    UQSPARSE_CHECK(check_range("group_t", group_t.typed_data(), entries, a.n_groups));
    UQSPARSE_CHECK(check_range("pos_t", pos_t.typed_data(), entries, entries));
  }
  if (rows == 0 || n_inputs == 0) return ffi::Error::Success();
  const size_t threads = threads_for(pool, multiplications(a, idx, rows));
  const size_t height = products.input_gradient_rows(a.group, rows);
  const size_t n_panels = ceiling(rows, height), panel = n_outputs * height + products.width;
  const size_t sums = a.group < 8 ? 0 : n_inputs * height;
  // A panel is packed by whoever uses it; with fewer panels than threads they share out the inputs instead.
  const size_t cuts = n_panels >= threads ? 1 : std::min(std::max<size_t>(n_inputs / 64, 1), ceiling(threads, n_panels));
  std::atomic<bool> starved{false};
  in_parallel(pool, threads, n_panels * cuts, [&](size_t i) {
    const size_t p = i / cuts, here = std::min(height, rows - p * height);
    float* packed = own_scratch.at_least(panel + sums);
    if (packed == nullptr) {
      starved = true;
      return;
    }
    products.pack(dy.typed_data() + p * height * n_outputs, n_outputs, here, n_outputs, height, packed);
    products.input_gradient(a, by_input, share(n_inputs, i % cuts, cuts), packed, height, here, packed + panel,
                            dx->typed_data() + p * height * n_inputs);
    own_scratch.shrink();
  });
  if (starved) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "sparse product: out of memory");
  return ffi::Error::Success();
}

ffi::Error value_gradient(ffi::ThreadPool pool, Floats x, Floats dy, Integers ptr, Integers idx,
                          ffi::Result<Floats> dval) {
  if (!same_leading(x.dimensions(), dy.dimensions()))
    return wrong("x " + shape_of(x.dimensions()) + " and dy " + shape_of(dy.dimensions()) + " differ in their rows");
  const size_t rows = rows_of(x.dimensions()), n_inputs = x.dimensions().back(), n_outputs = dy.dimensions().back();
  UQSPARSE_CHECK(check_matrix(ptr, idx, dval->dimensions(), n_inputs, n_outputs));
  if (dval->element_count() == 0) return ffi::Error::Success();
  if (rows == 0) {
    std::memset(dval->typed_data(), 0, dval->size_bytes());
    return ffi::Error::Success();
  }
  const Products& products = *chosen;
  const GroupMatrix a = matrix_of(ptr, idx, nullptr, dval->dimensions()[1], n_inputs, n_outputs);
  const size_t threads = threads_for(pool, multiplications(a, idx, rows));
  // Rows whose transpose stays in the cache, a multiple of a vector.
  const size_t fit = kTransposed / (n_inputs * products.width) * products.width;
  const size_t height = std::min(std::clamp<size_t>(fit, products.width, 256),
                                 ceiling(rows, products.width) * products.width);
  float* packed = shared_scratch.at_least(n_inputs * height + products.width);
  if (packed == nullptr) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "sparse product: out of memory");
  std::atomic<bool> starved{false};
  for (size_t first = 0; first < rows; first += height) {
    const size_t here = std::min(height, rows - first);
    products.pack(x.typed_data() + first * n_inputs, n_inputs, here, n_inputs, height, packed);
    const size_t pieces = threads > 1 ? std::min(a.n_groups, 4 * threads) : 1;
    in_parallel(pool, threads, pieces, [&](size_t i) {
      const Range groups = share(a.n_groups, i, pieces);
      float* beside = own_scratch.at_least(here * a.group);
      if (beside == nullptr) {
        starved = true;
        return;
      }
      for (size_t g = groups.begin; g < groups.end; ++g)
        products.value_gradient(a, g, packed, height, here, dy.typed_data() + first * n_outputs, first == 0, beside,
                                dval->typed_data());
      own_scratch.shrink();
    });
  }
  shared_scratch.shrink();
  if (starved) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "sparse product: out of memory");
  return ffi::Error::Success();
}

ffi::Error rows_product(ffi::ThreadPool pool, Floats x, Floats w, Integers idx, ffi::Result<Floats> y) {
  if (chosen == nullptr) return ffi::Error::Internal("sparse product: no kernels for this machine");
  if (w.dimensions().size() != 2) return wrong("w must have two axes, got shape " + shape_of(w.dimensions()));
  const size_t n_inputs = w.dimensions()[0], n_outputs = w.dimensions()[1];
  if (!same_leading(x.dimensions(), y->dimensions()) || !same_leading(x.dimensions(), idx.dimensions()))
    return wrong("x " + shape_of(x.dimensions()) + ", idx " + shape_of(idx.dimensions()) + " and y " +
                 shape_of(y->dimensions()) + " differ in their rows");
  if (static_cast<size_t>(x.dimensions().back()) != n_inputs ||
      static_cast<size_t>(y->dimensions().back()) != n_outputs)
    return wrong("x " + shape_of(x.dimensions()) + " and y " + shape_of(y->dimensions()) + " do not fit w " +
                 shape_of(w.dimensions()));
  const size_t rows = rows_of(x.dimensions()), n_idx = idx.dimensions().back();
  UQSPARSE_CHECK(check_range("idx", idx.typed_data(), idx.element_count(), n_inputs));
  if (rows == 0 || n_outputs == 0) return ffi::Error::Success();
  const size_t threads = threads_for(pool, static_cast<double>(rows) * static_cast<double>(n_idx) * n_outputs);
  const size_t cuts = threads > rows ? std::min(ceiling(threads, rows), ceiling(n_outputs, 256)) : 1;
  in_parallel(pool, threads, rows * cuts, [&](size_t i) {
    const size_t r = i / cuts;
    chosen->rows_product(x.typed_data() + r * n_inputs, w.typed_data(), idx.typed_data() + r * n_idx, n_idx, n_outputs,
                         share(n_outputs, i % cuts, cuts), y->typed_data() + r * n_outputs);
  });
  return ffi::Error::Success();
}

}  // namespace

#pragma GCC visibility push(default)

extern "C" {

// Chooses kernels: the named ones if this machine can run them, otherwise null; for "", the best that it can. Returns
// the name.
const char* uqsparse_choose(const char* name) {
  const std::string wanted = name;
  const Products* found = nullptr;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && (wanted.empty() || wanted == products_avx2.name)) found = &products_avx2;
  if (avx512 && (wanted.empty() || wanted == products_avx512.name)) found = &products_avx512;
#elif defined(__aarch64__)
  if (wanted.empty() || wanted == products_neon.name) found = &products_neon;
#endif
  chosen = found;
  return found == nullptr ? "" : found->name;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(uqsparse_forward, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .Arg<Floats>()
                                  .Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(uqsparse_input_gradient, input_gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .Arg<Floats>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(uqsparse_value_gradient, value_gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Integers>()
                                  .Arg<Integers>()
                                  .Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(uqsparse_rows_product, rows_product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Integers>()
                                  .Ret<Floats>());
}

#pragma GCC visibility pop
