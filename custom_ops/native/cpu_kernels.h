// What ops.cc calls of the CPU kernels in cpu_*.cc. See params.h for what they compute.
#pragma once

#include <functional>

#include "params.h"

namespace stylegan2 {

// Runs body(first, last) over parts of [0, total), several at once; `cost` is about the nanoseconds of one unit.
using ParallelFor = std::function<void(int64_t total, int64_t cost, const std::function<void(int64_t, int64_t)>& body)>;

void upfirdn_cpu(const UpfirdnParams& p, const ParallelFor& parallel);
void bias_act_cpu(const BiasActParams& p, const ParallelFor& parallel);
void styled_bias_act_cpu(const StyledBiasActParams& p, const ParallelFor& parallel);
void stream_copy_cpu(const void* x, void* y, int64_t bytes, const ParallelFor& parallel);

}  // namespace stylegan2
