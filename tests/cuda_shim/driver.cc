// Stands in for the driver's library, libcuda.so.1: runs the kernels of gpu_kernels.cu with this folder's
// cuda_runtime.h, so that all is tested that lies between the launchers and the driver. An image that begins with
// "fits" is one for this GPU.

#include <dlfcn.h>

#include <functional>
#include <list>
#include <string>
#include <utility>

#include "gpu_bias_act.h"
#include "gpu_styled_bias_act.h"
#include "gpu_upfirdn.h"

using namespace stylegan2;
using namespace stylegan2::gpu;

namespace {

constexpr int kNoBinary = 209, kNotFound = 500;

struct Function {
  std::string name;
  void* kernel;
};

template <class... Params, size_t... i>
void call_with(void* kernel, void** params, std::index_sequence<i...>) {
  reinterpret_cast<void (*)(Params...)>(kernel)(*static_cast<Params*>(params[i])...);
}

template <class... Params>
std::function<void()> call(void* kernel, void** params) {
  return [=] { call_with<Params...>(kernel, params, std::index_sequence_for<Params...>()); };
}

// A call of a kernel; A is the type of its sums.
template <class A>
std::function<void()> call_by_name(const Function& f, void** params) {
  const auto is = [&](const char* name) { return f.name.find(name) != std::string::npos; };
  if (is("upfirdn_planes")) return call<UpfirdnParams, Tile>(f.kernel, params);
  if (is("upfirdn_")) return call<UpfirdnParams>(f.kernel, params);
  if (is("sum_partial")) return call<const A*, void*, int64_t, int64_t>(f.kernel, params);
  if (is("sum_parts")) return call<Parts<A>, bool, float*>(f.kernel, params);
  if (is("styled_bias_act_grad")) return call<StyledBiasActGradParams, StyledTiles, A*, A*>(f.kernel, params);
  if (is("styled_bias_act")) return call<StyledBiasActParams>(f.kernel, params);
  if (is("bias_act_p")) return call<BiasActParams, Polynomials<A>, A*, int64_t>(f.kernel, params);
  return call<BiasActParams, Polynomials<A>>(f.kernel, params);
}

}  // namespace

extern "C" {

int cuCtxGetCurrent(void** context) {
  static int here;
  *context = &here;
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  *module = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  return std::string(static_cast<const char*>(image)) == "fits" ? 0 : kNoBinary;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  static std::list<Function> functions;
  void* kernel = dlsym(module, name);
  functions.push_back({name, kernel});
  *function = &functions.back();
  return kernel ? 0 : kNotFound;
}

int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared, void*, void** params, void**) {
  const Function& f = *static_cast<Function*>(function);
  const bool is_double = f.name.find("Id") != std::string::npos;  // The first template argument.
  dim3 grid(grid_x, grid_y, grid_z), block(block_x, block_y, block_z);
  cuda_shim::launch(grid, block, shared, is_double ? call_by_name<double>(f, params) : call_by_name<float>(f, params));
  return cudaGetLastError();
}

int cuMemsetD8Async(void* data, unsigned char value, size_t bytes, void*) {
  memset(data, value, bytes);
  return 0;
}

int cuGetErrorString(int, const char** text) {
  *text = "an error of the driver";
  return 0;
}

}  // extern "C"
