// Smooth activations by Eigen's vectorised functions. This is the only kernel file that includes Eigen, because Eigen
// takes long to compile.

#include "cpu_curves.h"

#include <cmath>

#include "Eigen/Core"
#include "cpu_common.h"

namespace stylegan2 {
namespace {

constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;

template <typename A> using Array = Eigen::Map<Eigen::Array<A, Eigen::Dynamic, 1>>;

// coef[0] + coef[1] * x + coef[2] * x^2 + ...
template <typename A>
A polynomial(const double* coef, A x) {
  A y = A(coef[kMaxOrder + 1]);
  for (int i = kMaxOrder; i >= 0; i--) y = y * x + A(coef[i]);
  return y;
}

template <typename A>
INLINE void apply_polynomial(const double* coef, A* data, int64_t n) {
  for (int64_t i = 0; i < n; i++) data[i] = polynomial(coef, data[i]);
}

template <typename A>
INLINE void activation_of_array(const BiasActParams& p, A* data, int64_t n) {
  Array<A> z(data, n);
  switch (p.act) {
    case kTanh: z = z.tanh(); break;
    case kSigmoid: z = z.logistic(); break;
    case kElu: z = (z < A(0)).select(z.min(A(0)).expm1(), z); break;
    case kSelu: z = A(kSeluScale) * (z < A(0)).select(A(kSeluAlpha) * z.min(A(0)).expm1(), z); break;
    case kSoftplus: z = z.max(A(0)) + (-z.abs()).exp().log1p(); break;
    case kSwish: z *= z.logistic(); break;
    default: break;
  }
}

template <typename A>
INLINE void derivative_of_array(const BiasActParams& p, A* data, int64_t n) {
  Array<A> z(data, n);
  const A above = p.order == 1 ? A(1) : A(0);  // Of elu and selu above zero, where they equal z.
  switch (p.act) {
    case kLinear: case kRelu: case kLeakyRelu: z.setZero(); break;
    case kTanh: z = z.tanh(); apply_polynomial(p.coef, data, n); break;
    case kSigmoid: case kSoftplus: z = z.logistic(); apply_polynomial(p.coef, data, n); break;
    case kElu: z = (z < A(0)).select(z.min(A(0)).exp(), above); break;
    case kSelu: z = A(kSeluScale) * (z < A(0)).select(A(kSeluAlpha) * z.min(A(0)).exp(), above); break;
    case kSwish:
      for (int64_t i = 0; i < n; i++) {
        const A s = A(1) / (A(1) + std::exp(-data[i]));
        data[i] = data[i] * polynomial(p.coef, s) + A(p.order) * polynomial(p.coef2, s);
      }
      break;
  }
}

}  // namespace

void apply_activation(const BiasActParams& p, float* data, int64_t n) { activation_of_array(p, data, n); }
void apply_activation(const BiasActParams& p, double* data, int64_t n) { activation_of_array(p, data, n); }
void apply_derivative(const BiasActParams& p, float* data, int64_t n) { derivative_of_array(p, data, n); }
void apply_derivative(const BiasActParams& p, double* data, int64_t n) { derivative_of_array(p, data, n); }

}  // namespace stylegan2
