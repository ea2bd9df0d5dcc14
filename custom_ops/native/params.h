// The parameters that the op definitions pass to the kernels. Included by ops.cc, by the CPU kernels, by the CUDA
// kernels (which never see TensorFlow's headers) and by the tests that run kernels outside TensorFlow. Therefore it is
// plain C++ and includes no other header of ours.
#pragma once

#ifdef __CUDACC_RTC__  // NVRTC has no standard library.
using int64_t = long;
using uintptr_t = unsigned long;
#else
#include <cstdint>
#endif

namespace stylegan2 {

enum DataType { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// y = gain * act(x + b). The names are those of ACTIVATIONS in Python, in the order of the enum; test_native.py
// compares the two lists.
enum Activation { kLinear = 0, kRelu, kLeakyRelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish };
constexpr int kNumActivations = kSwish + 1;
inline constexpr const char* kActivationNames[] = {"linear", "relu", "lrelu",    "tanh", "sigmoid",
                                                   "elu",    "selu", "softplus", "swish"};
static_assert(sizeof(kActivationNames) / sizeof(kActivationNames[0]) == kNumActivations, "one name per activation");

// ---- upfirdn_2d ----

// Images are [major, in_h, in_w, minor] in row-major order: NHWC is (N, H, W, C), NCHW is (N * C, H, W, 1). Along each
// axis the input is upsampled by zero insertion, padded (a negative pad crops), filtered, and every down-th sample is
// kept:
//     y[o] = sum over t of taps[t] * upsampled_padded_x[o * down + t].
// `taps` is k reversed, so that this is a convolution with k and not a correlation. With `flip`, which the gradient
// sets, `taps` is k itself.
struct UpfirdnParams {
  const void* x;        // [major, in_h, in_w, minor], dtype.
  const float* k;       // [k_h, k_w].
  void* y;              // [major, out_h, out_w, minor], dtype.
  DataType dtype;
  int flip;
  int up_y, up_x;       // At least 1.
  int down_y, down_x;   // At least 1.
  int pad_y0, pad_x0;   // Zeros before the first row and column; negative crops. out_h and out_w imply the other pads.
  int k_h, k_w;
  int64_t major, in_h, in_w, minor;  // Any may be 0.
  int64_t out_h, out_w;
};

// ---- fused_bias_act ----

// Highest derivative of an activation that the kernels can compute.
constexpr int kMaxOrder = 6;

// Tensors are [outer, channels, inner]: NHWC is (N * H * W, C, 1), NCHW is (N, C, H * W).
//   order 0:  y = gain * act(x + b), clipped to [-clamp, clamp].
//   order n:  y = gain * (dy + dy_bias) * act^(n)(x + b), the n-th derivative;
//             db[channel] = sum of y over outer and inner, unless db is null.
// With `ref_is_y` (linear, relu and leaky relu, first order), x is the result of order 0 instead of its input: act'
// follows from the sign of x, and is zero where x was clamped.
struct BiasActParams {
  const void* x;        // Order 0: the input. Order n: the reference; null for linear, order 1, without a clamp.
  const void* b;        // [channels], dtype. Null = zeros.
  const void* dy;       // Order n: the gradient of the result. Null for order 0.
  const void* dy_bias;  // Order n: [channels], dtype, added to dy. Null = zeros.
  void* y;              // The result, shaped like x. Null = only db is computed.
  void* db;             // Order n: [channels], dtype. Null = not computed.
  DataType dtype;
  Activation act;
  int order;            // 0 .. kMaxOrder.
  int ref_is_y;
  float alpha, gain;
  float clamp;          // Negative = no clamp. Order n: only with ref_is_y.
  // The n-th derivative of tanh is a polynomial in t = tanh(z), that of sigmoid one in s = sigmoid(z). coef[i] is the
  // coefficient of t^i or s^i. The others follow: softplus^(n) = sigmoid^(n-1), and
  // swish^(n) = z * sigmoid^(n) + n * sigmoid^(n-1), where coef2 holds the coefficients of sigmoid^(n-1).
  double coef[kMaxOrder + 2];
  double coef2[kMaxOrder + 2];
  int64_t outer, channels, inner;    // Any may be 0.
};

// ---- styled_bias_act ----

// Images are [images, pixels, channels], or [images, channels, pixels] with `nchw`:
//     y = gain * act(x * scale + noise + b), clipped to [-clamp, clamp], with act(z) = z if z > 0 else alpha * z.
struct StyledBiasActParams {
  const void* x;        // dtype.
  const float* scale;   // [images, channels]. Null = ones.
  const float* noise;   // [images, pixels], or [pixels] with `one_noise`. Null = zeros.
  const float* b;       // [channels]. Null = zeros.
  void* y;              // Like x.
  DataType dtype;
  int nchw, one_noise;
  float alpha, gain, clamp;  // gain > 0. clamp: infinity = no clamp.
  int64_t images, pixels, channels;  // Any may be 0.
};

// Its gradient. The sign of y tells the slope, and its magnitude whether it was clamped:
//     dz     = dy * gain * act'(y), or 0 where y was clamped
//     dx     = dz * scale
//     dscale = sum of dz * x over the pixels
//     dnoise = sum of dz over the channels, and over the images with `one_noise`
//     db     = sum of dz over images and pixels
struct StyledBiasActGradParams {
  const void* dy;       // dtype, as are y, x and dx.
  const void* y;        // The result.
  const void* x;        // Only read for dscale. Null = dscale is null too.
  const float* scale;   // [images, channels]. Null = ones.
  void* dx;
  float* dscale;        // [images, channels]. Null = not computed, as for the next two.
  float* dnoise;        // [images, pixels], or [pixels] with `one_noise`.
  float* db;            // [channels].
  DataType dtype;
  int nchw, one_noise;
  float alpha, gain, clamp;  // As in StyledBiasActParams.
  int64_t images, pixels, channels;
};

}  // namespace stylegan2

// The launchers of gpu_kernels.cu. They return 0 or a cudaError_t. Pointers are device memory; `workspace` points to
// as many bytes of it as the function ending in _workspace returns, which may be 0.
extern "C" {
int64_t stylegan2_bias_act_workspace(const stylegan2::BiasActParams* p);
int64_t stylegan2_styled_bias_act_grad_workspace(const stylegan2::StyledBiasActGradParams* p);
int stylegan2_upfirdn_cuda(const stylegan2::UpfirdnParams* p, void* stream);
int stylegan2_bias_act_cuda(const stylegan2::BiasActParams* p, void* workspace, void* stream);
int stylegan2_styled_bias_act_cuda(const stylegan2::StyledBiasActParams* p, void* stream);
int stylegan2_styled_bias_act_grad_cuda(const stylegan2::StyledBiasActGradParams* p, void* workspace, void* stream);
const char* stylegan2_cuda_error(int error);
}
