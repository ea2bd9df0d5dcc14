// What the CPU kernels share: element types, sums of weighted rows, and stores that do not displace the caches.
// Neither TensorFlow's headers nor Eigen's are included here: they would take longer to compile than the kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#endif

namespace stylegan2 {

// Results beyond this size are written around the caches: they would displace much else, and where they land is seldom cached, so that
// each line would be read before it is written.
constexpr int64_t kStreamBytes = 2 << 20;

// Memory that is read in its order is asked for so many bytes ahead. What the CPU fetches by itself ends with each page of 4 KB and, in
// bfloat16, comes later than it is wanted.
constexpr int64_t kAhead = 4096;

// The 16-bit element types, as bits.
struct BFloat16 { uint16_t bits; };
struct Half { uint16_t bits; };

// The type sums are kept in.
template <typename T> struct AccumulatorOf { using type = float; };
template <> struct AccumulatorOf<double> { using type = double; };
template <typename T> using Accumulator = typename AccumulatorOf<T>::type;

#define RESTRICT __restrict__
#define INLINE inline __attribute__((always_inline))

// Sixteen elements; compilers split the vectors where the CPU's are smaller.
typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint16_t ManyHalves __attribute__((vector_size(64)));
constexpr int kLanes = 16;

template <typename T>
struct AlignedAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  AlignedAllocator() = default;
  template <typename U> AlignedAllocator(const AlignedAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const AlignedAllocator&) const { return true; }
  bool operator!=(const AlignedAllocator&) const { return false; }
};

// Begins where the CPU's vectors do. One that lies across two lines of a cache takes two reads, or two writes. And Eigen computes what lies
// before the first aligned element one by one, by scalar functions that round differently from those on vectors: so results depend on the
// shape alone, not on where the memory happens to lie.
template <typename T> using Buffer = std::vector<T, AlignedAllocator<T>>;

template <typename V>
INLINE V load_as(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

// ---- Conversions ----

INLINE uint32_t as_bits(float x) { return load_as<uint32_t>(&x); }
INLINE float as_float(uint32_t bits) { return load_as<float>(&bits); }

INLINE float to_float(float x) { return x; }
INLINE double to_float(double x) { return x; }
INLINE float to_float(BFloat16 x) { return as_float(static_cast<uint32_t>(x.bits) << 16); }
INLINE float to_float(Half x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 0x3ff;
  if (exponent == 0) return as_float(as_bits(static_cast<float>(fraction) * 0x1p-24f) | sign);
  return as_float(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
#endif
}

// float32 -> bfloat16, half to even, of one number's bits or of sixteen.
template <typename W>
INLINE W bfloat16_bits(W bits) {
  const W rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded;  // NaN stays NaN.
}

INLINE void from_float(float x, float* y) { *y = x; }
INLINE void from_float(double x, double* y) { *y = x; }
INLINE void from_float(float x, BFloat16* y) { y->bits = static_cast<uint16_t>(bfloat16_bits(as_bits(x))); }
INLINE void from_float(float x, Half* y) {  // Half to even too.
#if defined(__F16C__)
  y->bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
  const uint32_t sign = as_bits(x) >> 16 & 0x8000, size = as_bits(x) & 0x7fffffff;
  uint32_t bits;
  if (size > 0x7f800000) bits = 0x7e00 | (size >> 13 & 0x3ff);             // NaN stays NaN.
  else if (size >= 0x47800000) bits = 0x7c00;                              // 65536 and more: infinity.
  else if (size < 0x38800000) bits = as_bits(as_float(size) + 0.5f) & 0x7fffff;  // Denormal: the sum counts in units of 2^-24.
  else bits = (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
  y->bits = static_cast<uint16_t>(sign | bits);
#endif
}

INLINE Halves to_bfloat16(Floats x) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  constexpr int kDenormal = 0x20;  // The instruction makes them zero.
  if (__builtin_expect(!_mm512_fpclass_ps_mask((__m512)x, kDenormal), 1)) return (Halves)_mm512_cvtneps_pbh((__m512)x);
#endif
  return __builtin_convertvector(bfloat16_bits((Words)x), Halves);
}

// Those of a, then those of b.
INLINE ManyHalves to_bfloat16(Floats a, Floats b) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  constexpr int kDenormal = 0x20;
  if (__builtin_expect(_kortestz_mask16_u8(_mm512_fpclass_ps_mask((__m512)a, kDenormal), _mm512_fpclass_ps_mask((__m512)b, kDenormal)), 1))
    return (ManyHalves)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
#endif
  return __builtin_shufflevector(to_bfloat16(a), to_bfloat16(b), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
}

INLINE Floats load_bfloat16(const BFloat16* p) {
#if defined(__AVX512F__)
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16);
#else
  return (Floats)(__builtin_convertvector(load_as<Halves>(p), Words) << 16);
#endif
}

// Rows of elements -> floats. Types that need no conversion are read in place.
template <typename T>
INLINE void load_row(const T* RESTRICT src, Accumulator<T>* RESTRICT dst, int64_t n) {
  if constexpr (std::is_same_v<T, Accumulator<T>>) {
    std::copy_n(src, n, dst);
    return;
  }
  int64_t i = 0;
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (; i + kLanes <= n; i += kLanes) {
      const Floats v = load_bfloat16(src + i);
      std::memcpy(dst + i, &v, sizeof(v));
    }
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 16 <= n; i += 16)
      _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + i))));
#elif defined(__F16C__)
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i))));
#endif
  for (; i < n; i++) dst[i] = to_float(src[i]);
}

// Floats -> elements, in the caches.
template <typename T>
INLINE void convert_row(const Accumulator<T>* RESTRICT src, T* RESTRICT dst, int64_t n) {
  int64_t i = 0;
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (; i + kLanes <= n; i += kLanes) {
      const Halves h = to_bfloat16(load_as<Floats>(src + i));
      std::memcpy(dst + i, &h, sizeof(h));
    }
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 16 <= n; i += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + i), _mm512_cvtps_ph(_mm512_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; i++) from_float(src[i], dst + i);
}

// ---- Sixteen elements from and to memory ----

template <typename T>
INLINE Floats load(const T* p) {
  if constexpr (std::is_same_v<T, float>) {
    return load_as<Floats>(p);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return load_bfloat16(p);
  } else {
    Floats v;
    load_row<T>(p, reinterpret_cast<float*>(&v), kLanes);
    return v;
  }
}

template <typename V>
INLINE void store_as(void* p, V v, bool stream) {
#if defined(__AVX512F__)
  if (stream && sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), load_as<__m512i>(&v));
#endif
#if defined(__AVX__)
  if (stream) {
    for (size_t i = 0; i < sizeof(V); i += 32)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(static_cast<char*>(p) + i), load_as<__m256i>(reinterpret_cast<char*>(&v) + i));
    return;
  }
#endif
  std::memcpy(p, &v, sizeof(V));
}

// `stream` only as `can_stream` says.
template <typename T>
INLINE void store(T* p, Floats v, bool stream) {
  if constexpr (std::is_same_v<T, float>) {
    store_as(p, v, stream);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    store_as(p, to_bfloat16(v), stream);
  } else {
    Halves h;
    convert_row<T>(reinterpret_cast<float*>(&v), reinterpret_cast<T*>(&h), kLanes);
    store_as(p, h, stream);
  }
}

INLINE void store(float* p, float x, bool) { *p = x; }  // One element.

// Thirty-two elements. Those of bfloat16 are apart by even and odd places, which takes less work than by halves.
struct Pair {
  Floats a, b;

  INLINE Pair operator*(float x) const { return {a * x, b * x}; }
  INLINE Pair& operator+=(const Pair& x) { return a += x.a, b += x.b, *this; }
};

// As many elements as V holds, Floats or Pair.
template <typename V, typename T>
INLINE V load(const T* p) {
  if constexpr (std::is_same_v<V, Floats>) {
    return load(p);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    const Words words = load_as<Words>(p);
    return {(Floats)(words << 16), (Floats)(words & 0xffff0000)};
  } else {
    return {load(p), load(p + kLanes)};
  }
}

template <typename T>
INLINE void store(T* p, const Pair& v, bool stream) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const ManyHalves h = to_bfloat16(v.a, v.b);
    store_as(p, __builtin_shufflevector(h, h, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24,
                                        9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), stream);
  } else {
    store(p, v.a, stream);
    store(p + kLanes, v.b, stream);
  }
}

// May whole vectors go to rows of so many elements from p on around the caches?
template <typename T>
INLINE bool can_stream(const T* p, int64_t row) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Words) == 0 && row * sizeof(T) % sizeof(Words) == 0;
}

// Of a number, or of sixteen: `above` where it is positive, else `below`.
template <typename V, typename A>
INLINE V slope(V x, A above, A below) {
  const V a = V{} + above, b = V{} + below;
  return x > 0 ? a : b;
}

// A number, or sixteen, within -clamp and clamp. NaN stays NaN.
template <typename V, typename A>
INLINE V clamped(V x, A clamp) {
  const V low = V{} - clamp, high = V{} + clamp;
  return x < low ? low : x > high ? high : x;
}

// ---- Rows, around the caches ----

// A copy that does not read its target into the caches first. Follow the last one by `stream_fence`.
inline void stream_bytes(const void* src, void* dst, int64_t bytes) {
  const char* s = static_cast<const char*>(src);
  char* d = static_cast<char*>(dst);
#if defined(__AVX512F__)
  using Vector = __m512i;
#elif defined(__AVX__)
  using Vector = __m256i;
#endif
#if defined(__AVX512F__) || defined(__AVX__)
  const int64_t head = std::min<int64_t>(bytes, -reinterpret_cast<uintptr_t>(d) & (sizeof(Vector) - 1));
  std::memcpy(d, s, head);
  int64_t i = head;
  for (; i + static_cast<int64_t>(sizeof(Vector)) <= bytes; i += sizeof(Vector)) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<Vector*>(d + i), _mm512_loadu_si512(s + i));
#else
    _mm256_stream_si256(reinterpret_cast<Vector*>(d + i), _mm256_loadu_si256(reinterpret_cast<const Vector*>(s + i)));
#endif
  }
  std::memcpy(d + i, s + i, bytes - i);
#else
  std::memcpy(d, s, bytes);
#endif
}

inline void stream_fence() {
#if defined(__AVX512F__) || defined(__AVX__)
  _mm_sfence();
#endif
}

// Elements of one row of results at most: stays in the first-level cache with what it is made from.
constexpr int64_t kBlock = 2048;

// Floats -> results; `staging` holds kBlock elements.
template <typename T>
INLINE void store_row(const Accumulator<T>* src, T* dst, int64_t n, bool stream, T* staging) {
  if (!stream) {
    convert_row<T>(src, dst, n);
  } else if constexpr (std::is_same_v<T, Accumulator<T>>) {
    stream_bytes(src, dst, n * sizeof(T));
  } else {
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t m = std::min(kBlock, n - i);
      convert_row<T>(src + i, staging, m);
      stream_bytes(staging, dst + i, m * sizeof(T));
    }
  }
}

}  // namespace stylegan2
