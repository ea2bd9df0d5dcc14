// The launchers that params.h declares. The kernels are in gpu_upfirdn.h and gpu_bias_act.h.

#include "gpu_bias_act.h"
#include "gpu_upfirdn.h"

using namespace stylegan2;

extern "C" {

int64_t stylegan2_bias_act_workspace(const BiasActParams* p) {
  if (!p->db || p->outer * p->channels * p->inner == 0) return 0;
  return p->channels * db_parts(*p) * (p->dtype == kFloat64 ? sizeof(double) : sizeof(float));
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

const char* stylegan2_cuda_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // extern "C"
