// Products of rows of activations with packed matrices, in float32 and in 8-bit integers.
//
// A matrix of K inputs and N outputs is packed in panels of 64 outputs; both sizes are padded with zeros to multiples of
// 64. Each output of a row is summed over k in one order, whatever the number of rows: what comes out for a row does not
// depend, to the last bit, on the rows beside it.
//
// float32: panel [K][64]. 8 bits: panel [K/4][64][4] signed, a scale for each output; activations are unsigned with a
// scale and a least value for each row, so a row is scaled by itself alone.

#pragma once

#include <algorithm>
#include <cstring>

#include "tiles.h"
#include "vectors.h"

namespace pellucid {

constexpr size_t PANEL = 64;
constexpr size_t TILE_ROWS = 6;      // 6 × 4 accumulators, 4 weights and an activation fit into the 32 registers
constexpr size_t LEAST_FOR_AMX = 7;  // rows: where fewer, the tile of six is as fast

struct Linear {
    const void* weight = nullptr;  // packed
    const float* scale = nullptr;  // [N], 8 bits only
    const float* sums = nullptr;   // [N] scale · Σ_k weight, 8 bits only: what a row's least value is multiplied by
    const float* bias = nullptr;   // [N]
    size_t inputs = 0, outputs = 0;  // padded
};

// Rows of activations: as floats, and where products are in 8 bits also as those.
struct Rows {
    const float* values;
    size_t stride;
    const uint8_t* bytes;
    size_t bytes_stride;
    const float* scale;
    const float* least;
};

// GCC 12 moves accumulators to memory and back when _mm512_dpbusd_epi32 is used (half the speed); with this it does not,
// as long as the tile is a function of its own that ends with storing them.
inline __m512i dot_bytes(__m512i sum, __m512i activations, __m512i weights) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(activations), "v"(weights));
    return sum;
}

template <int R>
[[gnu::noinline]] void tile_bytes(const uint8_t* rows, size_t stride, const int8_t* panel, size_t inputs, int32_t* out) {
    __m512i sums[R][4];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_si512();
    for (size_t k = 0; k < inputs; k += 4, panel += 4 * PANEL) {
        __m512i weights[4];
        for (int c = 0; c < 4; ++c) weights[c] = _mm512_loadu_si512(panel + 64 * c);
        if (R <= 2) _mm_prefetch(reinterpret_cast<const char*>(panel + 2048), _MM_HINT_T0);
        for (int r = 0; r < R; ++r) {
            int32_t four;
            std::memcpy(&four, rows + r * stride + k, 4);
            const __m512i activations = _mm512_set1_epi32(four);
            for (int c = 0; c < 4; ++c) sums[r][c] = dot_bytes(sums[r][c], activations, weights[c]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < 4; ++c) _mm512_storeu_si512(out + r * PANEL + 16 * c, sums[r][c]);
}

template <int R>
[[gnu::noinline]] void tile_floats(const float* rows, size_t stride, const float* panel, size_t inputs, float* out) {
    Floats16 sums[R][4];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_ps();
    for (size_t k = 0; k < inputs; ++k, panel += PANEL) {
        Floats16 weights[4];
        for (int c = 0; c < 4; ++c) weights[c] = _mm512_loadu_ps(panel + 16 * c);
        for (int r = 0; r < R; ++r) {
            const Floats16 activation = _mm512_set1_ps(rows[r * stride + k]);
            for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_fmadd_ps(activation, weights[c], sums[r][c]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < 4; ++c) _mm512_storeu_ps(out + r * PANEL + 16 * c, sums[r][c]);
}

inline void any_tile(size_t count, const uint8_t* rows, size_t stride, const int8_t* panel, size_t k, int32_t* out) {
    switch (count) {
        case 1: return tile_bytes<1>(rows, stride, panel, k, out);
        case 2: return tile_bytes<2>(rows, stride, panel, k, out);
        case 3: return tile_bytes<3>(rows, stride, panel, k, out);
        case 4: return tile_bytes<4>(rows, stride, panel, k, out);
        case 5: return tile_bytes<5>(rows, stride, panel, k, out);
        default: return tile_bytes<6>(rows, stride, panel, k, out);
    }
}

inline void any_tile(size_t count, const float* rows, size_t stride, const float* panel, size_t k, float* out) {
    switch (count) {
        case 1: return tile_floats<1>(rows, stride, panel, k, out);
        case 2: return tile_floats<2>(rows, stride, panel, k, out);
        case 3: return tile_floats<3>(rows, stride, panel, k, out);
        case 4: return tile_floats<4>(rows, stride, panel, k, out);
        case 5: return tile_floats<5>(rows, stride, panel, k, out);
        default: return tile_floats<6>(rows, stride, panel, k, out);
    }
}

// What a tile's sums stand for, in rows [first, end) of the product; the tile's own first row is `start`.
template <class Finish>
void finish_bytes(const Linear& linear, const Rows& rows, size_t n, const int32_t* integers, size_t start, size_t first, size_t end,
                  const Finish& finish) {
    Floats16 scale[4], sums[4], bias[4];
    for (size_t c = 0; c < 4; ++c) {
        scale[c] = load16(linear.scale + n + 16 * c);
        sums[c] = load16(linear.sums + n + 16 * c);
        bias[c] = load16(linear.bias + n + 16 * c);
    }
    for (size_t row = first; row < end; ++row) {
        const Floats16 row_scale = _mm512_set1_ps(rows.scale[row]), least = _mm512_set1_ps(rows.least[row]);
        for (size_t c = 0; c < 4; ++c) {
            const Floats16 sum = _mm512_cvtepi32_ps(_mm512_load_si512(integers + (row - start) * PANEL + 16 * c));
            const Floats16 from_least = _mm512_fmadd_ps(least, sums[c], bias[c]);
            finish(row, n + 16 * c, _mm512_fmadd_ps(_mm512_mul_ps(sum, scale[c]), row_scale, from_least));
        }
    }
}

// With AMX: blocks of rows of one height, two at a time. The last ones may overlap; each row is finished once.
template <class Finish>
void product_in_tiles(const Linear& linear, const Rows& rows, size_t count, const Finish& finish) {
    alignas(64) int32_t integers[2][16 * PANEL];
    const size_t blocks = (count + 31) / 32 * 2, height = (count + blocks - 1) / blocks;
    const Tiles tiles(height);
    const auto start = [&](size_t block) { return std::min(block * height, count - height); };
    for (size_t n = 0; n < linear.outputs; n += PANEL) {
        const int8_t* panel = static_cast<const int8_t*>(linear.weight) + n * linear.inputs;
        for (size_t block = 0; block < blocks; block += 2) {
            const size_t starts[2] = {start(block), start(block + 1)};
            tiles.multiply(rows.bytes + starts[0] * rows.bytes_stride, rows.bytes + starts[1] * rows.bytes_stride,
                           rows.bytes_stride, panel, linear.inputs, integers[0], integers[1]);
            for (size_t i = 0; i < 2; ++i)
                finish_bytes(linear, rows, n, integers[i], starts[i], (block + i) * height, starts[i] + height, finish);
        }
    }
}

// rows · matrix + bias; finish(row, output, sixteen values) says what becomes of it.
template <class Finish>
void product(const Linear& linear, const Rows& rows, size_t count, const Finish& finish) {
    if (linear.scale && count >= LEAST_FOR_AMX && uses_tiles()) return product_in_tiles(linear, rows, count, finish);
    alignas(64) float values[TILE_ROWS * PANEL];
    alignas(64) int32_t integers[TILE_ROWS * PANEL];
    for (size_t n = 0; n < linear.outputs; n += PANEL) {
        for (size_t first = 0; first < count; first += TILE_ROWS) {
            const size_t tile = count - first < TILE_ROWS ? count - first : TILE_ROWS;
            if (linear.scale) {
                const int8_t* panel = static_cast<const int8_t*>(linear.weight) + n * linear.inputs;
                any_tile(tile, rows.bytes + first * rows.bytes_stride, rows.bytes_stride, panel, linear.inputs, integers);
                finish_bytes(linear, rows, n, integers, first, first, first + tile, finish);
            } else {
                const float* panel = static_cast<const float*>(linear.weight) + n * linear.inputs;
                any_tile(tile, rows.values + first * rows.stride, rows.stride, panel, linear.inputs, values);
                for (size_t r = 0; r < tile; ++r)
                    for (size_t c = 0; c < PANEL; c += 16)
                        finish(first + r, n + c, _mm512_add_ps(load16(values + r * PANEL + c), load16(linear.bias + n + c)));
            }
        }
    }
}

struct Store {
    float* to;
    size_t stride;
    void operator()(size_t row, size_t n, Floats16 value) const { store16(to + row * stride + n, value); }
};

struct Add {
    float* to;
    size_t stride;
    void operator()(size_t row, size_t n, Floats16 value) const {
        float* place = to + row * stride + n;
        store16(place, _mm512_add_ps(load16(place), value));
    }
};

struct Multiply {
    float* to;
    size_t stride;
    void operator()(size_t row, size_t n, Floats16 value) const {
        float* place = to + row * stride + n;
        store16(place, _mm512_mul_ps(load16(place), value));
    }
};

}  // namespace pellucid
