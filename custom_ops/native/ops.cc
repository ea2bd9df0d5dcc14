// The ops as TensorFlow sees them: definitions, shape functions, and kernels that check their inputs and pass them on.
// This is the only file that includes TensorFlow's headers, because they take longer to compile than any of the
// kernels.

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "cpu_kernels.h"
#include "params.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#ifdef STYLEGAN2_CUDA
#define EIGEN_USE_GPU
#include "unsupported/Eigen/CXX11/Tensor"
#endif

namespace stylegan2 {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// ---- Definitions ----

// Size of an axis after resampling; negative if the filter is larger than the padded image.
int64_t output_size(int64_t in, int64_t up, int64_t down, int64_t pad0, int64_t pad1, int64_t taps) {
  const int64_t padded = in * up + pad0 + pad1;
  return padded < taps ? -1 : (padded - taps) / down + 1;
}

Status same_shape(InferenceContext* c) {
  c->set_output(0, c->input(0));
  return Status();
}

bool valid_factors(const std::vector<int>& up, const std::vector<int>& down) {
  return up.size() == 2 && down.size() == 2 && std::min({up[0], up[1], down[0], down[1]}) >= 1;
}

Status invalid_factors() {
  return InvalidArgument("upfirdn_2d: up and down must be two factors of at least 1 each");
}

Status upfirdn_shape(InferenceContext* c) {
  ShapeHandle x, k, pads;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &k));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &pads));
  std::vector<int> up, down;
  std::string format;
  TF_RETURN_IF_ERROR(c->GetAttr("up", &up));
  TF_RETURN_IF_ERROR(c->GetAttr("down", &down));
  TF_RETURN_IF_ERROR(c->GetAttr("data_format", &format));
  if (!valid_factors(up, down)) return invalid_factors();
  const Tensor* pad = c->input_tensor(2);
  ShapeHandle y = x;
  for (int i = 0; i < 2; i++) {
    const int axis = (format == "NHWC" ? 1 : 2) + i;
    DimensionHandle size = c->UnknownDim();
    const DimensionHandle in = c->Dim(x, axis), taps = c->Dim(k, i);
    if (pad != nullptr && pad->NumElements() == 4 && c->ValueKnown(in) && c->ValueKnown(taps)) {
      const auto pad_values = pad->flat<int32_t>();
      const int64_t out =
          output_size(c->Value(in), up[i], down[i], pad_values(2 * i), pad_values(2 * i + 1), c->Value(taps));
      if (out < 0) return InvalidArgument("upfirdn_2d: the filter is larger than the padded image");
      size = c->MakeDim(out);
    }
    TF_RETURN_IF_ERROR(c->ReplaceDim(y, axis, size, &y));
  }
  c->set_output(0, y);
  return Status();
}

REGISTER_OP("Stylegan2Upfirdn2d")
    .Input("x: T")
    .Input("k: float")
    .Input("pads: int32")  // top, bottom, left, right.
    .Output("y: T")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("up: list(int) = [1, 1]")    // y, x.
    .Attr("down: list(int) = [1, 1]")  // y, x.
    .Attr("flip: bool = false")
    .Attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'")
    .SetShapeFn(upfirdn_shape);

// "act: {'linear', 'relu', ...} = 'linear'", from kActivationNames.
std::string act_attr() {
  std::string names;
  for (const char* name : kActivationNames) names += std::string(names.empty() ? "'" : ", '") + name + "'";
  return "act: {" + names + "} = '" + kActivationNames[kLinear] + "'";
}

#define ACT_ATTRS                            \
  Attr("T: {float, double, bfloat16, half}") \
      .Attr("axis: int = 1")                 \
      .Attr(act_attr())                      \
      .Attr("alpha: float = 0.0")            \
      .Attr("gain: float = 1.0")             \
      .Attr("clamp: float = -1.0")

REGISTER_OP("Stylegan2BiasAct")
    .Input("x: T")
    .Input("b: T")  // Empty = no bias.
    .Output("y: T")
    .ACT_ATTRS
    .SetShapeFn(same_shape);

REGISTER_OP("Stylegan2BiasActGrad")
    .Input("dy: T")
    .Input("dy_bias: T")  // Empty = zeros.
    .Input("ref: T")  // The forward op's input, or its result with ref_is_y. Not read if the derivative is a constant.
    .Input("b: T")
    .Output("dx: T")
    .Output("db: T")  // Empty unless want_db.
    .ACT_ATTRS
    .Attr("order: int = 1")
    .Attr("ref_is_y: bool = false")
    .Attr("want_db: bool = true")
    .SetShapeFn([](InferenceContext* c) {
      int axis;
      bool want_db;
      TF_RETURN_IF_ERROR(c->GetAttr("axis", &axis));
      TF_RETURN_IF_ERROR(c->GetAttr("want_db", &want_db));
      const ShapeHandle dy = c->input(0);
      c->set_output(0, dy);
      const DimensionHandle channels = c->RankKnown(dy) ? c->Dim(dy, axis) : c->UnknownDim();
      c->set_output(1, want_db ? c->Vector(channels) : c->Vector(0));
      return Status();
    });

#define STYLED_ATTRS                         \
  Attr("T: {float, double, bfloat16, half}") \
      .Attr("alpha: float = 1.0")            \
      .Attr("gain: float = 1.0")             \
      .Attr("clamp: float = -1.0")           \
      .Attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'")

REGISTER_OP("Stylegan2StyledBiasAct")
    .Input("x: T")          // [N, H, W, C] or [N, C, H, W].
    .Input("scale: float")  // [N, C]. Empty = ones.
    .Input("noise: float")  // [N or 1, H, W, 1] or [N or 1, 1, H, W]. Empty = zeros.
    .Input("b: float")      // [C]. Empty = zeros.
    .Output("y: T")
    .STYLED_ATTRS
    .SetShapeFn(same_shape);

REGISTER_OP("Stylegan2StyledBiasActGrad")
    .Input("dy: T")
    .Input("y: T")  // The forward op's result.
    .Input("x: T")  // Its input. Not read if scale is empty.
    .Input("scale: float")
    .Input("noise: float")  // Of this and b only the shapes matter.
    .Input("b: float")
    .Output("dx: T")
    .Output("dscale: float")
    .Output("dnoise: float")
    .Output("db: float")
    .STYLED_ATTRS
    .SetShapeFn([](InferenceContext* c) {
      const int inputs[] = {0, 3, 4, 5};
      for (int i = 0; i < 4; i++) c->set_output(i, c->input(inputs[i]));
      return Status();
    });

// ---- Common to the kernels of both devices ----

// The attribute T of an op, which the definitions above limit to four types.
DataType dtype_of(OpKernelConstruction* ctx) {
  tensorflow::DataType dtype = tensorflow::DT_INVALID;
  const Status status = ctx->GetAttr("T", &dtype);
  if (!status.ok()) ctx->CtxFailure(status);
  switch (dtype) {
    case tensorflow::DT_DOUBLE: return kFloat64;
    case tensorflow::DT_BFLOAT16: return kBFloat16;
    case tensorflow::DT_HALF: return kFloat16;
    default: return kFloat32;
  }
}

class UpfirdnOp : public OpKernel {
 public:
  explicit UpfirdnOp(OpKernelConstruction* ctx) : OpKernel(ctx), dtype_(dtype_of(ctx)) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("up", &up_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("down", &down_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("flip", &flip_));
    std::string format;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("data_format", &format));
    nhwc_ = format == "NHWC";
    OP_REQUIRES(ctx, valid_factors(up_, down_), invalid_factors());
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    const Tensor& k = ctx->input(1);
    const Tensor& pads = ctx->input(2);
    OP_REQUIRES(ctx, x.dims() == 4,
                InvalidArgument("upfirdn_2d: expected x with four axes, received ", x.shape().DebugString()));
    OP_REQUIRES(ctx, k.dims() == 2 && k.NumElements() > 0,
                InvalidArgument("upfirdn_2d: expected k [kh, kw], received ", k.shape().DebugString()));
    OP_REQUIRES(ctx, pads.NumElements() == 4,
                InvalidArgument("upfirdn_2d: expected four pads, received ", pads.NumElements()));
    const auto pad = pads.flat<int32_t>();
    const int height = nhwc_ ? 1 : 2;  // The axis.
    UpfirdnParams p = {};
    p.dtype = dtype_;
    p.flip = flip_;
    p.up_y = up_[0], p.up_x = up_[1], p.down_y = down_[0], p.down_x = down_[1];
    p.pad_y0 = pad(0), p.pad_x0 = pad(2);
    p.k_h = static_cast<int>(k.dim_size(0)), p.k_w = static_cast<int>(k.dim_size(1));
    p.major = nhwc_ ? x.dim_size(0) : x.dim_size(0) * x.dim_size(1);
    p.minor = nhwc_ ? x.dim_size(3) : 1;
    p.in_h = x.dim_size(height), p.in_w = x.dim_size(height + 1);
    p.out_h = output_size(p.in_h, p.up_y, p.down_y, pad(0), pad(1), p.k_h);
    p.out_w = output_size(p.in_w, p.up_x, p.down_x, pad(2), pad(3), p.k_w);
    OP_REQUIRES(ctx, p.out_h >= 0 && p.out_w >= 0,
                InvalidArgument("upfirdn_2d: the filter ", k.shape().DebugString(),
                                " is larger than the padded image"));
    TensorShape shape = x.shape();
    shape.set_dim(height, p.out_h);
    shape.set_dim(height + 1, p.out_w);
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, shape, &y));
    p.x = x.data(), p.y = y->data(), p.k = k.flat<float>().data();
    launch(ctx, p);
  }

 protected:
  virtual void launch(OpKernelContext* ctx, const UpfirdnParams& p) = 0;

 private:
  const DataType dtype_;
  std::vector<int> up_, down_;
  bool flip_, nhwc_;
};

class BiasActOp : public OpKernel {
 public:
  BiasActOp(OpKernelConstruction* ctx, bool is_grad) : OpKernel(ctx), is_grad_(is_grad) {
    std::string act;
    bool ref_is_y = false;
    p_ = {};
    p_.dtype = dtype_of(ctx);
    OP_REQUIRES_OK(ctx, ctx->GetAttr("act", &act));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("axis", &axis_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("alpha", &p_.alpha));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("gain", &p_.gain));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("clamp", &p_.clamp));
    if (is_grad_) {
      OP_REQUIRES_OK(ctx, ctx->GetAttr("order", &p_.order));
      OP_REQUIRES_OK(ctx, ctx->GetAttr("ref_is_y", &ref_is_y));
      OP_REQUIRES_OK(ctx, ctx->GetAttr("want_db", &want_db_));
      OP_REQUIRES(ctx, p_.order >= 1 && p_.order <= kMaxOrder,
                  InvalidArgument("fused_bias_act: expected an order from 1 to ", kMaxOrder, ", received ", p_.order));
      OP_REQUIRES(ctx, ref_is_y || p_.clamp < 0, InvalidArgument("fused_bias_act: a clamp needs ref_is_y"));
    }
    p_.ref_is_y = ref_is_y;
    while (act != kActivationNames[p_.act]) p_.act = static_cast<Activation>(p_.act + 1);
    const int order = p_.act == kSoftplus ? p_.order - 1 : p_.order;  // The derivative of softplus is sigmoid.
    derivative_coefficients(p_.act == kTanh, order, p_.coef);
    derivative_coefficients(false, p_.order - 1, p_.coef2);
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);  // dy, in the gradient.
    OP_REQUIRES(ctx, axis_ >= 0 && axis_ < x.dims(),
                InvalidArgument("fused_bias_act: expected an axis of ", x.shape().DebugString(), ", received ", axis_));
    BiasActParams p = p_;
    p.outer = p.inner = 1;
    for (int i = 0; i < axis_; i++) p.outer *= x.dim_size(i);
    for (int i = axis_ + 1; i < x.dims(); i++) p.inner *= x.dim_size(i);
    p.channels = x.dim_size(axis_);
    Tensor *y = nullptr, *db = nullptr;
    if (is_grad_) {
      const Tensor& ref = ctx->input(2);
      const bool reads_ref = p.act != kLinear || p.clamp >= 0;
      OP_REQUIRES(ctx, !reads_ref || ref.shape() == x.shape(),
                  InvalidArgument("fused_bias_act: expected ref of the shape of dy, ", x.shape().DebugString(),
                                  ", received ", ref.shape().DebugString()));
      p.x = reads_ref ? ref.data() : nullptr;
      p.dy = x.data();
      p.dy_bias = channel_values(ctx, 1, p.channels);
      p.b = channel_values(ctx, 3, p.channels);
      if (p.act == kLinear && p.order == 1 && p.gain == 1 && p.clamp < 0 && p.dy_bias == nullptr) {
        ctx->set_output(0, x);  // dx is dy itself: there is nothing to write.
      } else {
        OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
      }
      OP_REQUIRES_OK(ctx, ctx->allocate_output(1, TensorShape({want_db_ ? p.channels : 0}), &db));
      p.db = want_db_ ? db->data() : nullptr;
    } else {
      p.x = x.data();
      p.b = channel_values(ctx, 1, p.channels);
      OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    }
    if (!ctx->status().ok()) return;
    p.y = y ? y->data() : nullptr;
    if (p.y || p.db) launch(ctx, p);
  }

 protected:
  virtual void launch(OpKernelContext* ctx, const BiasActParams& p) = 0;

 private:
  // The data of an input with one number per channel, or null if it is empty.
  static const void* channel_values(OpKernelContext* ctx, int index, int64_t channels) {
    const Tensor& b = ctx->input(index);
    if (b.NumElements() == 0) return nullptr;
    if (b.dims() != 1 || b.dim_size(0) != channels)
      ctx->CtxFailure(InvalidArgument("fused_bias_act: expected a bias of ", channels, " channels, received ",
                                      b.shape().DebugString()));
    return b.data();
  }

  // Coefficients of the order-th derivative of f = tanh or sigmoid as a polynomial in f. They follow from f' = 1 - f^2
  // for tanh and f' = f - f^2 for sigmoid.
  static void derivative_coefficients(bool tanh, int order, double* coef) {
    coef[1] = 1;
    for (int n = 0; n < order; n++) {
      double next[kMaxOrder + 2] = {};
      for (int i = 1; i <= n + 1; i++) {
        next[tanh ? i - 1 : i] += i * coef[i];
        next[i + 1] -= i * coef[i];
      }
      std::copy(next, next + kMaxOrder + 2, coef);
    }
  }

  const bool is_grad_;
  BiasActParams p_;
  int axis_;
  bool want_db_ = false;
};

// Common to styled_bias_act and its gradient.
template <class Params>
class StyledBiasActBase : public OpKernel {
 public:
  explicit StyledBiasActBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string format;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("alpha", &p_.alpha));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("gain", &p_.gain));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("clamp", &p_.clamp));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("data_format", &format));
    if (p_.clamp < 0) p_.clamp = std::numeric_limits<float>::infinity();
    p_.nchw = format == "NCHW";
    p_.dtype = dtype_of(ctx);
  }

 protected:
  // The parameters for images of the shape of x. `first` is the index of the input `scale`; noise and b follow it.
  Params params_for(OpKernelContext* ctx, const Tensor& x, int first) const {
    Params p = p_;
    if (x.dims() != 4) {
      ctx->CtxFailure(InvalidArgument("styled_bias_act: expected x with four axes, received ",
                                      x.shape().DebugString()));
      return p;
    }
    const int height = p.nchw ? 2 : 1;  // The axis.
    p.images = x.dim_size(0), p.channels = x.dim_size(p.nchw ? 1 : 3);
    p.pixels = x.dim_size(height) * x.dim_size(height + 1);
    const Tensor& noise = ctx->input(first + 1);
    p.one_noise = noise.dims() > 0 && noise.dim_size(0) == 1;
    p.scale = numbers(ctx, first, p.images * p.channels);
    numbers(ctx, first + 1, (p.one_noise ? 1 : p.images) * p.pixels);
    numbers(ctx, first + 2, p.channels);
    return p;
  }

  // The data of an input with so many numbers, or null if it is empty.
  static const float* numbers(OpKernelContext* ctx, int index, int64_t expected) {
    const Tensor& input = ctx->input(index);
    if (input.NumElements() == 0) return nullptr;
    if (input.NumElements() != expected)
      ctx->CtxFailure(InvalidArgument("styled_bias_act: expected ", expected, " numbers, received ",
                                      input.shape().DebugString()));
    return input.flat<float>().data();
  }

 private:
  Params p_ = {};
};

class StyledBiasActOp : public StyledBiasActBase<StyledBiasActParams> {
 public:
  using StyledBiasActBase::StyledBiasActBase;

  void Compute(OpKernelContext* ctx) override {
    const Tensor &x = ctx->input(0), &noise = ctx->input(2), &b = ctx->input(3);
    StyledBiasActParams p = params_for(ctx, x, 1);
    if (!ctx->status().ok()) return;
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    p.x = x.data(), p.y = y->data();
    p.noise = noise.NumElements() ? noise.flat<float>().data() : nullptr;
    p.b = b.NumElements() ? b.flat<float>().data() : nullptr;
    launch(ctx, p);
  }

 protected:
  virtual void launch(OpKernelContext* ctx, const StyledBiasActParams& p) = 0;
};

class StyledBiasActGradOp : public StyledBiasActBase<StyledBiasActGradParams> {
 public:
  using StyledBiasActBase::StyledBiasActBase;

  void Compute(OpKernelContext* ctx) override {
    const Tensor &dy = ctx->input(0), &y = ctx->input(1), &x = ctx->input(2);
    StyledBiasActGradParams p = params_for(ctx, dy, 3);
    if (!ctx->status().ok()) return;
    OP_REQUIRES(ctx, y.shape() == dy.shape() && (!p.scale || x.shape() == dy.shape()),
                InvalidArgument("styled_bias_act: expected x, y and dy of the same shape, received ",
                                x.shape().DebugString(), ", ", y.shape().DebugString(), " and ",
                                dy.shape().DebugString()));
    Tensor* dx = nullptr;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0}, 0, dy.shape(), &dx));
    float** const sums[] = {&p.dscale, &p.dnoise, &p.db};
    for (int i = 0; i < 3; i++) {
      Tensor* sum = nullptr;
      OP_REQUIRES_OK(ctx, ctx->allocate_output(1 + i, ctx->input(3 + i).shape(), &sum));
      *sums[i] = sum->NumElements() ? sum->flat<float>().data() : nullptr;
    }
    p.dy = dy.data(), p.y = y.data(), p.x = p.scale ? x.data() : nullptr, p.dx = dx->data();
    launch(ctx, p);
  }

 protected:
  virtual void launch(OpKernelContext* ctx, const StyledBiasActGradParams& p) = 0;
};

// ---- CPU ----

ParallelFor thread_pool(OpKernelContext* ctx) {
  return [ctx](int64_t total, int64_t cost, const std::function<void(int64_t, int64_t)>& body) {
    ctx->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(total, cost, body);
  };
}

class UpfirdnCpuOp : public UpfirdnOp {
 public:
  using UpfirdnOp::UpfirdnOp;
  void launch(OpKernelContext* ctx, const UpfirdnParams& p) override { upfirdn_cpu(p, thread_pool(ctx)); }
};

template <bool kGrad>
class BiasActCpuOp : public BiasActOp {
 public:
  explicit BiasActCpuOp(OpKernelConstruction* ctx) : BiasActOp(ctx, kGrad) {}
  void launch(OpKernelContext* ctx, const BiasActParams& p) override { bias_act_cpu(p, thread_pool(ctx)); }
};

class StyledBiasActCpuOp : public StyledBiasActOp {
 public:
  using StyledBiasActOp::StyledBiasActOp;
  void launch(OpKernelContext* ctx, const StyledBiasActParams& p) override { styled_bias_act_cpu(p, thread_pool(ctx)); }
};

class StyledBiasActGradCpuOp : public StyledBiasActGradOp {
 public:
  using StyledBiasActGradOp::StyledBiasActGradOp;
  void launch(OpKernelContext* ctx, const StyledBiasActGradParams& p) override {
    styled_bias_act_grad_cpu(p, thread_pool(ctx));
  }
};

// Each kernel handles all element types that its definition allows.
#define REGISTER_CPU(name, kernel) REGISTER_KERNEL_BUILDER(Name(name).Device(tensorflow::DEVICE_CPU), kernel)
REGISTER_CPU("Stylegan2Upfirdn2d", UpfirdnCpuOp);
REGISTER_CPU("Stylegan2BiasAct", BiasActCpuOp<false>);
REGISTER_CPU("Stylegan2BiasActGrad", BiasActCpuOp<true>);
REGISTER_CPU("Stylegan2StyledBiasAct", StyledBiasActCpuOp);
REGISTER_CPU("Stylegan2StyledBiasActGrad", StyledBiasActGradCpuOp);

// ---- CUDA ----

#ifdef STYLEGAN2_CUDA

void check_cuda(OpKernelContext* ctx, int error) {
  OP_REQUIRES(ctx, error == 0, tensorflow::errors::Internal("CUDA: ", stylegan2_cuda_error(error)));
}

class UpfirdnCudaOp : public UpfirdnOp {
 public:
  using UpfirdnOp::UpfirdnOp;
  void launch(OpKernelContext* ctx, const UpfirdnParams& p) override {
    check_cuda(ctx, stylegan2_upfirdn_cuda(&p, ctx->eigen_gpu_device().stream()));
  }
};

// Calls `launcher` with a workspace of so many bytes.
template <class Params>
void launch_with_workspace(OpKernelContext* ctx, int64_t bytes, int (*launcher)(const Params*, void*, void*),
                           const Params& p) {
  Tensor workspace;
  OP_REQUIRES_OK(ctx, ctx->allocate_temp(tensorflow::DT_INT8, TensorShape({bytes}), &workspace));
  check_cuda(ctx, launcher(&p, workspace.data(), ctx->eigen_gpu_device().stream()));
}

template <bool kGrad>
class BiasActCudaOp : public BiasActOp {
 public:
  explicit BiasActCudaOp(OpKernelConstruction* ctx) : BiasActOp(ctx, kGrad) {}
  void launch(OpKernelContext* ctx, const BiasActParams& p) override {
    launch_with_workspace(ctx, stylegan2_bias_act_workspace(&p), stylegan2_bias_act_cuda, p);
  }
};

class StyledBiasActCudaOp : public StyledBiasActOp {
 public:
  using StyledBiasActOp::StyledBiasActOp;
  void launch(OpKernelContext* ctx, const StyledBiasActParams& p) override {
    check_cuda(ctx, stylegan2_styled_bias_act_cuda(&p, ctx->eigen_gpu_device().stream()));
  }
};

class StyledBiasActGradCudaOp : public StyledBiasActGradOp {
 public:
  using StyledBiasActGradOp::StyledBiasActGradOp;
  void launch(OpKernelContext* ctx, const StyledBiasActGradParams& p) override {
    launch_with_workspace(ctx, stylegan2_styled_bias_act_grad_workspace(&p), stylegan2_styled_bias_act_grad_cuda, p);
  }
};

REGISTER_KERNEL_BUILDER(Name("Stylegan2Upfirdn2d").Device(tensorflow::DEVICE_GPU).HostMemory("pads"), UpfirdnCudaOp);
REGISTER_KERNEL_BUILDER(Name("Stylegan2BiasAct").Device(tensorflow::DEVICE_GPU), BiasActCudaOp<false>);
REGISTER_KERNEL_BUILDER(Name("Stylegan2BiasActGrad").Device(tensorflow::DEVICE_GPU), BiasActCudaOp<true>);
REGISTER_KERNEL_BUILDER(Name("Stylegan2StyledBiasAct").Device(tensorflow::DEVICE_GPU), StyledBiasActCudaOp);
REGISTER_KERNEL_BUILDER(Name("Stylegan2StyledBiasActGrad").Device(tensorflow::DEVICE_GPU), StyledBiasActGradCudaOp);

#endif  // STYLEGAN2_CUDA

}  // namespace
}  // namespace stylegan2
