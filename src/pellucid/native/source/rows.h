// What is done to a row by itself: norms, activations, rounding to 8 bits.
//
// Rows are padded to a multiple of 64 with zeros, which stay zeros.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "vectors.h"

namespace pellucid {

struct Norm {
    const float* gain = nullptr;
    const float* shift = nullptr;  // null in RMSNorm
    float epsilon = 0.0f;
};

// LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over `size` numbers.
inline void normalize(const Norm& norm, const float* from, float* to, size_t size) {
    const size_t whole = size / 16 * 16;
    const __mmask16 rest = first_lanes(size - whole);
    Floats16 mean = _mm512_setzero_ps();
    if (norm.shift) {
        Floats16 sums = _mm512_setzero_ps();
        for (size_t i = 0; i < size; i += 16) sums = _mm512_add_ps(sums, load16(from + i));
        mean = _mm512_set1_ps(_mm512_reduce_add_ps(sums) / static_cast<float>(size));
    }
    Floats16 squares = _mm512_setzero_ps();
    for (size_t i = 0; i < whole; i += 16) {
        const Floats16 off = _mm512_sub_ps(load16(from + i), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    if (rest) {
        const Floats16 off = _mm512_maskz_sub_ps(rest, load16(from + whole), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / static_cast<float>(size);
    const Floats16 inverse = _mm512_set1_ps(1.0f / std::sqrt(variance + norm.epsilon));
    for (size_t i = 0; i < size; i += 16) {  // gain and shift are 0 behind the end
        const Floats16 scaled = _mm512_mul_ps(_mm512_mul_ps(_mm512_sub_ps(load16(from + i), mean), inverse), load16(norm.gain + i));
        store16(to + i, norm.shift ? _mm512_add_ps(scaled, load16(norm.shift + i)) : scaled);
    }
}

// value ≈ least + scale · byte, with the bytes over the whole range of the row's values.
inline void round_to_bytes(const float* from, size_t size, uint8_t* bytes, float& scale, float& least) {
    Floats16 low = load16(from), high = low;
    __mmask16 nan = 0;  // minimum and maximum forget NaN, and a byte cannot hold it
    for (size_t i = 0; i < size; i += 16) {
        const Floats16 values = load16(from + i);
        nan |= _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
        low = _mm512_min_ps(low, values);
        high = _mm512_max_ps(high, values);
    }
    least = nan ? std::numeric_limits<float>::quiet_NaN() : _mm512_reduce_min_ps(low);
    const float range = _mm512_reduce_max_ps(high) - least;
    scale = range / 255.0f;
    const Floats16 inverse = _mm512_set1_ps(range > 0.0f ? 255.0f / range : 0.0f), from_least = _mm512_set1_ps(least);
    for (size_t i = 0; i < size; i += 16) {
        const Floats16 scaled = _mm512_mul_ps(_mm512_sub_ps(load16(from + i), from_least), inverse);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + i), _mm512_cvtusepi32_epi8(_mm512_cvtps_epu32(scaled)));
    }
}

enum class Activation : int64_t { relu, gelu, gelu_tanh, silu };

inline Floats16 logistic(Floats16 x) {
    const Floats16 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// erf to 1.5e-7 (Abramowitz & Stegun 7.1.26).
inline Floats16 error_function(Floats16 x) {
    const Floats16 one = _mm512_set1_ps(1.0f), size = _mm512_abs_ps(x);
    const Floats16 t = _mm512_div_ps(one, _mm512_fmadd_ps(size, _mm512_set1_ps(0.3275911f), one));
    Floats16 sum = _mm512_set1_ps(1.061405429f);
    for (const float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
        sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(factor));
    const Floats16 tail = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(x, x)));
    const Floats16 positive = _mm512_fnmadd_ps(_mm512_mul_ps(sum, t), tail, one);
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_sub_ps(positive, negative, _mm512_setzero_ps(), positive);
}

template <Activation A>
Floats16 activate(Floats16 x) {
    if constexpr (A == Activation::relu) return _mm512_max_ps(_mm512_setzero_ps(), x);  // in this order NaN stays
    if constexpr (A == Activation::silu) return _mm512_mul_ps(x, logistic(x));
    const Floats16 half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
    if constexpr (A == Activation::gelu)
        return _mm512_fmadd_ps(half, error_function(_mm512_mul_ps(x, _mm512_set1_ps(0.70710678118654752f))), half);
    // x/2 · (1 + tanh(y)) = x · logistic(2y), y = √(2/π) · (x + 0.044715 x³)
    const Floats16 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const Floats16 inner = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
    return _mm512_mul_ps(x, logistic(_mm512_mul_ps(inner, _mm512_set1_ps(2.0f * 0.79788456080286536f))));
}

template <Activation A>
struct Activated {
    float* to;
    size_t stride;
    void operator()(size_t row, size_t n, Floats16 value) const { store16(to + row * stride + n, activate<A>(value)); }
};

}  // namespace pellucid
