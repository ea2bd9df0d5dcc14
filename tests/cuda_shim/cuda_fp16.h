// Stands in for CUDA's header of this name: float16 as bits, with conversions by arithmetic.
#pragma once

#include <math.h>

#include <cstdint>

struct __half { uint16_t bits; };

inline float __half2float(__half x) {
  const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  float y;
  if (exponent == 31) y = mantissa ? NAN : INFINITY;
  else if (exponent > 0) y = ldexpf(1024 + mantissa, exponent - 25);
  else y = ldexpf(mantissa, -24);
  return x.bits >> 15 ? -y : y;
}

inline __half __float2half(float x) {
  const uint16_t sign = signbit(x) ? 0x8000 : 0;
  if (x != x) return {0x7fff};
  x = fabsf(x);
  if (x == 0) return {sign};
  if (x >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent;
  frexpf(x, &exponent);                          // x in [0.5, 1) * 2^exponent.
  const int lsb = exponent > -13 ? exponent - 11 : -24;  // Exponent of the last bit; normal numbers start at 2^-14.
  // Rounds half to even. At most 2048, which carries into the exponent.
  const int units = static_cast<int>(rintf(ldexpf(x, -lsb)));
  return {static_cast<uint16_t>(sign | (units + (lsb + 24) * 1024))};
}
