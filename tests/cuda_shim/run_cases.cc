// run_cases CASES RESULTS: runs the cases of a file with several seeds, limits of the grid and types of indices, which
// must all give the same bits. Numbers in both files are int64.
//
// CASES begins with the sizes of UpfirdnParams, BiasActParams, StyledBiasActParams and StyledBiasActGradParams, and the
// number of cases. A case begins with its kind:
//   0  upfirdn_2d       UpfirdnParams with null pointers, then its buffers in the order of the pointers
//   1  fused_bias_act   the same with BiasActParams
//   2  a large image    its `minor`
//   3  styled_bias_act  as 0, with StyledBiasActParams
//   4  its gradient     as 0, with StyledBiasActGradParams
// A buffer is its number of bytes (-1: null), its `lead`, the number of bytes by which it misses its alignment, and for
// inputs the data.
//
// RESULTS has, for each case except those of kind 2, the error code and the results that are not null, in their order.

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <initializer_list>
#include <memory>
#include <vector>

#include "cuda_bf16.h"
#include "cuda_runtime.h"
#include "params.h"

using namespace stylegan2;

namespace {

FILE* cases;

void check(bool ok, const char* what) {
  if (ok) return;
  fprintf(stderr, "run_cases: %s\n", what);
  exit(2);
}

template <class T>
T read_one() {
  T value;
  check(fread(&value, sizeof(T), 1, cases) == 1, "the file of cases ends early");
  return value;
}

// A buffer of exactly its size, so that AddressSanitizer reports every access beyond it.
struct Buffer {
  int64_t bytes, lead;
  std::unique_ptr<unsigned char[]> memory;

  explicit Buffer(bool input) : bytes(read_one<int64_t>()), lead(read_one<int64_t>()) {
    if (bytes < 0) return;
    memory.reset(new unsigned char[lead + bytes]);
    if (input && bytes) check(fread(data(), bytes, 1, cases) == 1, "the file of cases ends early");
  }
  unsigned char* data() { return memory ? memory.get() + lead : nullptr; }
  void poison() { if (memory) memset(data(), 0xff, bytes); }
};

struct Setting { unsigned seed; int64_t max_grid_x, max_grid_y, index_limit; };
constexpr int64_t kMaxX = 2147483647, kMaxY = 65535, kIndices = int64_t(1) << 31;
constexpr Setting kSettings[] = {{1, kMaxX, kMaxY, kIndices}, {2, kMaxX, kMaxY, 0}, {3, kMaxX, 2, kIndices},
                                 {4, 3, 2, 0}};

// Runs `call` once per setting; the results must be the same.
template <class Call>
void run(FILE* results, std::initializer_list<Buffer*> outputs, Call call) {
  std::vector<unsigned char> first;
  int64_t error = 0;
  for (const Setting& setting : kSettings) {
#ifdef STYLEGAN2_GPU_HOST  // Through driver.cc: there, the emulation is in a library of its own.
    if (setting.seed > 1) break;
#else
    cuda_shim::seed = setting.seed;
    cuda_shim::max_grid_x = setting.max_grid_x;
    cuda_shim::max_grid_y = setting.max_grid_y;
    cuda_shim::index_limit = setting.index_limit;
#endif
    for (Buffer* output : outputs) output->poison();
    error = call();
    std::vector<unsigned char> now;
    for (Buffer* output : outputs)
      if (output->memory) now.insert(now.end(), output->data(), output->data() + output->bytes);
    if (setting.seed == 1) first = now;
    check(now == first, "results differ with the order of threads, the size of the grid or the type of indices");
  }
  fwrite(&error, sizeof(error), 1, results);
  if (!first.empty()) fwrite(first.data(), 1, first.size(), results);
}

void run_upfirdn(FILE* results) {
  UpfirdnParams p = read_one<UpfirdnParams>();
  Buffer x(true), k(true), y(false);
  p.x = x.data();
  p.k = reinterpret_cast<float*>(k.data());
  p.y = y.data();
  run(results, {&y}, [&] { return stylegan2_upfirdn_cuda(&p, nullptr); });
}

void run_bias_act(FILE* results) {
  BiasActParams p = read_one<BiasActParams>();
  Buffer x(true), b(true), dy(true), c(true), y(false), db(false);
  p.x = x.data();
  p.b = b.data();
  p.dy = dy.data();
  p.dy_bias = c.data();
  p.y = y.data();
  p.db = db.data();
  run(results, {&y, &db}, [&] {
    std::vector<unsigned char> workspace(stylegan2_bias_act_workspace(&p), 0xff);
    return stylegan2_bias_act_cuda(&p, workspace.data(), nullptr);
  });
}

float* numbers(Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); }

void run_styled_bias_act(FILE* results) {
  StyledBiasActParams p = read_one<StyledBiasActParams>();
  Buffer x(true), scale(true), noise(true), b(true), y(false);
  p.x = x.data(), p.scale = numbers(scale), p.noise = numbers(noise), p.b = numbers(b), p.y = y.data();
  run(results, {&y}, [&] { return stylegan2_styled_bias_act_cuda(&p, nullptr); });
}

void run_styled_bias_act_grad(FILE* results) {
  StyledBiasActGradParams p = read_one<StyledBiasActGradParams>();
  Buffer dy(true), y(true), x(true), scale(true), dx(false), dscale(false), dnoise(false), db(false);
  p.dy = dy.data(), p.y = y.data(), p.x = x.data(), p.scale = numbers(scale), p.dx = dx.data();
  p.dscale = numbers(dscale), p.dnoise = numbers(dnoise), p.db = numbers(db);
  run(results, {&dx, &dscale, &dnoise, &db}, [&] {
    std::vector<unsigned char> workspace(stylegan2_styled_bias_act_grad_workspace(&p), 0xff);
    return stylegan2_styled_bias_act_grad_cuda(&p, workspace.data(), nullptr);
  });
}

// Crops the last few samples of an image of more than 2^31 elements. Only the pages that are accessed take memory.
void run_large(int64_t minor) {
  const int64_t w = (int64_t(1) << 30) / minor, h = 3, size = h * w * minor;
  void* memory = mmap(nullptr, size * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check(memory != MAP_FAILED, "no address space for a large image");
  __nv_bfloat16* x = static_cast<__nv_bfloat16*>(memory);
  for (int64_t i = 1; i <= 4 * minor; i++) x[size - i] = __float2bfloat16(i);
  const float one = 1;
  std::vector<__nv_bfloat16> y(4 * minor);
  UpfirdnParams p = {};
  p.x = x, p.k = &one, p.y = y.data(), p.dtype = kBFloat16;
  p.up_x = p.down_y = p.down_x = 1;
  p.pad_x0 = static_cast<int>(4 - w);
  p.k_h = p.k_w = 1;
  p.major = 1, p.in_h = h, p.in_w = w, p.minor = minor, p.out_h = 1, p.out_w = 4;
  for (int factor : {1, 3}) {  // A fast kernel, and the one for all cases.
    p.up_y = p.down_y = factor;
    p.pad_y0 = -2 * factor;
    std::fill(y.begin(), y.end(), __nv_bfloat16{0xffff});
    check(stylegan2_upfirdn_cuda(&p, nullptr) == 0, "a large image: error");
    for (int64_t i = 1; i <= 4 * minor; i++)
      check(__bfloat162float(y[4 * minor - i]) == i, "a large image: wrong result");
  }
  munmap(memory, size * 2);
}

}  // namespace

int main(int argc, char** argv) {
  check(argc == 3, "usage: run_cases CASES RESULTS");
  cases = fopen(argv[1], "rb");
  FILE* results = fopen(argv[2], "wb");
  check(cases && results, "cannot open the files");
  check(read_one<int64_t>() == sizeof(UpfirdnParams), "UpfirdnParams of another size");
  check(read_one<int64_t>() == sizeof(BiasActParams), "BiasActParams of another size");
  check(read_one<int64_t>() == sizeof(StyledBiasActParams), "StyledBiasActParams of another size");
  check(read_one<int64_t>() == sizeof(StyledBiasActGradParams), "StyledBiasActGradParams of another size");
  const int64_t count = read_one<int64_t>();
  for (int64_t i = 0; i < count; i++) {
    const int64_t kind = read_one<int64_t>();
    fprintf(stderr, "case %ld\n", static_cast<long>(i));  // The last line names the case that ends in an error.
    switch (kind) {
      case 0: run_upfirdn(results); break;
      case 1: run_bias_act(results); break;
      case 2: run_large(read_one<int64_t>()); break;
      case 3: run_styled_bias_act(results); break;
      case 4: run_styled_bias_act_grad(results); break;
      default: check(false, "unknown kind of case");
    }
  }
  fclose(results);
  return 0;
}
