// The launchers that params.h declares. The kernels are in gpu_upfirdn.h, gpu_bias_act.h and gpu_styled_bias_act.h.

#include "gpu_bias_act.h"
#include "gpu_styled_bias_act.h"
#include "gpu_upfirdn.h"

using namespace stylegan2;
using namespace stylegan2::gpu;

extern "C" {

int64_t stylegan2_bias_act_workspace(const BiasActParams* p) {
  if (!p->db || p->outer * p->channels * p->inner == 0) return 0;
  return p->channels * db_parts(*p) * (p->dtype == kFloat64 ? sizeof(double) : sizeof(float));
}

int64_t stylegan2_styled_bias_act_grad_workspace(const StyledBiasActGradParams* p) {
  return p->images * p->pixels * p->channels == 0 ? 0 : styled_workspace(*p);
}

int stylegan2_upfirdn_cuda(const UpfirdnParams* p, void* stream) {
  if (p->major * p->out_h * p->out_w * p->minor == 0) return cudaSuccess;
  return with_type(p->dtype, [&](auto type) { return launch_upfirdn<typename decltype(type)::type>(*p, stream); });
}

int stylegan2_bias_act_cuda(const BiasActParams* p, void* workspace, void* stream) {
  return with_type(p->dtype, [&](auto type) -> int {
    using T = typename decltype(type)::type;
    if (p->outer * p->channels * p->inner > 0) return launch_bias_act<T>(*p, workspace, stream);
    if (!p->db || p->channels == 0) return cudaSuccess;
    return cudaMemsetAsync(p->db, 0, p->channels * sizeof(T), static_cast<cudaStream_t>(stream));  // Sums of nothing.
  });
}

int stylegan2_styled_bias_act_cuda(const StyledBiasActParams* p, void* stream) {
  if (p->images * p->pixels * p->channels == 0) return cudaSuccess;
  return with_type(p->dtype,
                   [&](auto type) { return launch_styled_bias_act<typename decltype(type)::type>(*p, stream); });
}

int stylegan2_styled_bias_act_grad_cuda(const StyledBiasActGradParams* p, void* workspace, void* stream) {
  if (p->images * p->pixels * p->channels == 0) {  // Sums of nothing.
    const int64_t noises = p->one_noise ? p->pixels : p->images * p->pixels;
    int error = cudaSuccess;
    auto clear = [&](float* sums, int64_t n) {
      if (sums && n && !error) error = cudaMemsetAsync(sums, 0, n * sizeof(float), static_cast<cudaStream_t>(stream));
    };
    clear(p->dscale, p->images * p->channels), clear(p->dnoise, noises), clear(p->db, p->channels);
    return error;
  }
  return with_type(p->dtype, [&](auto type) {
    return launch_styled_bias_act_grad<typename decltype(type)::type>(*p, workspace, stream);
  });
}

const char* stylegan2_cuda_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // extern "C"
