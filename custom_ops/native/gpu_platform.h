// What gpu_kernels.cu and its headers need from CUDA. The same source is compiled
//   - for the GPU, by NVRTC or nvcc, into images (cubin, fatbin, PTX) that the library contains,
//   - for the CPU, by the C++ compiler, which needs no part of CUDA for it: gpu_host.h,
//   - by the tests, which run the kernels on a CPU (tests/cuda_shim).
#pragma once

#ifdef STYLEGAN2_GPU_HOST
#include "gpu_host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#ifdef __CUDACC_RTC__
// NVRTC knows no functions of the host. With --device-as-default-execution-space the launchers are functions of the GPU
// that nothing calls: they only name the kernels that are needed.
#define CUDA_LAUNCH(...)
#define CUDA_MAX_GRID_X 2147483647
#define CUDA_MAX_GRID_Y 65535
#define cudaSuccess 0
#define cudaErrorInvalidValue 1
#define cudaError_t int
#define cudaStream_t void*
#define cudaGetLastError() 0
#define cudaMemsetAsync(data, value, bytes, stream) 0
#define cudaGetErrorString(error) nullptr
#else
#include <cuda_runtime.h>
#endif
#endif

#ifndef CUDA_LAUNCH  // nvcc. The others define launches and limits of their own.
#define CUDA_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define CUDA_MAX_GRID_X 2147483647
#define CUDA_MAX_GRID_Y 65535
#endif
