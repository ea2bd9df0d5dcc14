// The CPU kernels in cpu_*.cc, as ops.cc calls them. params.h says what they compute.
#pragma once

#include <functional>

#include "params.h"

namespace stylegan2 {

// Calls body(first, last) for parts of [0, total), several at once. `cost` is roughly the nanoseconds of one unit.
using ParallelFor =
    std::function<void(int64_t total, int64_t cost, const std::function<void(int64_t first, int64_t last)>& body)>;

void upfirdn_cpu(const UpfirdnParams& p, const ParallelFor& parallel);
void bias_act_cpu(const BiasActParams& p, const ParallelFor& parallel);
void styled_bias_act_cpu(const StyledBiasActParams& p, const ParallelFor& parallel);
void styled_bias_act_grad_cpu(const StyledBiasActGradParams& p, const ParallelFor& parallel);

}  // namespace stylegan2
