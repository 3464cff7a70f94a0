// Calls the handlers of the compiled kernels without XLA: through call frames and a pool of threads of its own, so that it
// can lie about shapes, keep threads busy for ever, run under sanitizers and on machines that are only emulated.
//
//   harness LIBRARY [SEED]
//
// Right input is compared with plain loops in double precision, wrong input must be refused. `fuzz_handlers.py` builds
// and runs it; its headers are jaxlib's. Built with a library for another processor, it runs under qemu's user emulation.

#include <dlfcn.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "xla/ffi/api/c_api.h"

struct XLA_FFI_Error {
  std::string message;
};

namespace {

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "error: %s\n", what.c_str());
  std::exit(1);
}

// --- the part of XLA that the handlers use ---------------------------------------------------------------------------

enum class Mode {
  kWorking,  // threads take tasks
  kBusy,     // no thread ever comes: tasks are run when the handler has returned
  kAbsent,   // there is no pool to schedule on
};

class Pool {
 public:
  explicit Pool(size_t threads) {
    for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  void put(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
  }

 private:
  void serve() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [&] { return closed_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  bool closed_ = false;
};

struct Context {  // what the handlers know as XLA_FFI_ExecutionContext
  Pool* pool;
  Mode mode;
  int64_t threads;
  std::vector<std::function<void()>> late;
};

Context& context_of(XLA_FFI_ExecutionContext* context) { return *reinterpret_cast<Context*>(context); }

XLA_FFI_Error* create_error(XLA_FFI_Error_Create_Args* args) { return new XLA_FFI_Error{args->message}; }
void get_message(XLA_FFI_Error_GetMessage_Args* args) { args->message = args->error->message.c_str(); }
void destroy_error(XLA_FFI_Error_Destroy_Args* args) { delete args->error; }

XLA_FFI_Error* schedule(XLA_FFI_ThreadPool_Schedule_Args* args) {
  Context& context = context_of(args->ctx);
  auto task = [run = args->task, data = args->data] { run(data); };
  if (context.mode == Mode::kAbsent) return new XLA_FFI_Error{"no pool"};
  if (context.mode == Mode::kBusy) {
    context.late.push_back(task);
  } else {
    context.pool->put(task);
  }
  return nullptr;
}

XLA_FFI_Error* count_threads(XLA_FFI_ThreadPool_NumThreads_Args* args) {
  *args->num_threads = context_of(args->ctx).threads;
  return nullptr;
}

XLA_FFI_Api make_api() {
  XLA_FFI_Api api;
  std::memset(&api, 0, sizeof api);
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = create_error;
  api.XLA_FFI_Error_GetMessage = get_message;
  api.XLA_FFI_Error_Destroy = destroy_error;
  api.XLA_FFI_ThreadPool_Schedule = schedule;
  api.XLA_FFI_ThreadPool_NumThreads = count_threads;
  return api;
}

const XLA_FFI_Api api = make_api();

// --- arrays ----------------------------------------------------------------------------------------------------------

using Shape = std::vector<int64_t>;
constexpr size_t kMargin = 32;  // entries on both sides, which nobody may write

template <class T>
struct Array {
  Shape shape;
  std::vector<T> all;
  size_t size;

  explicit Array(Shape of, T margin = T(77)) : shape(std::move(of)), size(1) {
    for (int64_t n : shape) size *= static_cast<size_t>(n);
    all.assign(size + 2 * kMargin, margin);
  }
  Array(Shape of, const std::vector<T>& values) : Array(std::move(of)) {
    require(values.size() == size, "an array of the wrong size");
    std::copy(values.begin(), values.end(), data());
  }
  T* data() { return all.data() + kMargin; }
  T& operator[](size_t i) { return all[kMargin + i]; }
  bool margins_are_whole() const {
    for (size_t i = 0; i < kMargin; ++i)
      if (all[i] != T(77) || all[kMargin + size + i] != T(77)) return false;
    return true;
  }
};

using Floats = Array<float>;
using Integers = Array<int32_t>;

struct Buffer {
  XLA_FFI_DataType type;
  void* data;
  Shape shape;

  Buffer(Floats& array) : type(XLA_FFI_DataType_F32), data(array.data()), shape(array.shape) {}
  Buffer(Integers& array) : type(XLA_FFI_DataType_S32), data(array.data()), shape(array.shape) {}
  Buffer(Floats& array, Shape claimed) : Buffer(array) { shape = std::move(claimed); }
};

using Handler = XLA_FFI_Error*(XLA_FFI_CallFrame*);

// The message of the error, empty if there is none.
std::string call(Handler* handler, std::vector<Buffer> arguments, Buffer result, Context& context) {
  arguments.push_back(result);
  std::vector<XLA_FFI_Buffer> buffers;
  for (Buffer& one : arguments)
    buffers.push_back({XLA_FFI_Buffer_STRUCT_SIZE, nullptr, one.type, one.data, static_cast<int64_t>(one.shape.size()),
                       one.shape.data()});
  std::vector<void*> pointers;
  for (XLA_FFI_Buffer& one : buffers) pointers.push_back(&one);
  const int64_t n = static_cast<int64_t>(arguments.size()) - 1;
  std::vector<XLA_FFI_ArgType> types(n, XLA_FFI_ArgType_BUFFER);
  XLA_FFI_RetType ret = XLA_FFI_RetType_BUFFER;
  XLA_FFI_CallFrame frame;
  std::memset(&frame, 0, sizeof frame);
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.ctx = reinterpret_cast<XLA_FFI_ExecutionContext*>(&context);
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, n, types.data(), pointers.data()};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, 1, &ret, &pointers[n]};
  frame.attrs.struct_size = XLA_FFI_Attrs_STRUCT_SIZE;
  XLA_FFI_Error* error = handler(&frame);
  for (auto& task : context.late) task();
  context.late.clear();
  if (error == nullptr) return "";
  std::string message = error->message;
  delete error;
  return message;
}

// --- matrices --------------------------------------------------------------------------------------------------------

struct Handlers {
  Handler *forward, *input_gradient, *value_gradient, *rows_product;
};

struct Case {
  size_t rows, n_inputs, n_outputs, group, n_groups, n;
  Floats x, dy, val;
  Integers ptr, idx, ptr_t, group_t, pos_t;
};

Floats normal(std::mt19937& random, Shape shape) {
  Floats found(std::move(shape));
  std::normal_distribution<float> draw;
  for (size_t i = 0; i < found.size; ++i) found[i] = draw(random);
  return found;
}

Case draw_case(std::mt19937& random, size_t rows, size_t n_inputs, size_t n_outputs, size_t group, double density) {
  const size_t n_groups = (n_outputs + group - 1) / group;
  std::uniform_real_distribution<double> uniform;
  std::vector<int32_t> ptr{0}, idx, group_of;
  const size_t emptied = random() % n_groups;
  for (size_t g = 0; g < n_groups; ++g) {
    for (size_t k = 0; k < n_inputs && (g != emptied || n_groups == 1); ++k)
      if (uniform(random) < density) {
        idx.push_back(static_cast<int32_t>(k));
        group_of.push_back(static_cast<int32_t>(g));
      }
    ptr.push_back(static_cast<int32_t>(idx.size()));
  }
  std::vector<int32_t> ptr_t{0}, group_t, pos_t;
  std::vector<std::vector<int32_t>> by_input(n_inputs);
  for (size_t j = 0; j < idx.size(); ++j) by_input[idx[j]].push_back(static_cast<int32_t>(j));
  for (const auto& places : by_input) {
    for (int32_t j : places) {
      pos_t.push_back(j);
      group_t.push_back(group_of[j]);
    }
    ptr_t.push_back(static_cast<int32_t>(pos_t.size()));
  }
  const auto n = static_cast<int64_t>(idx.size()), b = static_cast<int64_t>(rows);
  const auto k = static_cast<int64_t>(n_inputs), outputs = static_cast<int64_t>(n_outputs);
  return {rows,
          n_inputs,
          n_outputs,
          group,
          n_groups,
          idx.size(),
          normal(random, {b, k}),
          normal(random, {b, outputs}),
          normal(random, {n, static_cast<int64_t>(group)}),
          Integers({static_cast<int64_t>(n_groups) + 1}, ptr),
          Integers({n}, idx),
          Integers({k + 1}, ptr_t),
          Integers({n}, group_t),
          Integers({n}, pos_t)};
}

std::string describe(const Case& c) {
  return "rows " + std::to_string(c.rows) + ", inputs " + std::to_string(c.n_inputs) + ", outputs " +
         std::to_string(c.n_outputs) + ", group " + std::to_string(c.group) + ", entries " + std::to_string(c.n);
}

void close(Floats& found, const std::vector<double>& expected, const std::string& what) {
  double scale = 1;
  for (double value : expected) scale = std::max(scale, std::abs(value));
  for (size_t i = 0; i < found.size; ++i)
    if (!(std::abs(found[i] - expected[i]) < 1e-4 * scale)) require(false, what + ": wrong at " + std::to_string(i));
  require(found.margins_are_whole(), what + ": written out of bounds");
}

struct Expected {
  std::vector<double> y, dx, dval;
};

Expected plain_loops(Case& c) {
  Expected found{std::vector<double>(c.rows * c.n_outputs), std::vector<double>(c.rows * c.n_inputs),
                 std::vector<double>(c.n * c.group)};
  for (size_t g = 0; g < c.n_groups; ++g)
    for (int32_t j = c.ptr[g]; j < c.ptr[g + 1]; ++j)
      for (size_t i = 0; i < c.group && g * c.group + i < c.n_outputs; ++i)
        for (size_t r = 0; r < c.rows; ++r) {
          const size_t k = c.idx[j], output = g * c.group + i;
          const double x = c.x[r * c.n_inputs + k], dy = c.dy[r * c.n_outputs + output], v = c.val[j * c.group + i];
          found.y[r * c.n_outputs + output] += x * v;
          found.dx[r * c.n_inputs + k] += dy * v;
          found.dval[j * c.group + i] += x * dy;
        }
  return found;
}

struct Products {
  Floats y, dx, dval;
};

// The three products; `expected` gets what is wrong, empty if nothing is.
Products products(const Handlers& handlers, Case& c, Context& context, std::string* wrong = nullptr) {
  const auto b = static_cast<int64_t>(c.rows);
  Products found{Floats({b, static_cast<int64_t>(c.n_outputs)}), Floats({b, static_cast<int64_t>(c.n_inputs)}),
                 Floats({static_cast<int64_t>(c.n), static_cast<int64_t>(c.group)})};
  std::string messages = call(handlers.forward, {c.x, c.ptr, c.idx, c.val}, found.y, context);
  messages += call(handlers.input_gradient, {c.dy, c.ptr, c.idx, c.val, c.ptr_t, c.group_t, c.pos_t}, found.dx, context);
  messages += call(handlers.value_gradient, {c.x, c.dy, c.ptr, c.idx}, found.dval, context);
  if (wrong != nullptr)
    *wrong = messages;
  else
    require(messages.empty(), describe(c) + ": " + messages);
  return found;
}

bool same_bits(Floats& a, Floats& b) { return std::memcmp(a.data(), b.data(), a.size * sizeof(float)) == 0; }

// Right on one thread, on several, where none ever comes and where there is no pool: the same bits each time.
void right(const Handlers& handlers, Case c, Pool& pool) {
  Expected expected = plain_loops(c);
  Context alone{&pool, Mode::kWorking, 1, {}};
  Products one = products(handlers, c, alone);
  close(one.y, expected.y, describe(c) + ", y");
  close(one.dx, expected.dx, describe(c) + ", dx");
  close(one.dval, expected.dval, describe(c) + ", dval");
  if (static_cast<double>(c.n * c.group * c.rows) < 4e5) return;  // no work for two threads
  for (Mode mode : {Mode::kWorking, Mode::kBusy, Mode::kAbsent})
    for (int64_t threads : {2, 8}) {
      Context context{&pool, mode, threads, {}};
      Products other = products(handlers, c, context);
      require(same_bits(one.y, other.y) && same_bits(one.dx, other.dx) && same_bits(one.dval, other.dval),
              describe(c) + ": other bits with " + std::to_string(threads) + " threads");
      require(other.y.margins_are_whole() && other.dx.margins_are_whole() && other.dval.margins_are_whole(),
              describe(c) + ": written out of bounds");
    }
}

void chosen_rows(const Handlers& handlers, std::mt19937& random, Pool& pool) {
  const size_t rows = random() % 6, n_inputs = 1 + random() % 60, n_outputs = 1 + random() % 1500;
  const size_t n_idx = random() % 40;
  const auto b = static_cast<int64_t>(rows), k = static_cast<int64_t>(n_inputs), n = static_cast<int64_t>(n_outputs);
  Floats x = normal(random, {b, k}), w = normal(random, {k, n});
  Integers idx({b, static_cast<int64_t>(n_idx)});
  for (size_t i = 0; i < idx.size; ++i) idx[i] = static_cast<int32_t>(random() % n_inputs);
  std::vector<double> expected(rows * n_outputs);
  for (size_t r = 0; r < rows; ++r)
    for (size_t s = 0; s < n_idx; ++s)
      for (size_t i = 0; i < n_outputs; ++i) {
        const size_t from = idx[r * n_idx + s];
        expected[r * n_outputs + i] += static_cast<double>(x[r * n_inputs + from]) * w[from * n_outputs + i];
      }
  for (int64_t threads : {1, 8}) {
    Context context{&pool, Mode::kWorking, threads, {}};
    Floats y({b, n});
    require(call(handlers.rows_product, {x, w, idx}, y, context).empty(), "chosen rows are refused");
    close(y, expected, "chosen rows");
    if (idx.size == 0) continue;
    Integers bad = idx;
    for (int32_t value : {-1, static_cast<int32_t>(n_inputs), std::numeric_limits<int32_t>::min()}) {
      bad[random() % bad.size] = value;
      require(!call(handlers.rows_product, {x, w, bad}, y, context).empty(), "a chosen row out of range is accepted");
      bad = idx;
    }
  }
}

// --- what must be refused --------------------------------------------------------------------------------------------

void refused(const std::string& message, const std::string& what) { require(!message.empty(), "accepted: " + what); }

void lies_about_shapes(const Handlers& handlers, std::mt19937& random, Pool& pool, size_t group) {
  Context context{&pool, Mode::kWorking, 8, {}};
  Case c = draw_case(random, 5, 9, 3 * group, group, 0.7);
  const auto n = static_cast<int64_t>(c.n);
  if (c.n == 0) return;
  // More inputs than an int32 can name: a negative one is none of them. Nothing of that size lies behind the claim.
  const int64_t huge = (int64_t{1} << 31) + 10;
  for (int32_t value : {-1, -5, std::numeric_limits<int32_t>::min()}) {
    Integers bad = c.idx;
    bad[c.n / 2] = value;
    Floats y({5, 3 * static_cast<int64_t>(group)}), dval({n, static_cast<int64_t>(group)});
    refused(call(handlers.forward, {Buffer(c.x, {5, huge}), c.ptr, bad, c.val}, y, context), "negative of many inputs");
    refused(call(handlers.value_gradient, {Buffer(c.x, {5, huge}), c.dy, c.ptr, bad}, dval, context),
            "negative of many inputs, for values");
    Floats one({1, 1}), w({1, 1});
    Integers chosen({1, 1}, std::vector<int32_t>{value});
    refused(call(handlers.rows_product, {Buffer(one, {1, huge}), Buffer(w, {huge, 1}), chosen}, one, context),
            "negative of many chosen inputs");
  }
  // A group as wide as an address, without entries: there is nothing to do, and that takes no time.
  Integers empty_ptr({2}, std::vector<int32_t>{0, 0}), no_idx({0});
  Integers empty_ptr_t({10}, std::vector<int32_t>(10, 0));
  Floats no_val({0, 1});
  for (int64_t wide : {int64_t{1} << 40, int64_t{1} << 62, std::numeric_limits<int64_t>::max()})
    for (int64_t rows : {1, 5, 40}) {
      Floats x = normal(random, {rows, 9}), y({rows, 7}), dx({rows, 9}), dy = normal(random, {rows, 7});
      require(call(handlers.forward, {x, empty_ptr, no_idx, Buffer(no_val, {0, wide})}, y, context).empty(), "wide");
      close(y, std::vector<double>(rows * 7), "a wide group without entries");
      require(call(handlers.input_gradient,
                   {dy, empty_ptr, no_idx, Buffer(no_val, {0, wide}), empty_ptr_t, no_idx, no_idx}, dx, context)
                  .empty(),
              "wide, backward");
      close(dx, std::vector<double>(rows * 9), "a wide group without entries, backward");
    }
}

// Inputs that are not in order, which the gradient of large groups relies on, and positions by input of another matrix,
// which give wrong numbers with small groups and nothing worse.
void inconsistent_positions(const Handlers& handlers, std::mt19937& random, Pool& pool, size_t group) {
  Context context{&pool, Mode::kWorking, 8, {}};
  for (size_t rows : {3, 40}) {
    Case c = draw_case(random, rows, 400, 5 * group, group, 0.5);
    auto backward = [&](Integers& idx, Integers& ptr_t, Integers& group_t, Integers& pos_t) {
      Floats dx({static_cast<int64_t>(rows), 400});
      std::string message =
          call(handlers.input_gradient, {c.dy, c.ptr, idx, c.val, ptr_t, group_t, pos_t}, dx, context);
      require(dx.margins_are_whole(), describe(c) + ", positions of another matrix: written out of bounds");
      return message;
    };
    require(backward(c.idx, c.ptr_t, c.group_t, c.pos_t).empty(), "right positions are refused");
    if (group >= 8) {
      const size_t first = c.ptr[1] > 1 ? 0 : c.ptr[2];  // of a group with two entries
      Integers idx = c.idx;
      std::swap(idx[first], idx[first + 1]);
      refused(backward(idx, c.ptr_t, c.group_t, c.pos_t), "inputs that are not in order");
      idx = c.idx;
      idx[first] = idx[first + 1];
      refused(backward(idx, c.ptr_t, c.group_t, c.pos_t), "an input twice in a group");
      idx = c.idx;
      for (size_t j = 0; j < c.n; ++j) idx[j] = static_cast<int32_t>(random() % 400);
      refused(backward(idx, c.ptr_t, c.group_t, c.pos_t), "inputs in no order");
      continue;
    }
    Integers ptr_t = c.ptr_t, group_t = c.group_t, pos_t = c.pos_t;
    for (size_t t = 0; t < c.n; ++t) {
      group_t[t] = static_cast<int32_t>(random() % c.n_groups);
      pos_t[t] = static_cast<int32_t>(random() % c.n);
    }
    for (size_t k = 1; k < 400; ++k) ptr_t[k] = k < 50 ? 0 : static_cast<int32_t>(c.n);
    require(backward(c.idx, ptr_t, group_t, pos_t).empty(), "positions that are in range are refused");
  }
}

// Many callers at once, on the threads of the pool too, all of which may wait at the same time.
void nested(const Handlers& handlers, std::mt19937& random, Pool& pool, size_t threads) {
  Case c = draw_case(random, 60, 64, 320, 16, 0.5);
  Context alone{&pool, Mode::kWorking, 1, {}};
  Products expected = products(handlers, c, alone);
  const size_t callers = 4 * threads;
  std::atomic<size_t> right{0};
  std::mutex mutex;
  std::condition_variable changed;
  size_t done = 0;
  for (size_t i = 0; i < callers; ++i)
    pool.put([&] {
      Context context{&pool, Mode::kWorking, 8, {}};
      Case own = c;
      Products found = products(handlers, own, context);
      if (same_bits(found.y, expected.y) && same_bits(found.dx, expected.dx) && same_bits(found.dval, expected.dval))
        ++right;
      std::lock_guard<std::mutex> lock(mutex);
      ++done;
      changed.notify_one();
    });
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return done == callers; });
  require(right == callers, "other bits where all threads call");
}

// A NaN or an infinity reaches the sums that use it and no others.
void not_finite(const Handlers& handlers, std::mt19937& random, Pool& pool, size_t group, size_t rows) {
  Case c = draw_case(random, rows, 40, 3 * group + 1, group, 0.4);
  Context context{&pool, Mode::kWorking, 8, {}};
  const float infinity = std::numeric_limits<float>::infinity();
  const size_t r = random() % rows, k = random() % 40, output = random() % c.n_outputs;
  c.x[r * 40 + k] = std::nanf("");
  c.dy[(rows - 1 - r) * c.n_outputs + output] = infinity;
  Expected expected = plain_loops(c);
  Products found = products(handlers, c, context);
  auto agree = [&](Floats& ours, const std::vector<double>& theirs, const char* what, auto counts) {
    for (size_t i = 0; i < theirs.size(); ++i)
      if (counts(i) && (std::isnan(ours[i]) != std::isnan(theirs[i]) || std::isinf(ours[i]) != std::isinf(theirs[i])))
        require(false, describe(c) + ", NaN in " + what + " at " + std::to_string(i));
  };
  agree(found.y, expected.y, "y", [](size_t) { return true; });
  agree(found.dx, expected.dx, "dx", [](size_t) { return true; });
  // A value that pads the last group belongs to no output.
  agree(found.dval, expected.dval, "dval",
        [&](size_t i) { return i / group < static_cast<size_t>(c.ptr[c.n_groups - 1]); });
}

}  // namespace

int main(int count, char** arguments) {
  require(count >= 2, "usage: harness LIBRARY [SEED]");
  void* library = dlopen(arguments[1], RTLD_NOW);
  require(library != nullptr, "cannot load the library");
  auto choose = reinterpret_cast<const char* (*)(const char*)>(dlsym(library, "uqsparse_choose"));
  auto handler = [&](const char* name) { return reinterpret_cast<Handler*>(dlsym(library, name)); };
  const Handlers handlers{handler("uqsparse_forward"), handler("uqsparse_input_gradient"),
                          handler("uqsparse_value_gradient"), handler("uqsparse_rows_product")};
  require(choose != nullptr && handlers.forward != nullptr && handlers.input_gradient != nullptr &&
              handlers.value_gradient != nullptr && handlers.rows_product != nullptr,
          "the library lacks a handler");
  std::mt19937 random(count > 2 ? std::atoi(arguments[2]) : 0);
  constexpr size_t kThreads = 3;
  Pool pool(kThreads);
  bool any = false;
  for (const char* name : {"avx2", "avx512", "neon"}) {
    if (*choose(name) == 0) continue;
    any = true;
    size_t cases = 0;
    for (size_t group : {1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 33, 64}) {
      for (size_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 13, 14, 16, 17, 31, 40, 65, 70})
        for (double density : {0.0, 0.3, 1.0}) {
          right(handlers, draw_case(random, rows, 1 + random() % 70, 1 + random() % (4 * group), group, density), pool);
          ++cases;
        }
      // Enough work for threads, more panels than are packed at once, and inputs that are shared out among threads.
      right(handlers, draw_case(random, 150, 200, 5 * group + 1, group, 0.8), pool);
      right(handlers, draw_case(random, 300, 4096, 2 * group, group, 0.02), pool);
      right(handlers, draw_case(random, 2, 1500, 200 + group, group, 0.7), pool);
      right(handlers, draw_case(random, 12, 1100, 60 + group, group, 0.7), pool);
      cases += 4;
      for (size_t rows : {2, 20}) not_finite(handlers, random, pool, group, rows);
      lies_about_shapes(handlers, random, pool, group);
      inconsistent_positions(handlers, random, pool, group);
    }
    for (int i = 0; i < 30; ++i) chosen_rows(handlers, random, pool);
    for (int i = 0; i < 5; ++i) nested(handlers, random, pool, kThreads);
    std::printf("%s: %zu matrices\n", name, cases);
  }
  require(any, "the machine can run none of the kernels");
  return 0;
}
