// Implements this folder's cuda_runtime.h: runs one block after the other, and the threads of a block as fibers.

#include "cuda_runtime.h"

#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0:abort_on_error=0"; }

dim3 gridDim, blockDim, blockIdx, threadIdx;

constexpr size_t kSharedBytes = 48 * 1024, kStackBytes = 64 * 1024;
alignas(16) unsigned char shared_memory[kSharedBytes];

namespace cuda_shim {

int64_t max_grid_x = 2147483647, max_grid_y = 65535, index_limit = int64_t(1) << 31;
unsigned seed = 1;

namespace {

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  bool ended;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
Fiber* current;
const std::function<void()>* body;
cudaError_t last_error = cudaSuccess;

// Tells AddressSanitizer which stack the program runs on.
void switch_to(ucontext_t* from, ucontext_t* to, const void* stack, size_t bytes) {
  void* fake;
  __sanitizer_start_switch_fiber(&fake, stack, bytes);
  swapcontext(from, to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

const void* main_stack;
size_t main_stack_bytes;

void run_fiber() {
  __sanitizer_finish_switch_fiber(nullptr, &main_stack, &main_stack_bytes);
  (*body)();
  current->ended = true;
  switch_to(&current->context, &scheduler, main_stack, main_stack_bytes);
}

void start(Fiber& fiber) {
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), kStackBytes);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  fiber.ended = false;
  makecontext(&fiber.context, run_fiber, 0);
}

void run_block(std::mt19937& random) {
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  for (int i = 0; i < threads; i++) start(fibers[i]);
  for (int ended = 0; ended == 0;) {  // One pass runs all threads from a barrier to the next.
    std::shuffle(order.begin(), order.end(), random);
    for (int i : order) {
      threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
      current = &fibers[i];
      switch_to(&scheduler, &current->context, current->stack.get(), kStackBytes);
      ended += current->ended;
    }
    if (ended != 0 && ended != threads) {
      fprintf(stderr, "cuda_shim: %d of %d threads ended while the others wait at a barrier\n", ended, threads);
      exit(3);
    }
  }
}

}  // namespace

void launch(dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread) {
  const size_t threads = static_cast<size_t>(block.x) * block.y * block.z;
  const bool grid_fits = grid.x > 0 && grid.y > 0 && grid.z == 1 && grid.x <= max_grid_x && grid.y <= max_grid_y;
  if (!grid_fits || threads == 0 || threads > 1024 || shared > kSharedBytes) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  while (fibers.size() < threads) fibers.emplace_back();
  gridDim = grid;
  blockDim = block;
  body = &thread;
  std::mt19937 random(seed);
  std::vector<size_t> blocks(static_cast<size_t>(grid.x) * grid.y);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (size_t i : blocks) {
    ASAN_UNPOISON_MEMORY_REGION(shared_memory, kSharedBytes);
    memset(shared_memory, 0xff, kSharedBytes);
    ASAN_POISON_MEMORY_REGION(shared_memory + shared, kSharedBytes - shared);
    blockIdx = dim3(i % grid.x, i / grid.x);
    run_block(random);
  }
  ASAN_UNPOISON_MEMORY_REGION(shared_memory, kSharedBytes);
}

}  // namespace cuda_shim

void __syncthreads() {
  using namespace cuda_shim;
  const dim3 index = threadIdx;
  switch_to(&current->context, &scheduler, main_stack, main_stack_bytes);
  threadIdx = index;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_shim::last_error;
  cuda_shim::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  memset(data, value, bytes);
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaSuccess) return "no error";
  return error == cudaErrorInvalidValue ? "invalid argument" : "invalid configuration argument";
}
