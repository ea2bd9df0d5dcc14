// Loads the images of the kernels and launches kernels, through the driver's library, libcuda.so.1. TensorFlow's process
// has loaded it where there is a GPU. No other part of CUDA is needed, neither to build this file nor to run it.

#ifdef STYLEGAN2_CUDA

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <utility>

#include "gpu_host.h"

// The images, and a null at their end: newer GPUs first, PTX last. build.py writes them.
extern "C" const void* const stylegan2_gpu_images[];

namespace stylegan2::driver {
namespace {

// Errors of this file. Those of the driver are positive.
constexpr cudaError_t kNoDriver = -1, kNoName = -2;
constexpr cudaError_t kInvalidContext = 201, kNoBinary = 209;  // Of the driver.

// The functions of cuda.h that are used here. CUcontext, CUmodule, CUfunction and CUstream are pointers.
struct Driver {
  cudaError_t (*cuCtxGetCurrent)(void** context);
  cudaError_t (*cuModuleLoadData)(void** module, const void* image);
  cudaError_t (*cuModuleGetFunction)(void** function, void* module, const char* name);
  cudaError_t (*cuLaunchKernel)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** params,
                                void** extra);
  cudaError_t (*cuMemsetD8Async)(void* data, unsigned char value, size_t bytes, void* stream);
  cudaError_t (*cuGetErrorString)(cudaError_t error, const char** text);
  bool complete;

  Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    complete = library != nullptr;
    find(library, "cuCtxGetCurrent", cuCtxGetCurrent);
    find(library, "cuModuleLoadData", cuModuleLoadData);
    find(library, "cuModuleGetFunction", cuModuleGetFunction);
    find(library, "cuLaunchKernel", cuLaunchKernel);
    find(library, "cuMemsetD8Async", cuMemsetD8Async);
    find(library, "cuGetErrorString", cuGetErrorString);
  }

 private:
  template <class Function>
  void find(void* library, const char* name, Function& function) {
    function = library ? reinterpret_cast<Function>(dlsym(library, name)) : nullptr;
    complete = complete && function;
  }
};

const Driver& cuda() {
  static const Driver driver;
  return driver;
}

// Loads the first image that fits the GPU of the current context.
cudaError_t load_module(void** module) {
  cudaError_t error = kNoBinary;
  for (const void* const* image = stylegan2_gpu_images; *image; image++) {
    error = cuda().cuModuleLoadData(module, *image);
    if (!error) return error;
  }
  return error;
}

// The driver's handle of a kernel in the current context, which belongs to one GPU.
cudaError_t find_function(const void* kernel, void** function) {
  static std::mutex mutex;
  static std::map<void*, void*> modules;                             // By context.
  static std::map<std::pair<void*, const void*>, void*> functions;  // By context and kernel.
  void* context = nullptr;
  if (cudaError_t error = cuda().cuCtxGetCurrent(&context)) return error;
  if (!context) return kInvalidContext;
  std::lock_guard<std::mutex> lock(mutex);
  const auto known = functions.find({context, kernel});
  if (known != functions.end()) return *function = known->second, 0;
  if (!modules.count(context)) {
    void* module;
    if (cudaError_t error = load_module(&module)) return error;
    modules[context] = module;
  }
  Dl_info symbol;
  if (!dladdr(kernel, &symbol) || symbol.dli_saddr != kernel || !symbol.dli_sname) return kNoName;
  if (cudaError_t error = cuda().cuModuleGetFunction(function, modules[context], symbol.dli_sname)) return error;
  functions[{context, kernel}] = *function;
  return 0;
}

}  // namespace

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared, void* stream, void** params) {
  if (!cuda().complete) return kNoDriver;
  void* function = nullptr;
  if (cudaError_t error = find_function(kernel, &function)) return error;
  return cuda().cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                               static_cast<unsigned>(shared), stream, params, nullptr);
}

cudaError_t fill(void* data, int value, size_t bytes, void* stream) {
  if (!cuda().complete) return kNoDriver;
  return cuda().cuMemsetD8Async(data, static_cast<unsigned char>(value), bytes, stream);
}

const char* describe(cudaError_t error) {
  if (error == kNoDriver) return "libcuda.so.1, the library of the driver, cannot be loaded";
  if (error == kNoName) return "a kernel has no symbol in the library of the ops";
  const char* text = nullptr;
  return cuda().complete && !cuda().cuGetErrorString(error, &text) && text ? text : "unknown error";
}

}  // namespace stylegan2::driver

#endif  // STYLEGAN2_CUDA
