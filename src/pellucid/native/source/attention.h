// Attention of single queries over keys and values, in two layouts.
//
// Own keys (the decoder's self-attention): a row for each position, keys then values, wherever it may lie. Beams share
// the rows of their common past, which are found through pointers; nothing is ever copied.
// Shared keys (encoder, cross-attention): a sentence's keys lie transposed in blocks of 16 positions, so that a block of
// scores is a sum of products without sums across lanes, and the queries of all its beams meet them together.
//
// T is float, or Half where the cache is kept in 16 bits. Sizes: H query heads, G key/value heads, D head size (a multiple
// of 16, C = D / 16), S positions. One query's result does not depend on the queries beside it.

#pragma once

#include <limits>

#include "rows.h"

namespace pellucid {

struct Heads {
    size_t queries = 0, keys = 0, size = 0;  // H, G, D
    float scale = 1.0f;
    size_t width() const { return queries * size; }        // of a query
    size_t key_width() const { return keys * size; }       // of a key, and of a value
    size_t in_group() const { return queries / keys; }     // queries that share a key
};

// Numbers of T that a sentence of S positions takes in the shared layout.
inline size_t shared_size(const Heads& heads, size_t positions) {
    return heads.key_width() * (round_up(positions, 16) + positions);
}

// exp(score - largest) in place; gives the sum. Lanes behind `count` become 0.
inline float softmax(float* scores, size_t count) {
    Floats16 largest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (size_t i = 0; i < count; i += 16) {
        if (count - i < 16) {
            const __mmask16 lanes = first_lanes(count - i);
            store16(scores + i, _mm512_mask_mov_ps(_mm512_set1_ps(-std::numeric_limits<float>::infinity()), lanes, load16(scores + i)));
        }
        largest = _mm512_max_ps(largest, load16(scores + i));
    }
    const Floats16 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    Floats16 sums = _mm512_setzero_ps();
    for (size_t i = 0; i < count; i += 16) {
        Floats16 weights = exponential(_mm512_sub_ps(load16(scores + i), top));
        if (count - i < 16) weights = _mm512_maskz_mov_ps(first_lanes(count - i), weights);
        store16(scores + i, weights);
        sums = _mm512_add_ps(sums, weights);
    }
    return _mm512_reduce_add_ps(sums);
}

// One query [H·D] over own keys: rows[p] are the keys [G·D], then the values [G·D], of position p < count.
// `scores` has room for `count` rounded up to 16.
template <int C, class T>
void attend_own(const Heads& heads, const float* query, const T* const* rows, size_t count, float* scores, float* out) {
    const size_t size = 16 * C;
    for (size_t head = 0; head < heads.queries; ++head) {
        const size_t key = head / heads.in_group() * size, value = heads.key_width() + key;
        Floats16 wanted[C];
        for (int c = 0; c < C; ++c) wanted[c] = load16(query + head * size + 16 * c);
        for (size_t first = 0; first < count; first += 16) {
            Floats16 products[16];
            for (size_t i = 0; i < 16; ++i) {
                const T* row = rows[std::min(first + i, count - 1)] + key;
                products[i] = _mm512_mul_ps(wanted[0], load16(row));
                for (int c = 1; c < C; ++c) products[i] = _mm512_fmadd_ps(wanted[c], load16(row + 16 * c), products[i]);
            }
            store16(scores + first, _mm512_mul_ps(sums_of_16(products), _mm512_set1_ps(heads.scale)));
        }
        const Floats16 inverse = _mm512_set1_ps(1.0f / softmax(scores, count));
        Floats16 sums[C];
        for (int c = 0; c < C; ++c) sums[c] = _mm512_setzero_ps();
        for (size_t p = 0; p < count; ++p) {
            const Floats16 weight = _mm512_set1_ps(scores[p]);
            for (int c = 0; c < C; ++c) sums[c] = _mm512_fmadd_ps(weight, load16(rows[p] + value + 16 * c), sums[c]);
        }
        for (int c = 0; c < C; ++c) store16(out + head * size + 16 * c, _mm512_mul_ps(sums[c], inverse));
    }
}

// Q queries of one group over its shared keys [S/16][D][16] and values [S][D].
template <int Q, class T>
void attend_tile(const float* const* queries, float* const* outs, const T* keys, const T* values, size_t positions,
                 size_t size, float scale, float* scores) {
    const size_t stride = round_up(positions, 16);
    for (size_t block = 0; block < stride; block += 16) {
        Floats16 sums[Q][4];  // four sums of each query, so that no product waits for the one before
        for (int q = 0; q < Q; ++q)
            for (int j = 0; j < 4; ++j) sums[q][j] = _mm512_setzero_ps();
        const T* key = keys + block * size;
        for (size_t d = 0; d < size; d += 4)
            for (int j = 0; j < 4; ++j) {
                const Floats16 column = load16(key + (d + j) * 16);
                for (int q = 0; q < Q; ++q)
                    sums[q][j] = _mm512_fmadd_ps(_mm512_set1_ps(queries[q][d + j]), column, sums[q][j]);
            }
        for (int q = 0; q < Q; ++q) {
            const Floats16 sum = _mm512_add_ps(_mm512_add_ps(sums[q][0], sums[q][1]), _mm512_add_ps(sums[q][2], sums[q][3]));
            store16(scores + q * stride + block, _mm512_mul_ps(sum, _mm512_set1_ps(scale)));
        }
    }
    Floats16 inverse[Q];
    for (int q = 0; q < Q; ++q) inverse[q] = _mm512_set1_ps(1.0f / softmax(scores + q * stride, positions));
    for (size_t c = 0; c < size; c += 64) {
        const size_t columns = std::min<size_t>(4, (size - c) / 16);
        Floats16 sums[Q][4];
        for (int q = 0; q < Q; ++q)
            for (int j = 0; j < 4; ++j) sums[q][j] = _mm512_setzero_ps();
        if (columns == 4) {
            for (size_t p = 0; p < positions; ++p)
                for (int j = 0; j < 4; ++j) {
                    const Floats16 value = load16(values + p * size + c + 16 * j);
                    for (int q = 0; q < Q; ++q)
                        sums[q][j] = _mm512_fmadd_ps(_mm512_set1_ps(scores[q * stride + p]), value, sums[q][j]);
                }
        } else {
            for (size_t p = 0; p < positions; ++p)
                for (size_t j = 0; j < columns; ++j) {
                    const Floats16 value = load16(values + p * size + c + 16 * j);
                    for (int q = 0; q < Q; ++q)
                        sums[q][j] = _mm512_fmadd_ps(_mm512_set1_ps(scores[q * stride + p]), value, sums[q][j]);
                }
        }
        for (int q = 0; q < Q; ++q)
            for (size_t j = 0; j < columns; ++j) store16(outs[q] + c + 16 * j, _mm512_mul_ps(sums[q][j], inverse[q]));
    }
}

// `count` queries [H·D], `stride` apart, over one sentence's shared keys and values. `scores` has room for 6 · S (rounded
// up to 16).
template <class T>
void attend_shared(const Heads& heads, const float* queries, size_t stride, size_t count, const T* shared,
                   size_t positions, float* scores, float* out, size_t out_stride) {
    const size_t size = heads.size, padded = round_up(positions, 16), in_group = heads.in_group();
    for (size_t group = 0; group < heads.keys; ++group) {
        const T* keys = shared + group * padded * size;
        const T* values = shared + heads.keys * padded * size + group * positions * size;
        const float* from[6];
        float* to[6];
        size_t waiting = 0;
        for (size_t item = 0; item < count * in_group; ++item) {
            const size_t row = item / in_group, head = group * in_group + item % in_group;
            from[waiting] = queries + row * stride + head * size;
            to[waiting++] = out + row * out_stride + head * size;
            if (waiting < 6 && item + 1 < count * in_group) continue;
            switch (waiting) {
                case 1: attend_tile<1>(from, to, keys, values, positions, size, heads.scale, scores); break;
                case 2: attend_tile<2>(from, to, keys, values, positions, size, heads.scale, scores); break;
                case 3: attend_tile<3>(from, to, keys, values, positions, size, heads.scale, scores); break;
                case 4: attend_tile<4>(from, to, keys, values, positions, size, heads.scale, scores); break;
                case 5: attend_tile<5>(from, to, keys, values, positions, size, heads.scale, scores); break;
                default: attend_tile<6>(from, to, keys, values, positions, size, heads.scale, scores); break;
            }
            waiting = 0;
        }
    }
}

// Lay out keys [S][G·D] and values [S][G·D], whose rows are `stride` apart, for attend_shared.
template <class T>
void share(const Heads& heads, const float* keys, const float* values, size_t stride, size_t positions, T* shared) {
    const size_t size = heads.size, padded = round_up(positions, 16);
    for (size_t group = 0; group < heads.keys; ++group) {
        T* block = shared + group * padded * size;
        for (size_t p = 0; p < padded; ++p)
            for (size_t d = 0; d < size; ++d) {
                T& place = block[(p / 16 * size + d) * 16 + p % 16];
                if (p < positions)
                    set(place, keys[p * stride + group * size + d]);
                else
                    place = T();
            }
        T* rows = shared + heads.keys * padded * size + group * positions * size;
        for (size_t p = 0; p < positions; ++p)
            for (size_t d = 0; d < size; d += 16) store16(rows + p * size + d, load16(values + p * stride + group * size + d));
    }
}

}  // namespace pellucid
