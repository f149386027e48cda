// Sixteen floats at a time (AVX-512): exponential, sums across lanes, numbers of 16 bits. Knows nothing of models.

#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace pellucid {

using Floats16 = __m512;
using Half = uint16_t;  // IEEE 754 binary16, as bits

inline size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

inline Floats16 load16(const float* from) { return _mm512_loadu_ps(from); }
inline Floats16 load16(const Half* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline void store16(float* to, Floats16 value) { _mm512_storeu_ps(to, value); }
inline void store16(Half* to, Floats16 value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
inline float as_float(float value) { return value; }
inline float as_float(Half value) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(value))); }
inline void set(float& to, float value) { to = value; }
inline void set(Half& to, float value) {
    to = static_cast<Half>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT)));
}

// The first `count` (1 to 16) lanes.
inline __mmask16 first_lanes(size_t count) { return static_cast<__mmask16>((1u << count) - 1); }

// e^x to about one unit in the last place; 0 below -104, NaN stays NaN. Reduction and polynomial as in Cephes' expf.
inline Floats16 exponential(Floats16 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);  // in this order a NaN comes through
    x = _mm512_min_ps(_mm512_set1_ps(88.7f), x);
    const Floats16 power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
    Floats16 rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(-2.12194440e-4f), rest);
    Floats16 sum = _mm512_set1_ps(1.9875691500e-4f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.3981999507e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(8.3334519073e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(4.1665795894e-2f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.6666665459e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.0000001201e-1f));
    sum = _mm512_fmadd_ps(_mm512_mul_ps(rest, rest), sum, _mm512_add_ps(rest, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(sum, power);
}

// Lane i of the result is the sum of the lanes of v[i]; v is used up.
inline Floats16 sums_of_16(Floats16 (&v)[16]) {
    for (int i = 0; i < 8; ++i)
        v[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; ++i) {
        const __m512d one = _mm512_castps_pd(v[2 * i]), other = _mm512_castps_pd(v[2 * i + 1]);
        v[i] = _mm512_add_ps(
            _mm512_castpd_ps(_mm512_unpacklo_pd(one, other)), _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    for (int i = 0; i < 2; ++i)
        v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xDD));
    return _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xDD));
}

}  // namespace pellucid
