// The weights of an encoder-decoder Transformer, as packing.py lays them out. Nothing is copied: these are pointers into
// a file that is mapped from disk.

#pragma once

#include <stdexcept>

#include "attention.h"
#include "products.h"

namespace pellucid {

// Embeddings of tokens: rows of floats, rows of bytes with a scale each, or the rows of a packed output matrix in bytes.
struct Table {
    const void* rows = nullptr;
    const float* scale = nullptr;
    bool packed = false;
};

struct FeedForward {
    Linear up, gate, down;  // gate: of gated activations only
};

struct EncoderLayer {
    Linear queries_keys_values, output;
    Norm attention_norm;
    FeedForward feed_forward;
    Norm feed_forward_norm;
};

struct DecoderLayer {
    Linear queries_keys_values, output;
    Norm attention_norm;
    Linear cross_queries, cross_keys_values, cross_output;
    Norm cross_norm;
    FeedForward feed_forward;
    Norm feed_forward_norm;
};

struct Stack {
    Table table;
    Norm embedding_norm, last_norm;
};

// In the order of `NUMBERS` in engine.py; sizes as they are, heads padded to a multiple of 16.
struct Sizes {
    int64_t bytes, half_cache, hidden, encoder_layers, decoder_layers, heads, head_size, keys, cross_keys, inner;
    int64_t source_vocabulary, target_vocabulary, activation, gated, root_mean_square, pre, embedding_norm;
    int64_t source_packed, target_packed;
};

// In the order of `REALS` in engine.py.
struct Reals {
    double epsilon, embedding_scale, attention_scale, output_scale;
};

// The tensors of a file, in their order. What is there is compared with what will be read: a damaged file ends here.
class Tensors {
   public:
    Tensors(const void* const* places, const int64_t* bytes, int64_t count) : places_(places), bytes_(bytes), count_(count) {}

    const void* take(size_t needed) {
        if (next_ >= count_) throw std::invalid_argument("too few tensors");
        const void* place = places_[next_];
        if ((place ? static_cast<size_t>(bytes_[next_]) : 0) < needed) throw std::invalid_argument("a tensor is too small");
        ++next_;
        return place;
    }

    void end() const {
        if (next_ != count_) throw std::invalid_argument("too many tensors");
    }

   private:
    const void* const* places_;
    const int64_t* bytes_;
    int64_t count_, next_ = 0;
};

struct Model {
    Sizes sizes;
    Reals reals;
    size_t width;  // hidden, padded
    Heads self, cross;
    Stack source, target;
    std::vector<EncoderLayer> encoder;
    std::vector<DecoderLayer> decoder;
    Linear output;

    Model(const Sizes& given, const Reals& given_reals, Tensors given_tensors)
        : sizes(given), reals(given_reals), width(round_up(given.hidden, PANEL)), tensors(given_tensors) {
        const float scale = static_cast<float>(reals.attention_scale);
        const auto heads = static_cast<size_t>(sizes.heads), size = static_cast<size_t>(sizes.head_size);
        self = {heads, static_cast<size_t>(sizes.keys), size, scale};
        cross = {heads, static_cast<size_t>(sizes.cross_keys), size, scale};
        const size_t joined = self.width() + 2 * self.key_width();
        source = read_stack(sizes.source_vocabulary, sizes.source_packed);
        for (int64_t i = 0; i < sizes.encoder_layers; ++i) {
            EncoderLayer layer;
            layer.queries_keys_values = read_linear(width, joined);
            layer.output = read_linear(self.width(), width);
            layer.attention_norm = read_norm();
            layer.feed_forward = read_feed_forward();
            layer.feed_forward_norm = read_norm();
            encoder.push_back(layer);
        }
        target = read_stack(sizes.target_vocabulary, sizes.target_packed);
        for (int64_t i = 0; i < sizes.decoder_layers; ++i) {
            DecoderLayer layer;
            layer.queries_keys_values = read_linear(width, joined);
            layer.output = read_linear(self.width(), width);
            layer.attention_norm = read_norm();
            layer.cross_queries = read_linear(width, cross.width());
            layer.cross_keys_values = read_linear(width, 2 * cross.key_width());
            layer.cross_output = read_linear(cross.width(), width);
            layer.cross_norm = read_norm();
            layer.feed_forward = read_feed_forward();
            layer.feed_forward_norm = read_norm();
            decoder.push_back(layer);
        }
        output = read_linear(width, sizes.target_vocabulary);
        tensors.end();
    }

    const float* read(size_t count) { return static_cast<const float*>(tensors.take(count * sizeof(float))); }

    Linear read_linear(size_t inputs, size_t outputs) {
        Linear linear;
        linear.inputs = round_up(inputs, PANEL);
        linear.outputs = round_up(outputs, PANEL);
        linear.weight = tensors.take(linear.inputs * linear.outputs * (sizes.bytes ? 1 : sizeof(float)));
        linear.scale = read(sizes.bytes ? linear.outputs : 0);
        linear.sums = read(sizes.bytes ? linear.outputs : 0);
        linear.bias = read(linear.outputs);
        if (!sizes.bytes && linear.scale) throw std::invalid_argument("scales of numbers that have none");
        return linear;
    }

    Norm read_norm() {
        const float* gain = read(width);
        const float* shift = read(sizes.root_mean_square ? 0 : width);
        return {gain, shift, static_cast<float>(reals.epsilon)};
    }

    FeedForward read_feed_forward() {
        FeedForward block;
        block.up = read_linear(width, sizes.inner);
        if (sizes.gated) block.gate = read_linear(width, sizes.inner);
        block.down = read_linear(sizes.inner, width);
        return block;
    }

    Stack read_stack(size_t vocabulary, bool packed) {
        Stack stack;
        const size_t rows = packed ? round_up(vocabulary, PANEL) : vocabulary;
        stack.table.rows = tensors.take(rows * width * (sizes.bytes ? 1 : sizeof(float)));
        stack.table.scale = read(sizes.bytes ? rows : 0);
        stack.table.packed = packed;
        if (sizes.embedding_norm) stack.embedding_norm = read_norm();
        if (sizes.pre) stack.last_norm = read_norm();
        return stack;
    }

    // The embedding of a token, scaled, plus its position's vector (which may be null), into `to` [width].
    void embed(const Table& table, int64_t token, const float* position, float* to) const {
        const float factor = static_cast<float>(reals.embedding_scale);
        if (!sizes.bytes) {
            const float* row = static_cast<const float*>(table.rows) + token * width;
            for (size_t i = 0; i < width; i += 16) store16(to + i, _mm512_mul_ps(load16(row + i), _mm512_set1_ps(factor)));
        } else {
            const int8_t* row = static_cast<const int8_t*>(table.rows);
            const Floats16 scale = _mm512_set1_ps(table.scale[token] * factor);
            alignas(16) int8_t sixteen[16];
            for (size_t i = 0; i < width; i += 16) {
                if (table.packed) {  // panel [K/4][64][4]
                    const int8_t* panel = row + token / PANEL * PANEL * width + token % PANEL * 4;
                    for (size_t k = 0; k < 16; k += 4) std::memcpy(sixteen + k, panel + (i + k) * PANEL, 4);
                } else {
                    std::memcpy(sixteen, row + token * width + i, 16);
                }
                const __m512i numbers = _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(sixteen)));
                store16(to + i, _mm512_mul_ps(_mm512_cvtepi32_ps(numbers), scale));
            }
        }
        if (position)
            for (size_t i = 0; i < width; i += 16) store16(to + i, _mm512_add_ps(load16(to + i), load16(position + i)));
    }

   private:
    Tensors tensors;
};

}  // namespace pellucid
