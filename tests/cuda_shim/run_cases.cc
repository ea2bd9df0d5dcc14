// run_cases CASES RESULTS: runs the cases of a file with several seeds and grid limits, which must all give the same
// bits. Numbers in both files are int64.
//
// CASES begins with sizeof(UpfirdnParams), sizeof(BiasActParams) and the number of cases. A case begins with its kind:
//   0  upfirdn_2d       UpfirdnParams with null pointers, then its buffers in the order of the pointers
//   1  fused_bias_act   the same with BiasActParams
//   2  a large image    its `minor`
// A buffer is its number of bytes (-1: null), its `lead`, the number of bytes by which it misses its alignment, and for
// inputs the data.
//
// RESULTS has, for each case of kinds 0 and 1, the error code, y and db, unless they are null.

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

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

struct Setting { unsigned seed; int64_t max_grid_x, max_grid_y; };
constexpr Setting kSettings[] = {{1, 2147483647, 65535}, {2, 2147483647, 65535}, {3, 2147483647, 2}, {4, 3, 2}};

// Runs `call` once per setting; the results must be the same.
template <class Call>
void run(FILE* results, Buffer& y, Buffer* db, Call call) {
  std::vector<unsigned char> first;
  int64_t error = 0;
  for (const Setting& setting : kSettings) {
    cuda_shim::seed = setting.seed;
    cuda_shim::max_grid_x = setting.max_grid_x;
    cuda_shim::max_grid_y = setting.max_grid_y;
    y.poison();
    if (db) db->poison();
    error = call();
    std::vector<unsigned char> now;
    if (y.memory) now.assign(y.data(), y.data() + y.bytes);
    if (db && db->memory) now.insert(now.end(), db->data(), db->data() + db->bytes);
    if (setting.seed == 1) first = now;
    check(now == first, "results differ with the order of threads or with the size of the grid");
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
  run(results, y, nullptr, [&] { return stylegan2_upfirdn_cuda(&p, nullptr); });
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
  run(results, y, &db, [&] {
    std::vector<unsigned char> workspace(stylegan2_bias_act_workspace(&p), 0xff);
    return stylegan2_bias_act_cuda(&p, workspace.data(), nullptr);
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
  const int64_t count = read_one<int64_t>();
  for (int64_t i = 0; i < count; i++) {
    const int64_t kind = read_one<int64_t>();
    fprintf(stderr, "case %ld\n", static_cast<long>(i));  // The last line names the case that ends in an error.
    kind == 0 ? run_upfirdn(results) : kind == 1 ? run_bias_act(results) : run_large(read_one<int64_t>());
  }
  fclose(results);
  return 0;
}
