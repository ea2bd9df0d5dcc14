// What the op definitions hand to the kernels. Included by ops.cc, by the CPU kernels, by the CUDA kernels (which never see
// TensorFlow's headers) and by the tests that run the CUDA kernels on a CPU: plain C++, no other header.
#pragma once

#include <cstdint>

namespace stylegan2 {

enum DataType { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// y = gain * act(x + b); the order of the rows of ACTIVATIONS in fused_bias_act.py.
enum Activation { kLinear = 0, kRelu, kLeakyRelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish };

// ---- upfirdn_2d ----

// Images are [major, in_h, in_w, minor], row by row: NHWC is (N, H, W, C), NCHW is (N * C, H, W, 1). Along each axis the input is
// upsampled by zero insertion, padded (negative: cropped), filtered, and every down-th sample is kept:
//     y[o] = sum over t of flipped(k)[t] * upsampled_padded_x[o * down + t], that is, a convolution with k (not a correlation).
// `flip` convolves with k turned around, as the gradient does.
struct UpfirdnParams {
  const void* x;        // [major, in_h, in_w, minor], dtype.
  const float* k;       // [k_h, k_w].
  void* y;              // [major, out_h, out_w, minor], dtype.
  DataType dtype;
  int flip;
  int up_y, up_x;       // At least 1.
  int down_y, down_x;   // At least 1.
  int pad_y0, pad_x0;   // Zeros before the first row and column; negative crops. What lies behind the last follows from out_h, out_w.
  int k_h, k_w;
  int64_t major, in_h, in_w, minor;  // Any may be 0.
  int64_t out_h, out_w;
};

// ---- fused_bias_act ----

// Highest derivative of an activation that the kernels know.
constexpr int kMaxOrder = 6;

// Tensors are [outer, channels, inner]: NHWC is (N * H * W, C, 1), NCHW is (N, C, H * W).
//   order 0:  y = gain * act(x + b), within -clamp and clamp.
//   order n:  y = gain * (dy + c) * act^(n)(z) with z = x + b, or, where `ref_is_y` (linear, relu and leaky relu, first order), with
//             act'(z) told from the sign of x, which is then the result of order 0, and zero where that was clamped;
//             and db[channel] = sum of y over outer and inner, unless db is null.
// Derivatives of smooth activations are those of `coef`, see activations in the kernels.
struct BiasActParams {
  const void* x;        // Order 0: the input. Order n: the reference. Null where act is linear, order is 1 and there is no clamp.
  const void* b;        // [channels], dtype. Null = zeros.
  const void* dy;       // Order n: the gradient of the result. Null for order 0.
  const void* c;        // Order n: [channels], dtype, added to dy. Null = zeros.
  void* y;              // The result, like x. Null = only db is wanted.
  void* db;             // Order n: [channels], dtype. Null = not wanted.
  DataType dtype;
  Activation act;
  int order;            // 0 .. kMaxOrder.
  int ref_is_y;
  float alpha, gain;
  float clamp;          // Negative = none. Order n: only with ref_is_y.
  // The n-th derivative of tanh is a polynomial in t = tanh(z), that of sigmoid one in s = sigmoid(z): coef[i] belongs to t^i or s^i.
  // softplus^(n) = sigmoid^(n-1); swish^(n) = z * sigmoid^(n) + n * sigmoid^(n-1), and coef2 is that of sigmoid^(n-1).
  double coef[kMaxOrder + 2];
  double coef2[kMaxOrder + 2];
  int64_t outer, channels, inner;    // Any may be 0.
};

// ---- styled_bias_act, on the CPU alone ----

// Images are [images, pixels, channels]:  y = clamped(gain * act(x * scale + noise + b)), act(z) = z above zero and alpha * z below.
struct StyledBiasActParams {
  const void* x;        // dtype, never kFloat64.
  const float* scale;   // [images, channels]. Null = ones.
  const float* noise;   // [images, pixels], or [pixels] where `one_noise`. Null = zeros.
  const float* b;       // [channels]. Null = zeros.
  void* y;              // Like x.
  DataType dtype;
  int one_noise;
  float alpha, gain, clamp;  // clamp: infinity = none.
  int64_t images, pixels, channels;  // Any may be 0.
};

}  // namespace stylegan2

// The launchers of gpu_kernels.cu: 0, or a cudaError_t. Pointers are device memory; `workspace` is `*_workspace(p)` bytes of it (may be 0).
extern "C" {
int64_t stylegan2_bias_act_workspace(const stylegan2::BiasActParams* p);
int stylegan2_upfirdn_cuda(const stylegan2::UpfirdnParams* p, void* stream);
int stylegan2_bias_act_cuda(const stylegan2::BiasActParams* p, void* workspace, void* stream);
const char* stylegan2_cuda_error(int error);
}
