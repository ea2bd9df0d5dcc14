// What the CPU kernels share: element types, conversions, vectors of elements, and non-temporal stores.
// Neither TensorFlow's headers nor Eigen's are included here, because they take longer to compile than the kernels.
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

// Results of at least this size are written with non-temporal stores, which bypass the caches. Normal stores would
// evict other data, and would first read each cache line that they overwrite.
constexpr int64_t kNontemporalBytes = 2 << 20;

// How far ahead sequential reads are prefetched. The hardware prefetcher stops at the end of each 4 KB page and, for
// bfloat16, starts too late.
constexpr int64_t kPrefetchBytes = 4096;

// Most elements of a row of results that are computed at once: they stay in the L1 cache together with their inputs.
constexpr int64_t kBlockElements = 2048;

// The 16-bit element types, as bits.
struct BFloat16 { uint16_t bits; };
struct Half { uint16_t bits; };

// The type in which sums of elements are computed.
template <typename T> struct AccumulatorOf { using type = float; };
template <> struct AccumulatorOf<double> { using type = double; };
template <typename T> using Accumulator = typename AccumulatorOf<T>::type;

#define RESTRICT __restrict__
#define INLINE inline __attribute__((always_inline))

// Vectors of kLanes elements. Where the CPU's vectors are smaller, the compiler splits them.
constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Bits32 __attribute__((vector_size(64)));      // kLanes words of 32 bits.
typedef uint16_t Bits16 __attribute__((vector_size(32)));      // kLanes words of 16 bits.
typedef uint16_t Bits16Pair __attribute__((vector_size(64)));  // 2 * kLanes words of 16 bits.

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

// A vector whose memory is aligned to a cache line, for two reasons. An access that crosses a line takes twice as long.
// And Eigen processes the elements before the first aligned one with scalar functions, which round differently from its
// vector functions: with aligned memory, results depend on the shape alone, not on the address.
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

// float32 -> bfloat16, rounded half to even. W is uint32_t or Bits32.
template <typename W>
INLINE W bfloat16_bits(W bits) {
  const W rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded;  // NaN stays NaN.
}

INLINE void from_float(float x, float* y) { *y = x; }
INLINE void from_float(double x, double* y) { *y = x; }
INLINE void from_float(float x, BFloat16* y) { y->bits = static_cast<uint16_t>(bfloat16_bits(as_bits(x))); }
INLINE void from_float(float x, Half* y) {  // Rounds half to even.
#if defined(__F16C__)
  y->bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
  const uint32_t sign = as_bits(x) >> 16 & 0x8000, magnitude = as_bits(x) & 0x7fffffff;
  uint32_t bits;
  if (magnitude > 0x7f800000) {
    bits = 0x7e00 | (magnitude >> 13 & 0x3ff);  // NaN stays NaN.
  } else if (magnitude >= 0x47800000) {
    bits = 0x7c00;  // 65536 and more becomes infinity.
  } else if (magnitude < 0x38800000) {
    bits = as_bits(as_float(magnitude) + 0.5f) & 0x7fffff;  // Denormal: the mantissa of the sum counts units of 2^-24.
  } else {
    bits = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  }
  y->bits = static_cast<uint16_t>(sign | bits);
#endif
}

#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
// The bfloat16 instructions flush denormals to zero, so vectors that contain one take the slow way.
constexpr int kDenormalClass = 0x20;
INLINE __mmask16 denormals(Floats x) { return _mm512_fpclass_ps_mask((__m512)x, kDenormalClass); }
#endif

INLINE Bits16 to_bfloat16(Floats x) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  if (__builtin_expect(!denormals(x), 1)) return (Bits16)_mm512_cvtneps_pbh((__m512)x);
#endif
  return __builtin_convertvector(bfloat16_bits((Bits32)x), Bits16);
}

// The elements of a, followed by those of b.
INLINE Bits16Pair to_bfloat16(Floats a, Floats b) {
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  if (__builtin_expect(_kortestz_mask16_u8(denormals(a), denormals(b)), 1))
    return (Bits16Pair)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
#endif
  return __builtin_shufflevector(to_bfloat16(a), to_bfloat16(b), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                                 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
}

INLINE Floats load_bfloat16(const BFloat16* p) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#else
  return (Floats)(__builtin_convertvector(load_as<Bits16>(p), Bits32) << 16);
#endif
}

// Elements -> accumulators.
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

// Accumulators -> elements, with normal stores.
template <typename T>
INLINE void convert_row(const Accumulator<T>* RESTRICT src, T* RESTRICT dst, int64_t n) {
  int64_t i = 0;
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (; i + kLanes <= n; i += kLanes) {
      const Bits16 bits = to_bfloat16(load_as<Floats>(src + i));
      std::memcpy(dst + i, &bits, sizeof(bits));
    }
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 16 <= n; i += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + i),
                          _mm512_cvtps_ph(_mm512_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  if constexpr (std::is_same_v<T, Half>)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; i++) from_float(src[i], dst + i);
}

// ---- Vectors of elements from and to memory ----
// Stores with `nontemporal` need an aligned address, see can_store_nontemporal, and a nontemporal_fence after the last
// one.

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
INLINE void store_as(void* p, V v, bool nontemporal) {
#if defined(__AVX512F__)
  if (nontemporal && sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), load_as<__m512i>(&v));
#endif
#if defined(__AVX__)
  if (nontemporal) {
    for (size_t i = 0; i < sizeof(V); i += 32)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(static_cast<char*>(p) + i),
                          load_as<__m256i>(reinterpret_cast<char*>(&v) + i));
    return;
  }
#endif
  std::memcpy(p, &v, sizeof(V));
}

template <typename T>
INLINE void store(T* p, Floats v, bool nontemporal) {
  if constexpr (std::is_same_v<T, float>) {
    store_as(p, v, nontemporal);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    store_as(p, to_bfloat16(v), nontemporal);
  } else {
    Bits16 bits;
    convert_row<T>(reinterpret_cast<float*>(&v), reinterpret_cast<T*>(&bits), kLanes);
    store_as(p, bits, nontemporal);
  }
}

// An element, or a vector of them: V is a number or Floats.
template <typename V, typename S>
INLINE V get(const S* source) {
  if constexpr (std::is_same_v<V, Floats>) return load(source);
  else return to_float(*source);
}

INLINE void store(float* p, float x, bool) { *p = x; }  // One element.

// 2 * kLanes elements. For bfloat16, `a` holds the even and `b` the odd elements, which is cheaper to load than halves.
struct FloatsPair {
  Floats a, b;

  INLINE FloatsPair operator*(float x) const { return {a * x, b * x}; }
  INLINE FloatsPair& operator+=(const FloatsPair& x) { return a += x.a, b += x.b, *this; }
};

// As many elements as V holds: V is Floats or FloatsPair.
template <typename V, typename T>
INLINE V load(const T* p) {
  if constexpr (std::is_same_v<V, Floats>) {
    return load(p);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    const Bits32 bits = load_as<Bits32>(p);
    return {(Floats)(bits << 16), (Floats)(bits & 0xffff0000)};
  } else {
    return {load(p), load(p + kLanes)};
  }
}

template <typename T>
INLINE void store(T* p, const FloatsPair& v, bool nontemporal) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const Bits16Pair bits = to_bfloat16(v.a, v.b);
    store_as(p, __builtin_shufflevector(bits, bits, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24,
                                        9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), nontemporal);
  } else {
    store(p, v.a, nontemporal);
    store(p + kLanes, v.b, nontemporal);
  }
}

// Whether whole vectors in rows of `row` elements, of which the first begins at p, are aligned for non-temporal stores.
template <typename T>
INLINE bool can_store_nontemporal(const T* p, int64_t row) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Bits32) == 0 && row * sizeof(T) % sizeof(Bits32) == 0;
}

// ---- Arithmetic on a number or a vector ----

// `above` where x is positive, else `below`.
template <typename V, typename A>
INLINE V select_by_sign(V x, A above, A below) {
  const V a = V{} + above, b = V{} + below;
  return x > 0 ? a : b;
}

// x, clipped to [-clamp, clamp]. NaN stays NaN.
template <typename V, typename A>
INLINE V clip(V x, A clamp) {
  const V low = V{} - clamp, high = V{} + clamp;
  return x < low ? low : x > high ? high : x;
}

// ---- Rows with non-temporal stores ----

// memcpy with non-temporal stores, to any address.
inline void copy_nontemporal(const void* src, void* dst, int64_t bytes) {
  const char* s = static_cast<const char*>(src);
  char* d = static_cast<char*>(dst);
#if defined(__AVX512F__) || defined(__AVX__)
#if defined(__AVX512F__)
  using Vector = __m512i;
#else
  using Vector = __m256i;
#endif
  const int64_t head = std::min<int64_t>(bytes, -reinterpret_cast<uintptr_t>(d) & (sizeof(Vector) - 1));
  std::memcpy(d, s, head);
  int64_t i = head;
  for (; i + static_cast<int64_t>(sizeof(Vector)) <= bytes; i += sizeof(Vector))
    store_as(d + i, load_as<Vector>(s + i), true);
  std::memcpy(d + i, s + i, bytes - i);
#else
  std::memcpy(d, s, bytes);
#endif
}

// Makes the non-temporal stores of this thread visible to other threads before its later stores.
inline void nontemporal_fence() {
#if defined(__AVX512F__) || defined(__AVX__)
  _mm_sfence();
#endif
}

// Accumulators -> elements. `staging` holds kBlockElements elements, for conversions before non-temporal stores.
template <typename T>
INLINE void store_row(const Accumulator<T>* src, T* dst, int64_t n, bool nontemporal, T* staging) {
  if (!nontemporal) {
    convert_row<T>(src, dst, n);
  } else if constexpr (std::is_same_v<T, Accumulator<T>>) {
    copy_nontemporal(src, dst, n * sizeof(T));
  } else {
    for (int64_t i = 0; i < n; i += kBlockElements) {
      const int64_t m = std::min(kBlockElements, n - i);
      convert_row<T>(src + i, staging, m);
      copy_nontemporal(staging, dst + i, m * sizeof(T));
    }
  }
}

}  // namespace stylegan2
