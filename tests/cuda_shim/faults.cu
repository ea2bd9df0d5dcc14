// faults NAME: runs a kernel with one fault, to show that the emulation finds it. The kernel reverses the rows of an
// array, with neighbours swapped, through shared memory.

#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

#include <vector>

extern __shared__ __align__(16) unsigned char shared_memory[];

enum Fault {
  kNone, kMissingBarrier, kMissingSecondBarrier, kBarrierOfSome, kWriteBeyond, kSharedBeyond, kReadBefore,
  kGridTooLarge, kFaults
};
const char* const kNames[] = {"none", "missing_barrier", "missing_second_barrier", "barrier_of_some", "write_beyond",
                              "shared_beyond", "read_before", "grid_too_large"};

__global__ void reverse_rows(const float* x, float* y, int rows, Fault fault) {
  float* buffer = reinterpret_cast<float*>(shared_memory);
  const int n = blockDim.x, i = threadIdx.x;
  for (int row = 0; row < rows; row++, x += n, y += n) {
    buffer[i + (fault == kSharedBeyond)] = x[i - (fault == kReadBefore)];
    if (fault == kBarrierOfSome ? i > 0 : fault != kMissingBarrier) __syncthreads();
    y[n - 1 - i + (fault == kWriteBeyond)] = buffer[i ^ 1];
    if (fault != kMissingSecondBarrier) __syncthreads();
  }
}

int main(int argc, char** argv) {
  int fault = 0;
  while (fault < kFaults && (argc != 2 || strcmp(argv[1], kNames[fault]))) fault++;
  if (fault == kFaults) return 2;
  const int n = 64, rows = 3;
  std::vector<float> x(rows * n), y(rows * n);
  for (int i = 0; i < rows * n; i++) x[i] = i;
  const dim3 grid(1, fault == kGridTooLarge ? 65536 : 1);
  CUDA_LAUNCH(reverse_rows, grid, n, n * sizeof(float), nullptr, x.data(), y.data(), rows, static_cast<Fault>(fault));
  if (cudaGetLastError() != cudaSuccess) return puts("launch refused"), 1;
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < n; i++)
      if (y[row * n + n - 1 - i] != x[row * n + (i ^ 1)]) return puts("wrong result"), 1;
  return puts("right result"), 0;
}
